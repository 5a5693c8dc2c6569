"""A lineage as a graph: what `provender lineage --format json` and `--format mermaid` write.

    {"format": 1, "of": "user_transra_v1@2026-03-12T00:00:00+00:00", "notes": [...],
     "nodes": [{"id": ..., "kind": ..., ...}], "edges": [{"from": ..., "to": ..., "kind": ...}]}

Nodes ascend by id, edges by from, to and kind; times are ISO 8601. Ids are stable:

- ``run:RUN_ID``: producer, config_hash, code_version, as_of, window_start, window_end, parent;
  only ``known: false`` where nothing but the id is left of it
- ``snapshot:VIEW@AS_OF``: view, version, as_of, rows, dim, dtype, space, checksum, metrics, notes
- ``table:NAME``: an online table: view, loaded_at, runs (whose rows may be in it)
- ``version:FAMILY@NUMBER``: state (live, former, candidate, retired, ...), move, reason
- ``ranker:RUN_ID``: path, service, window_start, window_end, rows, views (with the runs of each)

Edges lead from cause to effect: ``parent`` from run to run, ``wrote`` from run to snapshot,
``loaded`` to a table and ``trained`` to a ranker (from snapshots, or from runs whose snapshots are
gone), ``of`` from a table, or else from a snapshot, to its version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from provender.plugin.lineage import Chain, Lineage, Ranker, Run
from provender.plugin.manifest import Manifest
from provender.plugin.table_records import TableRecord

_SNAPSHOT = (
    "view",
    "version",
    "as_of",
    "rows",
    "dim",
    "dtype",
    "space",
    "facet",
    "checksum",
    "metrics",
)
_RUN = (
    "producer",
    "config_hash",
    "code_version",
    "as_of",
    "window_start",
    "window_end",
    "parent",
)
_RANKER = ("service", "config_hash", "code_version", "window_start", "window_end", "rows")


@dataclass(frozen=True, order=True)
class Edge:
    """From cause to effect."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class Graph:
    """Nodes by id and the edges between them."""

    nodes: dict[str, dict[str, Any]]
    edges: tuple[Edge, ...]

    @classmethod
    def of(cls, lineage: Lineage) -> Graph:
        """Lay a lineage out."""
        nodes = dict(_nodes(lineage))
        edges = {edge for edge in _edges(lineage) if {edge.source, edge.target} <= set(nodes)}
        return cls({each: nodes[each] for each in sorted(nodes)}, tuple(sorted(edges)))


