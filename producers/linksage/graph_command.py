"""`provender linksage graph`: what the rows before a time become."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from provender.plugin.console import log, print_table
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.world import World
from provender.producers.linksage.dropped_rows import REPEATED, dropped_rows
from provender.producers.linksage.features import compute_features
from provender.producers.linksage.graph_summary import graph_summary
from provender.producers.linksage.page_graph import build_graph
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_tables import read_page_set
from provender.producers.stages import stages


@click.command(epilog="Example: provender linksage graph --home demo --as-of 2026-03-14")
@at_home
@click.option(
    "--as-of", type=UtcTime(), help="The cut.  [default: the last as-of date of the world file]"
)
@click.option(
    "--family", help="Which family of views.  [default: the only one that LinkSage produces]"
)
@click.option("--version", type=int, help="Of the family's views.  [default: the newest declared]")
def graph(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_of: datetime | None,
    family: str | None,
    version: int | None,
) -> None:
    """Show the graph that neighbours are found in: nodes, edges, degrees, near duplicates."""
    place = Home(home)
    world = World.load(world_path or place.world)
    views = views_in_repo(repo or place.repo)
    job = PageJob.declare(
        world, data or place.data, place, views, "cpu", family=family, version=version
    )
    cut = as_of or world.dates.as_ofs()[-1]
    with TemporaryDirectory() as work, stages(f"{cut:%Y-%m-%d}") as on_stage:
        on_stage("read pages", 0, 1, "")
        rows = read_page_set(
            job.sources,
            world.tables,
            job.data,
            Path(work) / "rows",
            key_types=job.key_types,
            as_of=cut,
        )
        on_stage("read pages", 1, 1, "")
        on_stage("graph", 0, 1, "")
        features = compute_features(rows, job.config.features, Path(work) / "features")
        built = build_graph(rows, features, job.config.graph)
        on_stage("graph", 1, 1, "")
    for line in dropped_rows(rows.report, but=REPEATED):
        log.print(line, style="yellow")
    for table in graph_summary(built.report):
        print_table(table)
