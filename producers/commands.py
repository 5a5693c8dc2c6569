"""The producers' commands: simulate, produce, evaluate."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import click
from rich.table import Table

from provender.plugin.console import console, log, progress
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.options import FOLDER, UtcTime, at_home
from provender.plugin.repo import DeclaredView, views_in_repo
from provender.plugin.snapshot import find_snapshots
from provender.plugin.world import World
from provender.producers.dgl_graph import summarise
from provender.producers.evaluation import EvaluationReport, next_day
from provender.producers.event_mapping import EventMapping
from provender.producers.event_set import EventSet
from provender.producers.events import read_window
from provender.producers.followers import over_ranks
from provender.producers.graph import TripleGraph
from provender.producers.job import Job
from provender.producers.kg_command import kg
from provender.producers.linksage.evaluate_command import linksage
from provender.producers.refresh import (
    LOG,
    Refresh,
    parent_of,
    read_graph,
    restore,
)
from provender.producers.shipped import (
    AnyJob,
    check_transra,
    compute,
    declare,
    families_shipped,
    numbers_of_family,
)
from provender.producers.simulator import simulate as simulate_world
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.stages import stages, tell_bad_rows
from provender.producers.training_curves import draw
from provender.producers.training_log import read_metrics
from provender.producers.upstream.evaluate_command import upstream
from provender.producers.version_job import run_id_of

_FAMILY = click.option(
    "--family", help="Which family of views.  [default: the only one that TransRA produces]"
)
_VERSION = click.option(
    "--version", type=int, help="Of the family's views.  [default: the newest declared]"
)


@click.command(epilog="Example: provender simulate --out world --users 3000 --pins 3000 --days 14")
@click.option("--out", type=FOLDER, default=Path("world"), show_default=True, help="New folder.")
@click.option("--users", default=3000, show_default=True, help="Users on the first morning.")
@click.option("--pins", default=3000, show_default=True, help="Pins (ads) on the first morning.")
@click.option("--days", default=14, show_default=True, help="Days to simulate.")
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same bytes.")
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2026-03-01",
    show_default=True,
    help="First day.",
)
@click.option(
    "--impressions",
    default=25.0,
    show_default=True,
    help="Mean impressions of a user a day.",
)
def simulate(
    out: Path, users: int, pins: int, days: int, seed: int, start: date, impressions: float
) -> None:
    """Write a simulated ads world: impressions, engagements, offsite conversions, hidden truth.

    Memory is bounded by users and pins, not by days: a hundred million impressions can be made.
    """
    config = SimulatorConfig.parse(
        {
            "users": users,
            "pins": pins,
            "days": days,
            "seed": seed,
            "start": start.date() if isinstance(start, datetime) else start,
            "impressions_per_user": impressions,
        }
    )
    with progress() as bar:
        task = bar.add_task("simulate", total=None, note="")
        report = simulate_world(
            config, out, lambda done, total: bar.update(task, completed=done, total=total)
        )
    told = ", ".join(f"{report.counts[name]:,} {name}" for name in ("impressions", "conversions"))
    console.print(f"{told}; click rate {report.rates['click_rate']:.2%} -> {out}")


@click.command(epilog="Example: provender produce --home demo --as-of 2026-03-14")
@at_home
@click.option(
    "--as-of",
    "as_ofs",
    type=UtcTime(),
    multiple=True,
    help="Compute embeddings from the events before this time; may be given several times.  "
    "[default: the dates of the world file]",
)
@click.option(
    "--family",
    "families",
    multiple=True,
    help="Which family of views; may be given several times.  [default: all that can be produced]",
)
@click.option(
    "--version",
    "numbers",
    type=int,
    multiple=True,
    help="Of the families' views; may be given several times.  [default: every declared version]",
)
@click.option(
    "--days",
    type=click.IntRange(min=1),
    help="As of so many days, one after the other: a backfill that ends with --as-of.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@over_ranks
def produce(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_ofs: tuple[datetime, ...],
    families: tuple[str, ...],
    numbers: tuple[int, ...],
    days: int | None,
    device: str,
) -> None:
    """Train TransRA, LinkSage and upstream towers, and write the snapshots of all their views.

    A run that was stopped is found again and goes on; what is done is not done again. Nothing is
    asked of the vectors and nothing goes online: this is for first histories and backfills, while
    `provender refresh` renews what is in use.
    """
    place = _Place.at(home, world_path, data, repo)
    as_ofs = _backfilled(as_ofs, days)
    jobs = [
        place.any_job(family, number, device)
        for family, number in _chosen(place, sorted(set(families)), sorted(set(numbers)))
    ]
    several = len({job.family for job in jobs}) > 1
    done: list[tuple[Refresh, float]] = []
    for job in jobs:
        for as_of in sorted(as_ofs) or _dates(job):
            started = time.perf_counter()
            title = f"{as_of:%Y-%m-%d} {job.family}" if several else f"{as_of:%Y-%m-%d}"
            with stages(title, job.version if len(jobs) > 1 else None) as on_stage:
                result = compute(job, as_of, on_stage)
            done.append((result, time.perf_counter() - started))
            tell_bad_rows(result.events)
    console.print(_refreshes(done))


def _backfilled(as_ofs: tuple[datetime, ...], days: int | None) -> tuple[datetime, ...]:
    """The days up to an as-of time, or what was given."""
    if days is None:
        return as_ofs
    if len(as_ofs) != 1:
        raise click.UsageError("--days needs one --as-of: the last of the days")
    return tuple(as_ofs[0] - timedelta(days=each) for each in range(days))


def _chosen(place: _Place, families: list[str], numbers: list[int]) -> list[tuple[str, int]]:
    """The versions to produce: of families that nobody has named, those that have the number."""
    declared = {
        each: numbers_of_family(place.views, each)
        for each in families or families_shipped(place.views, place.world)
    }
    somewhere = {number for versions in declared.values() for number in versions}
    return [
        (family, number)
        for family, versions in declared.items()
        for number in numbers or versions
        # What no family has is asked for all the same: the refusal says what there is.
        if families or number in versions or number not in somewhere
    ]


def _dates(job: AnyJob) -> list[datetime]:
    """The world's dates; of an anchored version, those with something to be anchored to."""
    dates = job.world.dates.as_ofs()
    if job.anchored_to is None:
        return dates
    views = [
        f"{spec.name}_v{number}" for spec in job.specs for number in (spec.version, job.anchored_to)
    ]
    known = [s.manifest.as_of for view in views for s in find_snapshots(job.home.snapshots, view)]
    left = [date for date in dates if known and date > min(known)]
    if not left:
        return dates  # And the first of them says what is missing.
    for early in dates[: len(dates) - len(left)]:
        log.print(
            f"version {job.version} as of {early:%Y-%m-%d} is left out: version {job.anchored_to}, "
            "which it is anchored to, has no earlier snapshot"
        )
    return left


