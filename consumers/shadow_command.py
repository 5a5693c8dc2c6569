"""The command `provender shadow`: live and candidate, side by side, on requests as they were."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import click
from feast import FeatureStore
from rich.table import Table

from provender.consumers.impressions import load_impressions
from provender.consumers.logged_requests import LoggedRequest, logged_requests
from provender.consumers.ranker import load_ranker
from provender.consumers.ranker_choice import Choice, RankerChoice
from provender.consumers.shadow import ShadowLog, ShadowReport
from provender.plugin.console import console, log, progress
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import ReleaseError
from provender.plugin.families import views_of_version
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_home
from provender.plugin.ranker_stamp import read_stamps
from provender.plugin.releases import Releases
from provender.plugin.repo import open_store
from provender.plugin.world import World

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog="Example: provender shadow transra --home demo --version 2 --requests 500")
@click.argument("family", help="Whose views, such as transra.")
@at_home
@click.option("--version", type=int, help="Candidate.  [default: the canary's]")
@click.option("--live-ranker", type=_FILE, help="[default: the newest of the live version]")
@click.option("--candidate-ranker", type=_FILE, help="[default: the newest of the candidate]")
@click.option("--requests", default=200, show_default=True, help="Requests to replay.")
@click.option("--candidates", default=100, show_default=True, help="Pins in each.")
@click.option(
    "--at", type=UtcTime(), help="Time of the requests.  [default: the last as-of of the world]"
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of requests.")
def shadow(
    family: str,
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    version: int | None,
    live_ranker: Path | None,
    candidate_ranker: Path | None,
    requests: int,
    candidates: int,
    at: datetime | None,
    seed: int,
) -> None:
    """Score requests with the live version and with a candidate, and show how they differ.

    Rankers are found in HOME/rankers by what their checkpoints say they were trained on. Nothing
    is answered and nothing moves.
    """
    place = Home(home)
    world = World.load(world_path or place.world)
    store = open_store(repo or place.repo)
    releases = Releases.of(store)
    live, candidate = _versions(store, releases, family, version)
    paths = _paths(place.rankers, family, live, candidate, live_ranker, candidate_ranker)
    start, end = world.dates.evaluation()
    one, other = (
        _choice(store, releases, path, family, asked, at or start)
        for path, asked in zip(paths, (live, candidate), strict=True)
    )
    shown = load_impressions(world, data or place.data, start, end, end, place.runs / "impressions")
    report = _replayed(one, other, list(logged_requests(shown, requests, candidates, seed)))
    told = {
        "family": family,
        "live": {"version": live, "ranker": str(paths[0])},
        "candidate": {"version": candidate, "ranker": str(paths[1])},
        "at": (at or start).isoformat(),
        "report": report.model_dump(mode="json"),
    }
    path = place.reports / "shadow.json"
    write_whole(path, json.dumps(told, indent=2).encode())
    console.print(_table(report, family, live, candidate))
    if report.failures:
        console.print(f"{report.failures} requests failed, the first: {report.first_failure}")
    log.print(f"written to {path}")


def _versions(
    store: FeatureStore, releases: Releases, family: str, version: int | None
) -> tuple[int, int]:
    """Return the live version and the candidate."""
    specs = embedding_specs(store)
    state = releases.current(family)
    candidate = version or (state.candidate if state else None)
    if candidate is None:
        raise ReleaseError(
            f"shadow of family {family}",
            found="no candidate",
            expected="a version to compare with what is live",
            remedy=f"Name it with --version, or let it have a share of the requests: `provender "
            f"release canary {family} VERSION`.",
        )
    views_of_version(specs, family, candidate)
    if state is None or state.live is None:
        raise ReleaseError(
            f"shadow of family {family}",
            found="no version live",
            expected=f"one to compare version {candidate} with",
            remedy=f"Let one serve: `provender release promote {family} VERSION`.",
        )
    return state.live, candidate


def _paths(
    folder: Path,
    family: str,
    live: int,
    candidate: int,
    live_ranker: Path | None,
    candidate_ranker: Path | None,
) -> tuple[Path, Path]:
    """Return the rankers of both sides; the live one's, where the candidate has none."""
    of_live = live_ranker or newest_ranker(folder, family, live)
    if of_live is None:
        raise _no_ranker(folder, family, live, "--live-ranker")
    return of_live, candidate_ranker or newest_ranker(folder, family, candidate) or of_live


