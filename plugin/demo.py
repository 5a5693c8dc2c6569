"""The whole path as a newcomer's first command: each step is a command the user can give alone.

provender demo
provender demo --world completejourney --data path/to/completejourney
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import click
from feast.cli.cli import cli as feast_cli
from rich.table import Table

from provender.plugin.cli import main
from provender.plugin.console import console, log
from provender.plugin.errors import ConfigError
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.online_store import is_ours
from provender.plugin.releases import Releases
from provender.plugin.repo import lay_out, open_store, standing_in
from provender.plugin.world import World

SIMULATED = "simulator"
#: The views that the repo that ships declares.
FAMILY = "transra"


@click.command(
    epilog="Example: provender demo --home demo --world retailrocket --data ~/retailrocket_mb"
)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder that takes everything: events, snapshots, the feature repo, reports.",
)
@click.option(
    "--world",
    "world_name",
    default=SIMULATED,
    show_default=True,
    help="simulator, completejourney, retailrocket, or the path of a world file of your own.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the world's data; the simulator makes its own.",
)
@click.option("--users", default=3000, show_default=True, help="Simulated users.")
@click.option("--pins", default=3000, show_default=True, help="Simulated pins.")
@click.option("--days", default=14, show_default=True, help="Simulated days.")
@click.option("--seed", default=7, show_default=True, help="Seed of the simulated world.")
@click.option("--seeds", default=5, show_default=True, help="Rankers trained with, and without.")
@click.option("--candidates", default=500, show_default=True, help="Pins in the ranking request.")
def demo(
    home: Path,
    world_name: str,
    data: Path | None,
    users: int,
    pins: int,
    days: int,
    seed: int,
    seeds: int,
    candidates: int,
) -> None:
    """Walk the whole path: event logs, TransRA, Feast, a release, rankers, one ranked request.

    Run it again and it goes on where it was stopped; what is done is not done again.
    """
    started = time.perf_counter()
    place = Home(home)
    repo = place.repo
    if lay_out(repo):
        log.print(f"laid out the feature repo in {repo}")
    chosen = _find_world(repo, world_name)
    if data is None and world_name != SIMULATED:
        raise ConfigError(
            f"world {world_name}",
            found="no data",
            expected="the folder of its files",
            remedy="Give it with --data FOLDER.",
        )
    world = World.load(chosen)
    for section, declared in (
        (world.linksage, "page_views.py"),
        (world.upstream, "upstream_views.py"),
    ):
        if not section:
            _leave_out(repo / declared)
    _settle(chosen, place)
    if data is None:
        data = place.data
        sizes = ["--users", users, "--pins", pins, "--days", days, "--seed", seed]
        _provender("simulate", "--out", place.simulation, *sizes)
    at_home = ["--home", home, "--data", data]
    _feast(repo, "apply")  # first: upstream towers look at other views through Feast
    _provender("produce", *at_home)
    _provender("evaluate", *at_home)
    _feast(repo, "materialize", *_span(world))
    _release(place, world)
    # The logs are old and the snapshots of today: their history is a backfill.
    _provender("rank", *at_home, "--seeds", seeds, "--backfills")
    _provender("request", *at_home, "--candidates", candidates)
    _summary(home, time.perf_counter() - started)


def _leave_out(declared: Path) -> None:
    """Remove views that the world has nothing for, unless somebody has made them his own."""
    shipped = files("provender.feature_repo") / declared.name
    if declared.is_file() and declared.read_bytes() == shipped.read_bytes():
        declared.unlink()


def _find_world(repo: Path, name: str) -> Path:
    """Return the file of a world that ships with the repo, or of the user's own."""
    shipped = repo / "worlds" / f"{name}.yaml"
    chosen = shipped if shipped.is_file() else Path(name)
    if not chosen.is_file():
        known = sorted(path.stem for path in (repo / "worlds").glob("*.yaml"))
        raise ConfigError(
            "--world",
            found=repr(name),
            expected=f"one of {', '.join(known)}, or the path of a world file",
            remedy="See `provender demo --help`.",
        )
    return chosen


def _settle(chosen: Path, place: Home) -> None:
    """Keep the world that the home is made with: one home never mixes two data sets."""
    if not place.world.exists():
        write_whole(place.world, chosen.read_bytes())
    elif place.world.read_bytes() != chosen.read_bytes():
        raise ConfigError(
            f"home {place.path}",
            found=f"the world of another run in {place.world}",
            expected=f"{chosen}, or an empty home",
            remedy="Give another folder with --home, or remove this one.",
        )


def _span(world: World) -> tuple[str, str]:
    """Return the times between which `feast materialize` finds every refresh."""
    as_ofs = world.dates.as_ofs()
    first, last = as_ofs[0] - timedelta(days=1), as_ofs[-1] + timedelta(seconds=1)
    return first.strftime("%Y-%m-%dT%H:%M:%S"), last.strftime("%Y-%m-%dT%H:%M:%S")


def _release(place: Home, world: World) -> None:
    """Let the first version serve, where none does yet: what is live is not the demo's to move."""
    store = open_store(place.repo)
    if is_ours(store.config) and Releases.of(store).current(FAMILY) is None:
        at = f"{world.dates.as_ofs()[-1]:%Y-%m-%dT%H:%M:%S}"
        _provender("release", "promote", FAMILY, 1, "--home", place.path, "--at", at)


def _provender(*arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    _announce("provender", words)
    main.main(args=words, prog_name="provender", standalone_mode=False)


def _feast(repo: Path, *arguments: str) -> None:
    _announce(f"cd {repo} && feast", arguments)
    with standing_in(repo):
        try:
            feast_cli.main(args=list(arguments), prog_name="feast", standalone_mode=False)
        except SystemExit as stop:
            if stop.code:
                raise click.ClickException(f"feast {arguments[0]} stopped") from None
        finally:
            # Feast prints, rich writes to standard error: keep them in their order in a pipe.
            sys.stdout.flush()


def _announce(program: str, words: Sequence[str]) -> None:
    log.print(f"\n[bold]$ {program} {shlex.join(words)}[/bold]", highlight=False)


def _summary(home: Path, seconds: float) -> None:
    """Print the small table: what the embeddings are worth, and what a request costs."""
    lift = json.loads((home / "reports" / "lift.json").read_text())
    request = json.loads((home / "reports" / "request.json").read_text())
    table = Table(title="provender demo", show_edge=False)
    for column in ("", "without", "with embeddings", "difference (95% interval)"):
        table.add_column(column, justify="left" if not column else "right")
    for row in lift["table"]:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"one request, {request['candidates']} candidates: "
        f"{request['milliseconds']:.1f} ms at the median, "
        f"of which fetch {request['fetch_milliseconds']:.1f} ms"
    )
    rows, size = _rows_and_bytes(home / "snapshots")
    console.print(f"snapshots: {rows:,} rows, {size / 2**20:.1f} MiB; all in {seconds:.0f} s")
    console.print(f"Next: cd {home / 'feature_repo'} && feast feature-views list")


def _rows_and_bytes(snapshots: Path) -> tuple[int, int]:
    manifests = [json.loads(path.read_text()) for path in snapshots.glob("*/*/_manifest.json")]
    files = [file for manifest in manifests for file in manifest["files"]]
    return sum(file["rows"] for file in files), sum(file["bytes"] for file in files)
