"""A lineage as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.markup import escape
from rich.tree import Tree

from provender.plugin.lineage import Chain, Lineage, Ranker, Run
from provender.plugin.manifest import Manifest, RunRecord
from provender.plugin.table_records import TableRecord


def to_tree(lineage: Lineage) -> Tree:
    """Return the tree: each view's runs, the newest first, then where its vectors are."""
    tree = Tree(f"[bold]{escape(lineage.of)}[/]")
    for chain in lineage.chains:
        branch = tree.add(f"{chain.view}: {_version(chain)}") if len(lineage.chains) > 1 else tree
        if branch is tree:
            tree.add(_version(chain))
        _add_runs(branch, chain)
        for table in chain.tables:
            branch.add(escape(_table(table)))
    _add_rankers(tree, lineage)
    for note in lineage.notes:
        tree.add(f"[yellow]{escape(note)}[/]")
    return tree


def _add_runs(branch: Tree, chain: Chain) -> None:
    for run in chain.runs:
        added = branch.add(f"run {escape(run.run_id)}{_gone(run)}")
        if run.record is not None:
            _add_facts(added, run, run.record, chain.view)
    if chain.older:
        branch.add(f"... and {chain.older} older")


def _gone(run: Run) -> str:
    if run.record is None:
        return " [yellow](its snapshots are gone)[/]"
    return "" if run.snapshots else " [yellow](its snapshots are gone; known from their use)[/]"


def _add_facts(added: Tree, run: Run, record: RunRecord, view: str) -> None:
    added.add(
        f"{escape(record.producer)}, config {record.config_hash[:10]}, "
        f"code {escape(record.code_version)}"
    )
    added.add(f"events {_time(record.window_start)} to {_time(record.window_end)}")
    for snapshot in sorted(run.snapshots, key=lambda each: each.manifest.view != view):
        _add_snapshot(added, snapshot.manifest, own=snapshot.manifest.view == view)
    added.add(f"parent {escape(record.parent)}" if record.parent else "no parent: the first")


def _add_snapshot(added: Tree, manifest: Manifest, *, own: bool) -> None:
    name = f"{manifest.view}@{_time(manifest.as_of)}"
    told = added.add(f"{name}: {manifest.rows:,} rows x {manifest.dim}{'' if own else ', with it'}")
    if not own:
        return
    if manifest.metrics:
        told.add(escape(", ".join(f"{key} {_number(v)}" for key, v in manifest.metrics.items())))
    for key, note in manifest.notes.items():
        told.add(f"[yellow]{escape(key)}: {escape(note)}[/]")


def _add_rankers(tree: Tree, lineage: Lineage) -> None:
    for ranker in lineage.rankers:
        stamp = ranker.stamp
        branch = tree.add(f"ranker {escape(str(ranker.path))}, run {escape(stamp.run_id)}")
        branch.add(
            f"{stamp.rows:,} impressions of {_time(stamp.window_start)} to "
            f"{_time(stamp.window_end)}, service {escape(stamp.service)}"
        )
        for chain in lineage.chains:
            branch.add(escape(_trained(ranker, chain.view)))


def _trained(ranker: Ranker, view: str) -> str:
    runs = ranker.runs_of(view)
    return f"learned from {view}: {_span(runs)}"


def _table(table: TableRecord) -> str:
    loaded = f"loaded {_time(table.loaded_at)}" if table.loaded_at else "never loaded"
    return f"online table {table.name}: {loaded}, {_span(table.runs)}"


def _span(runs: Iterable[RunRecord]) -> str:
    known = list(runs)
    refreshes = sorted(run.as_of for run in known if run.supplement_of is None)
    supplements = sorted(run.as_of for run in known if run.supplement_of is not None)
    told = [_counted("run", refreshes)] if refreshes or not supplements else []
    told += [_counted("supplement", supplements)] if supplements else []
    return "; ".join(told)


def _counted(what: str, times: list[datetime]) -> str:
    if not times:
        return f"no {what}s known"
    if len(times) == 1:
        return f"1 {what}, as of {_time(times[0])}"
    return f"{len(times)} {what}s, as of {_time(times[0])} to {_time(times[-1])}"


def _version(chain: Chain) -> str:
    if chain.spec is None:
        return "of a version that is not registered"
    text = f"version {chain.spec.version} of {chain.spec.family}, {chain.state}"
    if chain.spec.anchored_to is not None:
        text += f", anchored to version {chain.spec.anchored_to}"
    if chain.release is None:
        return escape(text)
    move = chain.release
    forced = f", forced: {move.reason}" if move.reason else ""
    return escape(f"{text} (move {move.serial}, {move.action} by {move.by}{forced})")


def _time(time: datetime) -> str:
    seconds = f"{time:%Y-%m-%dT%H:%M:%S}"
    return seconds.removesuffix(":00").removesuffix("T00:00")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.6g}"