def newest_ranker(folder: Path, family: str, version: int) -> Path | None:
    """Return the ranker last trained on one version of a family and on no other, if any."""
    stamps = {
        path: stamp
        for path, stamp in read_stamps(folder).items()
        if {spec.version for spec in stamp.specs_of(family)} == {version}
    }
    return max(stamps, key=lambda path: (stamps[path].trained_at, path), default=None)


def _choice(
    store: FeatureStore, releases: Releases, path: Path, family: str, version: int, now: datetime
) -> Choice:
    rankers = RankerChoice(store, [load_ranker(path)], releases.online, now=now)
    states = releases.states()
    wanted = {**{name: each.live for name, each in states.items()}, family: version}
    choice = rankers.of(wanted, states)
    if choice is None or choice.assignment.versions.get(family) != version:
        raise _no_ranker(path.parent, family, version, "--candidate-ranker")
    return choice


def _no_ranker(folder: Path, family: str, version: int, option: str) -> ReleaseError:
    return ReleaseError(
        f"shadow of family {family}",
        found=f"no ranker in {folder} that reads version {version}",
        expected="one that was trained on it, or that accepts it and may read it",
        remedy=f"Train one with `provender rank --service SERVICE`, or name it with {option}.",
    )


def _replayed(live: Choice, candidate: Choice, requests: list[LoggedRequest]) -> ShadowReport:
    # What opens connections and maps files is nobody's latency.
    _replay(ShadowLog(), live, candidate, requests[:1])
    compared = ShadowLog()
    with progress() as bar:
        task = bar.add_task("replay requests", total=len(requests), note="")
        for request in requests:
            _replay(compared, live, candidate, [request])
            bar.advance(task)
    return compared.report()


def _replay(
    compared: ShadowLog, live: Choice, candidate: Choice, requests: Iterable[LoggedRequest]
) -> None:
    for request in requests:
        ours = live.score(request.user, request.pins, request.context)
        try:
            theirs = candidate.score(request.user, request.pins, request.context)
        except Exception as error:  # It would have harmed no answer; the report says how many.
            compared.failed(error)
        else:
            compared.add(ours, theirs)


def _table(report: ShadowReport, family: str, live: int, candidate: int) -> Table:
    table = Table(
        title=f"{family} v{candidate} beside v{live}: {report.requests:,} requests, "
        f"{report.candidates:,} candidates",
        show_edge=False,
    )
    for column in ("", f"v{live}, live", f"v{candidate}", "difference"):
        table.add_column(column, justify="left" if not column else "right")
    ours, theirs = report.live, report.candidate
    means = [_number(side.mean_score) for side in (ours, theirs)]
    table.add_row("mean p(click)", *means, _number(report.shift, "+.4f"))
    for name, label in (("mean", "mean"), ("p95", "95 % below"), ("max", "at most")):
        table.add_row(f"apart, {label}", "", "", _number(report.difference[name]))
    table.add_row("rank correlation", "", "", _number(report.rank_correlation))
    table.add_row(f"best {report.top} in common", "", "", _number(report.top_overlap))
    for name in ("p50", "p99"):
        taken = [_number(side.milliseconds[name], ".1f") for side in (ours, theirs)]
        table.add_row(f"ms a request, {name}", *taken, "")
    missing = [_by_name(side.missing) for side in (ours, theirs)]
    for view in missing[0]:
        table.add_row(f"no {view}", *(str(side.get(view, "–")) for side in missing), "")
    return table


def _number(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else format(value, form)


def _by_name(missing: dict[str, int]) -> dict[str, int]:
    """Counts by the views' names without their versions."""
    return {view.rpartition("_v")[0]: count for view, count in missing.items()}
