"""The producers that provender ships, by the name that views give: what starts a job of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.world import World
from provender.producers import job as transra_job
from provender.producers import refresh as transra
from provender.producers.declared_versions import families_of, versions_of, views_of_family
from provender.producers.linksage import page_job
from provender.producers.publish import Gate
from provender.producers.refresh import OnStage, Refresh
from provender.producers.upstream import tower_job

AnyJob = transra_job.Job | page_job.PageJob | tower_job.TowerJob
#: By producer, in the order in which they are run: towers may look at the others' vectors.
JOBS: dict[str, type[transra_job.Job] | type[page_job.PageJob] | type[tower_job.TowerJob]] = {
    each.producer: each for each in (transra_job.Job, page_job.PageJob, tower_job.TowerJob)
}
PRODUCERS = tuple(JOBS)


def declare(
    world: World,
    data: Path,
    home: Home,
    views: Sequence[DeclaredView],
    device: str = "auto",
    *,
    family: str,
    version: int | None = None,
    repo: Path | None = None,
) -> AnyJob:
    """Put together the job of one version of a family, of whichever producer it has.

    Raises ConfigError and MappingError as the jobs' own `declare` do, and for other producers.
    """
    kind = JOBS[producer_of(views, family)]
    job = kind.declare(world, data, home, views, device, family=family, version=version)
    return replace(job, repo=repo)


def compute(
    job: AnyJob,
    as_of: datetime,
    on_stage: OnStage,
    gate: Gate | None = None,
    *,
    dry_run: bool = False,
) -> Refresh:
    """Refresh one version as of a time, as its producer does."""
    if isinstance(job, transra_job.Job):
        return transra.refresh(job, as_of, on_stage, gate, dry_run=dry_run)
    if isinstance(job, page_job.PageJob):
        from provender.producers.linksage.page_refresh import refresh_pages

        return refresh_pages(job, as_of, on_stage, gate, dry_run=dry_run)
    from provender.producers.upstream.tower_refresh import refresh_towers

    return refresh_towers(job, as_of, on_stage, gate, dry_run=dry_run)


def producer_of(views: Sequence[DeclaredView], family: str) -> str:
    """Return the producer of a family; raises ConfigError where it is none that ships."""
    for view in views_of_family(views, family):
        if view.spec.producer not in PRODUCERS:
            raise ConfigError(
                f"producer of {view.spec.view_name}, family {family}",
                found=repr(view.spec.producer),
                expected=f"one that provender ships: {', '.join(PRODUCERS)}",
                remedy="Compute its snapshots with its own producer, then `feast materialize`.",
            )
    return views_of_family(views, family)[0].spec.producer


def check_transra(
    views: Sequence[DeclaredView], family: str | None, instead: Mapping[str, str]
) -> None:
    """Raise ConfigError for a family that another producer makes, where a command is TransRA's.

    Args:
        instead: producer -> what to do with its views.
    """
    made_by = {view.spec.producer for view in views if view.spec.family == family}
    for producer in made_by & instead.keys():
        raise ConfigError(
            f"family {family}",
            found=f"views that {producer} makes",
            expected=f"a family of {transra_job.PRODUCER}, which this command is for",
            remedy=instead[producer],
        )


def numbers_of_family(views: Sequence[DeclaredView], family: str) -> list[int]:
    """Return a family's versions, ascending; raises ConfigError where nobody here makes them."""
    return list(versions_of(views, producer_of(views, family), family))


def families_shipped(views: Sequence[DeclaredView], world: World) -> list[str]:
    """Return all families that can be produced from a world, by producer, then ascending.

    A repo may declare views of pages or of towers, and its world have no section for them.

    Raises ConfigError without any.
    """
    there = {view.spec.producer for view in views} & set(PRODUCERS)
    sections = {page_job.PRODUCER: world.linksage, tower_job.PRODUCER: world.upstream}
    there -= {producer for producer, section in sections.items() if not section}
    if not there:
        return families_of(views, PRODUCERS[0])  # And it says what is missing.
    return [family for each in PRODUCERS if each in there for family in families_of(views, each)]
