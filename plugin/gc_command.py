"""The command that drops what nothing needs any more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from feast import FeatureStore
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from provender.plugin.console import console, log, print_table
from provender.plugin.garbage import Plan, Thing, plan
from provender.plugin.garbage_removal import Removal
from provender.plugin.garbage_survey import survey
from provender.plugin.home import Home
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.options import FOLDER, FORMAT, at_repo
from provender.plugin.repo import open_store

#: How much of it there is: 1200, "rows".
Size = tuple[int, str]


@click.command(epilog="Example: provender gc --home demo --kept")
@at_repo
@click.option("--rankers", type=FOLDER, help="Checkpoints that count.  [default: HOME/rankers]")
@click.option("--apply", is_flag=True, help="Drop it; without this nothing is changed.")
@click.option("--kept", is_flag=True, help="Show as well what stays, and why.")
@FORMAT
def gc(
    home: Path, repo: Path | None, rankers: Path | None, apply: bool, kept: bool, form: str
) -> None:
    """Drop what no release, ranker or retention rule needs: dry run unless --apply is given.

    That are retired versions, what is left of versions that have left the registry, and snapshots
    beyond `keep_days` of releases.yaml. What is live, former or a canary's is never touched.
    """
    place = Home(home)
    store = open_store(repo or place.repo)
    checkpoints = rankers or place.rankers
    if not apply:
        decided = plan(survey(store, place, checkpoints))
        sizes = _sizes(store, decided)
    else:
        # No producer at work: what it is about to publish, or to start from, is in nobody's plan.
        with place.locked("gc"), place.locked("cold"), place.locked("runs"):
            found = survey(store, place, checkpoints)
            decided = plan(found)
            sizes = _sizes(store, decided)
            removal = Removal(store, place, found.releases)
            removal.remove(decided, lambda thing: log.print(f"dropped {thing.kind} {thing.name}"))
    if form == "json":
        click.echo(_as_json(decided, sizes, applied=apply, kept=kept))
    else:
        _show(decided, sizes, applied=apply, kept=kept)


def _show(decided: Plan, sizes: dict[Thing, Size], *, applied: bool, kept: bool) -> None:
    if decided.gone:
        title = "dropped" if applied else "would be dropped"
        print_table(_table(title, decided.gone, sizes))
    else:
        console.print("Nothing to drop: all that is there is needed.")
    if kept:
        print_table(_table("stays", decided.kept, {}))
    if decided.gone and not applied:
        console.print("Nothing was changed. To drop it: the same command with --apply")


def _table(title: str, things: Sequence[Thing], sizes: dict[Thing, Size]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("what", "which", "size", "why"):
        table.add_column(column, overflow="fold")
    for thing in things:
        name = f"{thing.name}: {', '.join(thing.views)}" if thing.views else thing.name
        table.add_row(thing.kind, escape(name), _size(sizes.get(thing)), escape(thing.why))
    return table


def _as_json(decided: Plan, sizes: dict[Thing, Size], *, applied: bool, kept: bool) -> str:
    told: dict[str, Any] = {
        "format": 1,
        "applied": applied,
        "gone": [{**_told(thing), **_measured(sizes.get(thing))} for thing in decided.gone],
    }
    if kept:
        told["kept"] = [_told(thing) for thing in decided.kept]
    return json.dumps(told, indent=2, ensure_ascii=False)


def _told(thing: Thing) -> dict[str, Any]:
    return {
        "kind": thing.kind,
        "name": thing.name,
        "views": list(thing.views),
        "path": str(thing.path) if thing.path else None,
        "why": thing.why,
    }


def _measured(size: Size | None) -> dict[str, int]:
    return {} if size is None else {size[1]: size[0]}


def _size(size: Size | None) -> str:
    if size is None:
        return ""
    return decimal(size[0]) if size[1] == "bytes" else f"{size[0]:,} {size[1]}"


def _sizes(store: FeatureStore, decided: Plan) -> dict[Thing, Size]:
    """How much goes: rows of tables, bytes of folders."""
    sizes: dict[Thing, Size] = {}
    for thing in decided.gone:
        if thing.kind == "table":
            sizes[thing] = _rows(store, thing.name), "rows"
        elif thing.path is not None:
            files = (path for path in thing.path.rglob("*") if path.is_file())
            sizes[thing] = sum(path.stat().st_size for path in files), "bytes"
    return sizes


def _rows(store: FeatureStore, table: str) -> int:
    database, thing = ProvenderOnlineStore().database(store.config), f"online table {table}"
    if not database.has(thing, table):  # Its note was left by a gc that was killed.
        return 0
    return database.count(thing, table)
