"""`provender upstream inputs`: what the rows before a time become."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from provender.plugin.console import console, print_table
from provender.plugin.home import Home
from provender.plugin.options import FORMAT, UtcTime, at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.world import World
from provender.producers.refresh import OnStage
from provender.producers.stages import stages
from provender.producers.upstream.feature_tables import FeatureRow, describe
from provender.producers.upstream.inputs_summary import inputs_json, inputs_summary
from provender.producers.upstream.tower_inputs import open_inputs
from provender.producers.upstream.tower_job import TowerJob
from provender.producers.upstream.tower_reading import read_tower_set


@click.command(epilog="Example: provender upstream inputs --home demo --as-of 2026-03-14")
@at_home
@click.option(
    "--as-of", type=UtcTime(), help="The cut.  [default: the last as-of date of the world file]"
)
@click.option(
    "--family", help="Which family of views.  [default: the only one that upstream towers produce]"
)
@click.option("--version", type=int, help="Of the family's views.  [default: the newest declared]")
@FORMAT
def inputs(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_of: datetime | None,
    family: str | None,
    version: int | None,
    form: str,
) -> None:
    """Show what a first refresh would learn from and see: rows, labels, features' coverage."""
    place = Home(home)
    world = World.load(world_path or place.world)
    views = views_in_repo(repo or place.repo)
    job = TowerJob.declare(
        world, data or place.data, place, views, "cpu", family=family, version=version
    )
    cut = as_of or world.dates.as_ofs()[-1]
    with stages(f"{cut:%Y-%m-%d}") as on_stage:
        report, features = look_at_inputs(job, cut, repo or place.repo, on_stage)
    if form == "json":
        console.print_json(json.dumps(inputs_json(report, features)))
        return
    for table in inputs_summary(report, features):
        print_table(table)


def look_at_inputs(
    job: TowerJob, as_of: datetime, repo: Path | None, on_stage: OnStage
) -> tuple[dict[str, Any], list[FeatureRow]]:
    """The report of what is read for a job's first refresh, and each feature's coverage.

    Nothing is kept. Raises as `read_tower_set` and `open_inputs` do.
    """
    training = job.config.training
    days = training.history_days
    with TemporaryDirectory() as work:
        on_stage("read logs", 0, 1, "")
        rows = read_tower_set(
            job.sources,
            job.world,
            job.data,
            Path(work) / "rows",
            as_of,
            start=as_of - timedelta(days=days) if days else None,
            seed=training.seed,
        )
        on_stage("read logs", 1, 1, "")
        on_stage("features", 0, 1, "")
        opened = open_inputs(rows, job.sources, None, repo, Path(work) / "scratch", training.seed)
        features = describe(opened.reader.fit(training.seed), opened.reader)
        on_stage("features", 1, 1, "")
    return rows.report, features
