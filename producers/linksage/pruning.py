"""Pruning: declared rules by which nodes lose edges, so that neither hubs nor strays dominate.

All edges are rows of one table `edges` of a DuckDB connection: `source` and `target` (types of
node), `a` and `b` (their numbers), `weight`, and `tie`, a hash of both ends' keys. Each edge is
there once, and what is pruned is gone for both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from provender.plugin.tables import literal
from provender.producers.linksage.config import GraphConfig, NodeType

Connection = duckdb.DuckDBPyConnection
Counts = Mapping[NodeType, int]
#: Edges by both of their ends.
ENDS = "SELECT source AS type, a AS node FROM edges UNION ALL SELECT target, b FROM edges"


def prune(connection: Connection, config: GraphConfig, nodes: Counts) -> dict[str, Any]:
    """Drop edges until all rules hold: first those beyond max_degree, then by min_degree.

    An edge stays if it is among the heaviest of both its ends, as they were before. Then nodes
    with fewer than min_degree edges lose them, over and over, until none is left with fewer.

    Returns `edges` by kind, before and after each rule, and `degrees` by type, before and after.
    """
    before = degrees(connection, nodes)
    edges = {"before": edge_counts(connection)}
    if config.max_degree:
        _keep_heaviest(connection, config.max_degree)
    edges["after max_degree"] = edge_counts(connection)
    while config.min_degree and _drop_strays(connection, config.min_degree):
        pass
    edges["after min_degree"] = edge_counts(connection)
    after = degrees(connection, nodes)
    return {
        "edges": edges,
        "degrees": {kind: {"before": before[kind], "after": after[kind]} for kind in before},
    }


def edge_counts(connection: Connection) -> dict[str, int]:
    """Edges by kind."""
    return dict(
        connection.execute(
            "SELECT source || '-' || target AS kind, count(*) FROM edges "
            "GROUP BY kind ORDER BY kind"
        ).fetchall()
    )


def degrees(connection: Connection, nodes: Counts) -> dict[str, dict[str, Any]]:
    """The distribution of degrees by type, of those types that have nodes."""
    rows = connection.execute(
        f"SELECT type, degree, count(*) FROM (SELECT type, node, count(*) AS degree FROM ({ENDS}) "
        "GROUP BY type, node) GROUP BY type, degree ORDER BY type, degree"
    ).fetchall()
    found: dict[str, dict[str, Any]] = {}
    for kind, total in nodes.items():
        counts = {degree: count for of, degree, count in rows if of == kind}
        isolated = total - sum(counts.values())
        if total:
            found[kind] = distribution(({0: isolated} if isolated else {}) | counts)
    return found


def distribution(counts: Mapping[int, int]) -> dict[str, Any]:
    """Of degrees, ascending, with how many nodes have each: mean, quantiles, and a histogram."""
    total = sum(counts.values())
    return {
        "nodes": total,
        "isolated": counts.get(0, 0),
        "mean": sum(degree * count for degree, count in counts.items()) / total,
        "median": _quantile(counts, 0.5),
        "p90": _quantile(counts, 0.9),
        "p99": _quantile(counts, 0.99),
        "most": max(counts),
        "histogram": _histogram(counts),
    }


def _quantile(counts: Mapping[int, int], share: float) -> int:
    """The least degree that at least this share of the nodes does not exceed."""
    wanted, seen = share * sum(counts.values()), 0
    for degree, count in counts.items():
        seen += count
        if seen >= wanted:
            return degree
    return 0


def _histogram(counts: Mapping[int, int]) -> dict[str, int]:
    """Nodes by powers of two: 0, 1, 2-3, 4-7 and so on."""
    bars: dict[str, int] = {}
    for degree, count in counts.items():
        low = 1 << (degree.bit_length() - 1) if degree else 0
        name = str(degree) if degree < 2 else f"{low}-{2 * low - 1}"
        bars[name] = bars.get(name, 0) + count
    return bars


def _keep_heaviest(connection: Connection, rules: Counts) -> None:
    most = " ".join(f"WHEN {literal(kind)} THEN {most}" for kind, most in rules.items())
    ranks = [
        f"coalesce(row_number() OVER (PARTITION BY source, target, {end} "
        f"ORDER BY weight DESC, tie, a, b) <= CASE {kind} {most} END, true)"
        for kind, end in (("source", "a"), ("target", "b"))
    ]
    connection.execute(
        f"CREATE OR REPLACE TABLE edges AS SELECT * FROM edges QUALIFY {' AND '.join(ranks)}"
    )


def _drop_strays(connection: Connection, rules: Counts) -> int:
    least = " ".join(f"WHEN {literal(kind)} THEN {least}" for kind, least in rules.items())
    connection.execute(
        f"CREATE OR REPLACE TABLE strays AS SELECT type, node FROM ({ENDS}) "
        f"GROUP BY type, node HAVING count(*) < coalesce(CASE type {least} END, 0)"
    )
    found = connection.execute(
        "DELETE FROM edges WHERE (source, a) IN (SELECT (type, node) FROM strays) "
        "OR (target, b) IN (SELECT (type, node) FROM strays)"
    ).fetchall()
    return int(found[0][0])