@click.command(epilog="Example: provender graph --home demo --as-of 2026-03-14")
@at_home
@click.option(
    "--as-of", type=UtcTime(), help="The cut.  [default: the last as-of date of the world file]"
)
@_FAMILY
@_VERSION
def graph(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_of: datetime | None,
    family: str | None,
    version: int | None,
) -> None:
    """Show what the events before a time become: rows, edges, and who has any."""
    place = _Place.at(home, world_path, data, repo)
    instead = {
        "linksage": "`provender linksage graph` shows theirs.",
        "upstream": "`provender upstream inputs` shows what they see.",
    }
    check_transra(place.views, family, instead)
    job = place.job(family, version, "cpu")
    cut = as_of or job.world.dates.as_ofs()[-1]
    with stages(f"{cut:%Y-%m-%d}") as on_stage:
        events, built = read_graph(job, cut, job.home.runs / "graph", on_stage)
    tell_bad_rows(events)
    console.print(_summary(events, built))


@click.group(invoke_without_command=True, epilog="Example: provender evaluate --home demo")
@at_home
@_FAMILY
@_VERSION
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.pass_context
def evaluate(
    context: click.Context,
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    family: str | None,
    version: int | None,
    device: str,
) -> None:
    """Predict the links of the days after the last as-of date, beside popularity and chance."""
    if context.invoked_subcommand is not None:
        return
    place = _Place.at(home, world_path, data, repo)
    next_one = "`provender refresh` judges each refresh by the next, as `provender lineage` shows; "
    instead = {
        "linksage": f"{next_one}`provender evaluate linksage` judges a page set given as files.",
        "upstream": "`provender evaluate upstream` judges its towers by later days.",
    }
    check_transra(place.views, family, instead)
    job = place.job(family, version, device)
    start, end = job.world.dates.evaluation()
    with stages("evaluate") as on_stage:
        trained = restore(job, start, on_stage)
        mapping = EventMapping.from_world(job.world)
        work = job.home.runs / "evaluation"
        window = read_window(mapping, job.data, trained.events, end, work)
        on_stage("rank", 0, 1, "")
        report = next_day(trained.parameters, trained.graph, window)
        on_stage("rank", 1, 1, "")
    path = job.home.reports / "evaluation.json"
    told = {
        "family": job.family,
        "version": job.version,
        "from": start.isoformat(),
        "to": end.isoformat(),
        "metrics": report.metrics(),
    }
    write_whole(path, json.dumps(told, indent=2).encode())
    picture = path.with_suffix(".png")
    figure = "recall@100"
    bars = {
        one.relation: {
            who: ranking.recall[100]
            for who, ranking in (("model", one.model), ("popularity", one.popularity))
        }
        for one in report.relations
    }
    run = job.home.runs / run_id_of(job, start, parent_of(job, start))
    draw(picture, read_metrics(run / LOG), bars, figure)
    console.print(_ranked(report, start, end))
    log.print(f"written to {path} and {picture.name}")