def to_json(lineage: Lineage) -> str:
    """Return the graph as JSON, for the ages and for `jq`."""
    graph = Graph.of(lineage)
    told = {
        "format": 1,
        "of": lineage.of,
        "notes": list(lineage.notes),
        "nodes": [{"id": each, **node} for each, node in graph.nodes.items()],
        "edges": [{"from": e.source, "to": e.target, "kind": e.kind} for e in graph.edges],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def to_mermaid(lineage: Lineage) -> str:
    """Return the graph as a flowchart of Mermaid's."""
    graph = Graph.of(lineage)
    # Mermaid reads words such as `end` in ids: numbers it is.
    ids = {each: f"n{number}" for number, each in enumerate(graph.nodes)}
    nodes = [f'  {ids[each]}["{_label(each, node)}"]' for each, node in graph.nodes.items()]
    edges = [f"  {ids[e.source]} -->|{e.kind}| {ids[e.target]}" for e in graph.edges]
    notes = [f"  %% {note}" for note in lineage.notes]
    return "\n".join(["flowchart LR", *notes, *nodes, *edges]) + "\n"


def _nodes(lineage: Lineage) -> Iterator[tuple[str, dict[str, Any]]]:
    for chain in lineage.chains:
        for run in chain.runs:
            yield _run_id(run.run_id), _run_node(run)
            for snapshot in run.snapshots:
                yield _snapshot_id(snapshot.manifest), _snapshot_node(snapshot.manifest)
        for table in chain.tables:
            yield f"table:{table.name}", _table_node(table)
        if chain.spec is not None:
            yield _version_id(chain), _version_node(chain)
    for ranker in lineage.rankers:
        yield f"ranker:{ranker.stamp.run_id}", _ranker_node(ranker)


def _edges(lineage: Lineage) -> Iterator[Edge]:
    for chain in lineage.chains:
        for run in chain.runs:
            if run.parent is not None:
                yield Edge(_run_id(run.parent), _run_id(run.run_id), "parent")
            for snapshot in run.snapshots:
                yield Edge(_run_id(run.run_id), _snapshot_id(snapshot.manifest), "wrote")
        for table in chain.tables:
            loaded = [run.run_id for run in table.runs]
            yield from _used(chain, loaded, f"table:{table.name}", "loaded")
        yield from _of_version(chain)
        for ranker in lineage.rankers:
            trained = [run.run_id for run in ranker.runs_of(chain.view)]
            yield from _used(chain, trained, f"ranker:{ranker.stamp.run_id}", "trained")


def _used(chain: Chain, run_ids: Iterable[str], target: str, kind: str) -> Iterator[Edge]:
    used = set(run_ids)
    for run in chain.runs:
        if run.run_id in used:
            snapshot = run.of_view(chain.view)
            source = _snapshot_id(snapshot.manifest) if snapshot else _run_id(run.run_id)
            yield Edge(source, target, kind)


def _of_version(chain: Chain) -> Iterator[Edge]:
    if chain.spec is None:
        return
    for table in chain.tables:
        yield Edge(f"table:{table.name}", _version_id(chain), "of")
    newest = chain.runs[0].of_view(chain.view) if chain.runs and not chain.tables else None
    if newest is not None:
        yield Edge(_snapshot_id(newest.manifest), _version_id(chain), "of")


def _run_id(run_id: str) -> str:
    return f"run:{run_id}"


def _snapshot_id(manifest: Manifest) -> str:
    return f"snapshot:{manifest.view}@{manifest.as_of.isoformat()}"


def _version_id(chain: Chain) -> str:
    assert chain.spec is not None
    return f"version:{chain.spec.family}@{chain.spec.version}"


def _run_node(run: Run) -> dict[str, Any]:
    if run.record is None:
        return {"kind": "run", "known": False}
    told = run.record.model_dump(mode="json")
    return {"kind": "run", "known": True, **{name: told[name] for name in _RUN}}


def _snapshot_node(manifest: Manifest) -> dict[str, Any]:
    told = manifest.model_dump(mode="json")
    return {"kind": "snapshot", **{name: told[name] for name in (*_SNAPSHOT, "notes")}}


def _table_node(table: TableRecord) -> dict[str, Any]:
    told = table.model_dump(mode="json", include={"view", "loaded_at"})
    return {"kind": "table", **told, "runs": [run.run_id for run in table.runs]}


def _version_node(chain: Chain) -> dict[str, Any]:
    release = chain.release
    move = {"move": release.serial, "reason": release.reason} if release else {}
    return {"kind": "version", "state": chain.state, **move}


def _ranker_node(ranker: Ranker) -> dict[str, Any]:
    told = ranker.stamp.model_dump(mode="json")
    views = {
        on.spec.view_name: [run.run_id for run in ranker.runs_of(on.spec.view_name)]
        for on in ranker.stamp.views
    }
    facts = {name: told[name] for name in (*_RANKER, "trained_at")}
    return {"kind": "ranker", "path": str(ranker.path), **facts, "views": views}


def _label(each: str, node: dict[str, Any]) -> str:
    """What a box of the picture says: what it is, and the one thing to know of it."""
    kind, _, name = each.partition(":")
    match kind:
        case "run":
            more = f"config {node['config_hash'][:10]}" if node["known"] else "gone"
        case "snapshot":
            more = f"{node['rows']:,} rows"
        case "table":
            more = f"loaded {node['loaded_at'] or 'never'}"
        case "version":
            more = node["state"]
        case _:
            more = node["path"]
    return "<br/>".join(_escaped(line) for line in (f"{kind} {name}", more))


def _escaped(text: str) -> str:
    # Mermaid's own entities; the number sign first, which begins them.
    for sign, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(sign, entity)
    return " ".join(text.split())
