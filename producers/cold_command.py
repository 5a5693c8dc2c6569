"""`provender cold`: vectors for what came since the last refresh, online within the minute."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import click
from rich.table import Table

from provender.plugin.console import console
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.world import World
from provender.producers.cold import Cold, Supplement, supplement
from provender.producers.job import Job
from provender.producers.online_refresh import Loaded, OnlineRefresh
from provender.producers.shipped import check_transra
from provender.producers.stages import stages, tell_bad_rows


@click.command(epilog="Example: provender cold transra --home demo --as-of 2026-03-14T13:00")
@click.argument("family", help="Whose views, such as transra.")
@at_home
@click.option(
    "--as-of", type=UtcTime(), required=True, help="What is known before this time counts."
)
@click.option("--version", type=int, help="Of the family's views.  [default: the newest declared]")
@click.option("--dry-run", is_flag=True, help="Count, and publish nothing.")
def cold(
    family: str,
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_of: datetime,
    version: int | None,
    dry_run: bool,
) -> None:
    """Give vectors to users and pins that the last refresh has not seen.

    They are placed by their first links and their content, with all that the refresh has learned
    held fixed, published as a supplement beside its snapshots and taken online. To be run every
    hour or so; the next refresh learns them with all others.
    """
    place = Home(home)
    views = views_in_repo(repo or place.repo)
    instead = {
        "linksage": "`provender linksage stream` embeds pages as they are crawled.",
        "upstream": "New users and pins get a vector at the next `provender refresh`.",
    }
    check_transra(views, family, instead)
    job = Job.declare(
        World.load(world_path or place.world),
        data or place.data,
        place,
        views,
        family=family,
        version=version,
    )
    online = OnlineRefresh(repo or place.repo)
    for spec in job.specs:
        online.check_registered(spec, place.snapshots)
    with stages(f"{as_of:%Y-%m-%d %H:%M}") as on_stage:
        done = supplement(job, as_of, on_stage, dry_run=dry_run)
    tell_bad_rows(done.events)
    written = {spec: done.views[spec.view_name].snapshot for spec in job.specs}
    loaded = {spec.view_name: online.load(spec, new) for spec, new in written.items() if new}
    console.print(_table(job, as_of, done, loaded))


def _table(job: Job, as_of: datetime, done: Cold, loaded: Mapping[str, Loaded]) -> Table:
    title = f"{job.family}, version {job.version}, as of {as_of:%Y-%m-%d %H:%M}"
    since = f"not in the refresh as of {done.base.as_of:%Y-%m-%d %H:%M}"
    table = Table("view", since, "placed now", "online", title=title, show_edge=False)
    for name, found in done.views.items():
        table.add_row(name, f"{found.unseen:,}", _placed(found), _online(loaded.get(name)))
    return table


def _placed(found: Supplement) -> str:
    if found.done_before:
        return f"{found.rows:,}, done before"
    return f"{found.rows:,}" if found.snapshot or not found.rows else f"{found.rows:,}, dry run"


def _online(loaded: Loaded | None) -> str:
    if loaded is None:
        return "-"
    return loaded.done if loaded.rows is None else f"{loaded.rows:,} rows, {loaded.done}"
