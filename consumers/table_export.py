"""A ranker's finetuned rows as a snapshot of a new version of a view.

provender export-table demo/rankers/with-0.safetensors --table user --view user_transra \
    --version 2 --as-of 2026-03-29
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import click
import numpy as np
import pyarrow as pa

from provender.consumers.entity_table import EntityTable
from provender.consumers.ranker import Ranker, load_ranker
from provender.consumers.ranker_config import TableConfig
from provender.plugin.console import console
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.manifest import RunInfo
from provender.plugin.options import UtcTime, at_repo
from provender.plugin.ranker_stamp import RankerStamp
from provender.plugin.repo import DeclaredView, views_in_repo
from provender.plugin.snapshot import Snapshot, Vectors, find_snapshots, write_snapshot

#: What a view of such rows names as its producer, and the manifest as well.
PRODUCER = "ranker"


@click.command(
    "export-table",
    epilog="Example: provender export-table demo/rankers/with-0.safetensors --table user "
    "--view user_transra --version 2 --as-of 2026-03-29",
)
@click.argument(
    "ranker_path",
    metavar="RANKER",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the ranker.",
)
@click.option("--table", required=True, help="Of the ranker's tables.")
@click.option("--view", required=True, help="Its name without a version.")
@click.option("--version", required=True, type=int, help="The new version.")
@click.option(
    "--as-of", required=True, type=UtcTime(), help="Not before the last row learned from."
)
@at_repo
def export_table(
    ranker_path: Path,
    table: str,
    view: str,
    version: int,
    as_of: datetime,
    home: Path,
    repo: Path | None,
) -> None:
    """Write a ranker's finetuned rows as a snapshot of a new version of a view.

    The view is declared in the repo already, with the producer `ranker` and a space of its own.
    Rows that several keys share stay where they are.
    """
    place = Home(home)
    declared = views_in_repo(repo or place.repo)
    snapshot = export(
        load_ranker(ranker_path),
        table,
        f"{view}_v{version}",
        as_of,
        declared=declared,
        root=place.snapshots,
    )
    console.print(f"{snapshot.manifest.rows:,} rows at {snapshot.path}")
    console.print(
        f"Next: feast apply; feast materialize (or provender release) for {view}_v{version}"
    )


def export(
    ranker: Ranker,
    table: str,
    view_name: str,
    as_of: datetime,
    *,
    declared: Sequence[DeclaredView],
    root: Path,
) -> Snapshot:
    """Write the rows of a ranker's table as a snapshot; the same again changes nothing.

    The scale that vectors were brought to when the table began is taken back, so a row that has
    not learned is the vector that it was.

    Args:
        table: its name.
        view_name: with its version.
        as_of: aware; not before the ranker's last row.
        declared: the views of the repo.
        root: the folder of all snapshots.

    Raises:
        ConfigError: no such table or view, a view that these rows do not fit, a ranker without a
            stamp, or a time before the end of what it learned from.
        SnapshotError: rows that are not finite, or another snapshot of that time.
    """
    config = _config(ranker, table)
    rows = ranker.table(table)
    target = _target(config, rows, view_name, declared)
    stamp = _stamp(ranker, as_of)
    parent = _parent(root, config, stamp)
    run = RunInfo(
        run_id=_run_id(stamp, table, view_name, as_of),
        producer=PRODUCER,
        config_hash=stamp.config_hash,
        window_start=stamp.window_start,
        window_end=as_of,
        parent=parent,
        notes={"ranker": stamp.run_id, "table": table, "began_as": config.view or "nothing"},
    )
    return write_snapshot(root, target.spec, as_of, rows.keys, vectors_of(rows), run)


def vectors_of(table: EntityTable) -> Vectors:
    """Return the rows of a table's keys at the scale of the vectors that they began as: (N, d)."""
    values = table.values[: len(table.keys)].double() / table.scale.cpu().to(table.values.device)
    return np.ascontiguousarray(values.float().cpu().numpy())


