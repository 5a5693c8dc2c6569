"""`provender refresh`: the next refresh of what is in use, from events to the online table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import click

from provender.plugin.console import console, log
from provender.plugin.errors import ConfigError, DriftError, ProvenderError
from provender.plugin.gates import gates_of
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.snapshot import find_snapshot
from provender.plugin.world import World
from provender.producers.drift_gate import DriftGate
from provender.producers.followers import over_ranks
from provender.producers.online_refresh import Loaded, OnlineRefresh
from provender.producers.refresh import Refresh
from provender.producers.refresh_table import refreshed
from provender.producers.shipped import AnyJob, compute, declare, numbers_of_family
from provender.producers.stages import stages, tell_bad_rows


@click.command(epilog="Example: provender refresh transra --home demo --as-of 2026-03-15")
@click.argument("family", help="Whose views, such as transra.")
@at_home
@click.option(
    "--as-of", type=UtcTime(), required=True, help="Compute from the events before this time."
)
@click.option(
    "--version",
    "numbers",
    type=int,
    multiple=True,
    help="Of the family's views; may be given several times.  "
    "[default: every declared version that is not retired]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--dry-run", is_flag=True, help="Compute and measure, and publish nothing.")
@click.option("--force", is_flag=True, help="Publish in spite of the gate; needs --reason.")
@click.option("--reason", help="Why it is forced; the manifests keep it.")
@over_ranks
def refresh(
    family: str,
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    as_of: datetime,
    numbers: tuple[int, ...],
    device: str,
    dry_run: bool,
    force: bool,
    reason: str | None,
) -> None:
    """Renew a family of views: train, measure the drift, publish, take online.

    What drifts from the former refresh by more than releases.yaml allows is published nowhere;
    --force publishes it later without training again. A command that was stopped goes on where it
    was. First histories and backfills, which nobody reads yet, are for `provender produce`.
    """
    if force != bool(reason):
        raise click.UsageError("--force and --reason TEXT go together")
    place = Home(home)
    views = views_in_repo(repo or place.repo)
    world = World.load(world_path or place.world)
    declared = numbers_of_family(views, family)
    online = OnlineRefresh(repo or place.repo)
    chosen = sorted(set(numbers)) or _not_retired(online, family, declared)
    jobs = [
        declare(
            world,
            data or place.data,
            place,
            views,
            device,
            family=family,
            version=number,
            repo=repo or place.repo,
        )
        for number in chosen
    ]
    for job in jobs:
        for spec in job.specs:
            online.check_registered(spec, place.snapshots)
    gates = gates_of(repo or place.repo, family).drift
    ways = [_Way(job, as_of, DriftGate(place.snapshots, gates, reason), dry_run) for job in jobs]
    done = [way.go(online) for way in ways]
    for each in done:
        console.print(refreshed(each.job, as_of, each.result, each.loaded))
    for error in (error for each in done for error in each.errors):
        log.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    if any(each.errors for each in done):
        raise click.exceptions.Exit(1)


def _not_retired(online: OnlineRefresh, family: str, declared: list[int]) -> list[int]:
    try:
        retired = online.retired(family)
    except ConfigError as error:
        log.print(f"Every declared version is refreshed, for no release is known. {error}")
        return declared
    left = [number for number in declared if number not in retired]
    if not left:
        raise ConfigError(
            f"family {family}",
            found=f"versions {', '.join(map(str, declared))}, all retired",
            expected="a version in use",
            remedy="Name one with --version to refresh it all the same.",
        )
    return left


@dataclass(frozen=True)
class _Done:
    """What became of one version: its refresh, its tables by view, and what went wrong."""

    job: AnyJob
    result: Refresh | None
    loaded: Mapping[str, Loaded]
    errors: tuple[ProvenderError, ...] = ()


@dataclass(frozen=True)
class _Way:
    """The way of one version, from events to online tables."""

    job: AnyJob
    as_of: datetime
    gate: DriftGate
    dry_run: bool

    def go(self, online: OnlineRefresh) -> _Done:
        """Go all of it, or as far as it goes: an error of one version stops no other."""
        result: Refresh | None = None
        loaded: dict[str, Loaded] = {}
        try:
            with stages(f"{self.as_of:%Y-%m-%d}", self.job.version) as on_stage:
                result = compute(self.job, self.as_of, on_stage, self._gate(), dry_run=self.dry_run)
            tell_bad_rows(result.events)
            for spec, snapshot in zip(self.job.specs, result.snapshots, strict=False):
                if not self.dry_run:
                    loaded[spec.view_name] = online.load(spec, snapshot)
        except ProvenderError as error:
            return _Done(self.job, result, loaded, (error,))
        return _Done(self.job, result, loaded, _refusals(result))

    def _gate(self) -> DriftGate:
        """The gate; once a view of the run is published by force, the others follow it."""
        found = [
            find_snapshot(self.gate.snapshots, spec.view_name, self.as_of)
            for spec in self.job.specs
        ]
        notes = [
            one.manifest.notes["forced"] for one in found if one and "forced" in one.manifest.notes
        ]
        reason = self.gate.forced or (notes[0] if notes else None)
        return replace(self.gate, forced=reason)


def _refusals(result: Refresh) -> tuple[DriftError, ...]:
    return tuple(found.refused for found in result.findings.values() if found.refused)