evaluate.add_command(kg)
evaluate.add_command(linksage)
evaluate.add_command(upstream)


@dataclass(frozen=True)
class _Place:
    """What the options say of where to work."""

    home: Home
    world: World
    data: Path
    repo: Path
    views: list[DeclaredView]

    @classmethod
    def at(
        cls, home: Path, world_path: Path | None, data: Path | None, repo: Path | None
    ) -> _Place:
        place = Home(home)
        world = World.load(world_path or place.world)
        chosen = repo or place.repo
        return cls(place, world, data or place.data, chosen, views_in_repo(chosen))

    def job(self, family: str | None, version: int | None, device: str) -> Job:
        return Job.declare(
            self.world, self.data, self.home, self.views, device, family=family, version=version
        )

    def any_job(self, family: str, version: int, device: str) -> AnyJob:
        return declare(
            self.world,
            self.data,
            self.home,
            self.views,
            device,
            family=family,
            version=version,
            repo=self.repo,
        )


def _summary(events: EventSet, built: TripleGraph) -> Table:
    table = Table(title=f"graph as of {events.as_of:%Y-%m-%d %H:%M}", show_edge=False)
    for column in ("relation", "", "rows", "edges", "heads", "tails"):
        table.add_column(column, justify="right" if column in ("rows", "edges") else "left")
    for one in summarise(built):
        table.add_row(
            one.name,
            f"{one.head} → {one.tail}",
            f"{events.report.events[one.name].kept:,}",
            f"{one.edges:,}",
            f"{one.heads:,}/{built.counts[one.head]:,}",
            f"{one.tails:,}/{built.counts[one.tail]:,}",
        )
    return table


def _refreshes(done: Sequence[tuple[Refresh, float]]) -> Table:
    table = Table(title="snapshots", show_edge=False)
    for column in ("as of", "view", "rows", "edges", "seconds", "run, by its digest"):
        table.add_column(column)
    for result, seconds in done:
        for snapshot in result.snapshots:
            manifest = snapshot.manifest
            table.add_row(
                f"{result.as_of:%Y-%m-%d}",
                manifest.view,
                f"{manifest.rows:,}",
                "-" if (edges := manifest.metrics.get("edges")) is None else f"{edges:,.0f}",
                "done before" if result.done_before else f"{seconds:.1f}",
                result.run_id.rpartition("-")[2],
            )
    return table


def _ranked(report: EvaluationReport, start: datetime, end: datetime) -> Table:
    title = f"links of {start:%Y-%m-%d} to {end:%Y-%m-%d}, among all candidates"
    table = Table(title=title, show_edge=False)
    for column in ("relation", "pairs", "", "MRR", "Hits@10", "Recall@100"):
        table.add_column(column)
    for one in report.relations:
        for who in ("model", "popularity", "random"):
            ranking = getattr(one, who)
            first = (one.relation, f"{one.pairs:,}") if who == "model" else ("", "")
            figures = (ranking.mrr, ranking.hits[10], ranking.recall[100])
            table.add_row(*first, who, *(f"{figure:.4f}" for figure in figures))
    return table