def declaration(config: TableConfig, view_name: str) -> str:
    """Return what to add to a feature repo for the rows of a table."""
    name, _, version = view_name.rpartition("_v")
    entity = config.join_key.removesuffix("_id")
    return (
        f"{view_name} = embedding_view(name={name!r}, version={version}, entity={entity}, "
        f"dim={config.dim}, space='{PRODUCER}_{view_name}', producer={PRODUCER!r}, "
        "ttl=timedelta(days=30), snapshots=SNAPSHOTS)"
    )


def _config(ranker: Ranker, table: str) -> TableConfig:
    for config in ranker.config.tables:
        if config.name == table and config.corrects is None:
            return config
        if config.name == table:
            raise ConfigError(
                f"table {table}",
                found=f"rows that correct {config.corrects}",
                expected="rows that are vectors by themselves",
                remedy="Export a table that began as a view's snapshot.",
            )
    names = ", ".join(config.name for config in ranker.config.tables)
    raise ConfigError(
        f"table {table}",
        found="no such table in the ranker",
        expected=f"one of {names or '(it has none)'}",
        remedy="Name one with --table, or train a ranker with tables.",
    )


def _target(
    config: TableConfig, rows: EntityTable, view_name: str, declared: Sequence[DeclaredView]
) -> DeclaredView:
    by_name = {each.spec.view_name: each for each in declared}
    text = declaration(config, view_name)
    if view_name not in by_name:
        raise ConfigError(
            f"embedding view {view_name}",
            found="no declaration in the feature repo",
            expected=f"one of dim {config.dim}, keyed by {config.join_key}",
            remedy=f"Add it: {text}",
        )
    target = by_name[view_name]
    kind: Literal["string", "int64"] = "string" if rows.keys.type == pa.string() else "int64"
    fits = {
        "dim": (target.spec.dim, rows.dim),
        "join key": (target.spec.join_key, config.join_key),
        "key type": (target.key_type, kind),
        "producer": (target.spec.producer, PRODUCER),
    }
    for thing, (found, expected) in fits.items():
        if found != expected:
            raise ConfigError(
                f"embedding view {view_name}, {thing}",
                found=str(found),
                expected=str(expected),
                remedy=f"Declare a version that fits the table: {text}",
            )
    _check_space(target, declared, text)
    return target


def _check_space(target: DeclaredView, declared: Sequence[DeclaredView], text: str) -> None:
    """Finetuned rows are compared with none of the vectors that others made."""
    spec = target.spec
    for other in declared:
        if other.spec.space == spec.space and other.spec.producer != PRODUCER:
            raise ConfigError(
                f"embedding view {spec.view_name}, space",
                found=f"{spec.space}, that of {other.spec.view_name}",
                expected="a space of its own: training has moved the rows",
                remedy=f"Declare a new one: {text}",
            )


def _stamp(ranker: Ranker, as_of: datetime) -> RankerStamp:
    if ranker.stamp is None:
        raise ConfigError(
            "ranker",
            found="no stamp of what it learned from",
            expected="one that `provender rank` trained",
            remedy="Train it again.",
        )
    if as_of < ranker.stamp.window_end:
        raise ConfigError(
            "--as-of",
            found=f"{as_of:%Y-%m-%d %H:%M:%S%z}",
            expected=f"{ranker.stamp.window_end:%Y-%m-%d %H:%M:%S%z} or later: "
            "the rows have learned from all that came before",
            remedy="Give a later time.",
        )
    return ranker.stamp


def _parent(root: Path, config: TableConfig, stamp: RankerStamp) -> str | None:
    """Return the run of the refresh that was in force when training began."""
    if config.view is None:
        return None
    runs = [each.manifest for each in find_snapshots(root, config.view)]
    before = [run.run_id for run in runs if run.as_of <= stamp.window_start]
    return before[-1] if before else None


def _run_id(stamp: RankerStamp, table: str, view_name: str, as_of: datetime) -> str:
    told = "\n".join([stamp.run_id, table, view_name, as_of.isoformat()])
    return f"{PRODUCER}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
