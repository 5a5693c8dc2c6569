"""The command that says which version of a family serves: `provender release`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from feast import FeatureStore
from rich.table import Table
from rich.text import Text

from provender.plugin.console import console, print_table
from provender.plugin.home import Home
from provender.plugin.options import FORMAT, UtcTime, at_repo
from provender.plugin.release_family import Move
from provender.plugin.release_moves import canary_of, promotion
from provender.plugin.release_moves import retire as retire_version
from provender.plugin.release_moves import rollback as roll_back
from provender.plugin.release_status import history_table, status_of, status_tables
from provender.plugin.releases import Check, Release, Releases
from provender.plugin.repo import open_store

Command = TypeVar("Command", bound=Callable[..., Any])

_FAMILY = click.argument("family", help="Whose views, such as transra.")
_VERSION = click.argument("version", type=int, help="Which of its versions, such as 2.")
_AT = click.option("--at", type=UtcTime(), help="The time of judgement.  [default: now]")
_DRY = click.option("--dry-run", is_flag=True, help="Show the checks and move nothing.")


def _forced(command: Command) -> Command:
    """Add --force and --reason."""
    command = click.option("--reason", help="Why, for the history; goes with --force.")(command)
    return click.option("--force", is_flag=True, help="Move it though checks fail.")(command)


@click.group(epilog="Example: provender release status transra")
def release() -> None:
    """Say which version of a family of embeddings serves, and move that.

    A move is one row of a table beside the online tables: readers have the former state or the
    new one, and of two who move a family at once one is told.
    """


@release.command(epilog="Example: provender release status transra")
@click.argument("family", required=False, help="Whose; all families by default.")
@at_repo
@_AT
@FORMAT
def status(
    family: str | None, home: Path, repo: Path | None, at: datetime | None, form: str
) -> None:
    """Show what serves, and what lies of each version online and offline."""
    told = status_of(_store(home, repo), family, at or datetime.now(UTC))
    if form == "json":
        click.echo(json.dumps(told, indent=2))
        return
    for table in status_tables(told):
        print_table(table)
    if not told:
        console.print("No embedding view is registered: declare some and run `feast apply`.")


@release.command(epilog="Example: provender release promote transra 2")
@_FAMILY
@_VERSION
@at_repo
@_AT
@_DRY
@_forced
def promote(
    family: str,
    version: int,
    home: Path,
    repo: Path | None,
    at: datetime | None,
    dry_run: bool,
    force: bool,
    reason: str | None,
) -> None:
    """Let all requests read a version, if it passes its gates.

    The gates are in releases.yaml beside feature_store.yaml: coverage, quality and sample.
    """
    given = _reason(force, reason)
    move = promotion(_store(home, repo), family, version, rankers=Home(home).rankers, now=at)
    _show_and_make(move, given, dry_run)


@release.command(epilog="Example: provender release rollback transra")
@_FAMILY
@click.option("--to", type=int, help="A version that was live before.  [default: the former one]")
@at_repo
@_AT
@_forced
def rollback(
    family: str,
    to: int | None,
    home: Path,
    repo: Path | None,
    at: datetime | None,
    force: bool,
    reason: str | None,
) -> None:
    """Let all requests read the former version again; ends any canary."""
    _tell(roll_back(_store(home, repo), family, to=to, now=at, reason=_reason(force, reason)))


@release.command(epilog="Example: provender release retire transra 1")
@_FAMILY
@_VERSION
@at_repo
@_forced
def retire(
    family: str, version: int, home: Path, repo: Path | None, force: bool, reason: str | None
) -> None:
    """Let a version never serve again; its declaration can be removed then."""
    given = _reason(force, reason)
    folder = Home(home).rankers
    _tell(retire_version(_store(home, repo), family, version, rankers=folder, reason=given))


@release.command(epilog="Example: provender release canary transra 2 0.05")
@_FAMILY
@_VERSION
@click.argument("share", type=float, help="Of the requests, from 0 to 1.")
@at_repo
@_AT
@_DRY
@_forced
def canary(
    family: str,
    version: int,
    share: float,
    home: Path,
    repo: Path | None,
    at: datetime | None,
    dry_run: bool,
    force: bool,
    reason: str | None,
) -> None:
    """Let a share of the requests read a version, by the hash of their keys; 0 ends it."""
    given = _reason(force, reason)
    folder = Home(home).rankers
    move = canary_of(_store(home, repo), family, version, share, rankers=folder, now=at)
    _show_and_make(move, given, dry_run)


@release.command(epilog="Example: provender release history transra --format json")
@_FAMILY
@at_repo
@FORMAT
def history(family: str, home: Path, repo: Path | None, form: str) -> None:
    """Show every move of a family: who made it, when, and why in spite of which checks."""
    moves = Releases.of(_store(home, repo)).history(family)
    if form == "json":
        click.echo(json.dumps([move.model_dump(mode="json") for move in moves], indent=2))
    elif moves:
        print_table(history_table(moves))
    else:
        console.print(f"Family {family} was never released.")


def _store(home: Path, repo: Path | None) -> FeatureStore:
    return open_store(repo or Home(home).repo)


def _reason(force: bool, reason: str | None) -> str | None:
    """Return the reason; the one without the other is a slip."""
    if force and not (reason or "").strip():
        raise click.UsageError("--force asks for --reason '...', which the history keeps.")
    if reason is not None and not force:
        raise click.UsageError("--reason goes with --force; without it nothing is forced.")
    return reason


def _show_and_make(move: Move, reason: str | None, dry_run: bool) -> None:
    """Show what the gates say of a move, then make it."""
    print_table(_checks(move.checks))
    if not dry_run:
        _tell(move.make(reason))


def _tell(moved: Release) -> None:
    """Print what holds after a move."""
    canary = f", version {moved.candidate} for {moved.share:.1%}" if moved.candidate else ""
    live = "no version" if moved.live is None else f"version {moved.live}"
    forced = [check.name for check in moved.checks if not check.passed]
    console.print(
        f"move {moved.serial} of family {moved.family}: {moved.action}. "
        f"Live is {live}{canary}."
        + (f" Forced in spite of {', '.join(forced)}: {moved.reason}" if forced else ""),
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _checks(checks: Sequence[Check]) -> Table:
    table = Table("", "check", "found", "expected", box=None, pad_edge=False)
    for check in checks:
        told = "pass" if check.passed else "FAIL"
        table.add_row(told, check.name, Text(check.found), Text(check.expected))
    return table
