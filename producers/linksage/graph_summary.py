"""What a page graph is made of, as tables for the terminal, from its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

#: Of so many sizes of clusters at most the table tells, the largest.
_SIZES = 8


def graph_summary(report: Mapping[str, Any]) -> list[Table]:
    """Tables of pairs, edges, degrees and clusters.

    Args:
        report: of a `PageGraph`.
    """
    tables = [_pairs(report), _edges(report["edges"]), _degrees(report["degrees"])]
    if report["near_duplicates"]["threshold"] is not None:
        tables.append(_clusters(report["near_duplicates"]))
    return tables


def _pairs(report: Mapping[str, Any]) -> Table:
    table = _table("pairs of pin and page", "", "pairs")
    least = report["pairs"]["min_cohesion"]
    for name, count in report["pairs"].items():
        if name != "min_cohesion":
            told = f"{name} ({least:g})" if name == "dropped below min_cohesion" else name
            table.add_row(told, f"{count:,}")
    table.add_row("positives, of nodes", f"{report['positives']:,}")
    return table


def _edges(edges: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table("edges", "", *edges)
    for kind in edges["before"]:
        table.add_row(kind, *(f"{counts.get(kind, 0):,}" for counts in edges.values()))
    return table


def _degrees(degrees: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    columns = ("isolated", "mean", "median", "p90", "p99", "most")
    table = _table("degrees before and after pruning", "nodes of", "", "nodes", *columns)
    for kind, both in degrees.items():
        for when, one in both.items():
            first = (kind, when, f"{one['nodes']:,}") if when == "before" else ("", when, "")
            told = (f"{one[name]:,.1f}" if name == "mean" else f"{one[name]:,}" for name in columns)
            table.add_row(*first, *told)
    return table


def _clusters(told: Mapping[str, Any]) -> Table:
    title = f"near duplicates: {told['of']}, cosine of at least {told['threshold']:g}"
    table = _table(title, "pins in a cluster", "clusters")
    sizes = sorted(told["sizes"].items(), key=lambda one: -int(one[0]))
    rest = sum(count for _, count in sizes[_SIZES:])
    for size, count in sizes[:_SIZES]:
        table.add_row(f"{int(size):,}", f"{count:,}")
    if rest:
        table.add_row("fewer", f"{rest:,}")
    table.add_section()
    table.add_row(f"{told['pins_in_clusters']:,} in all", f"{told['clusters']:,}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place and column else "left", no_wrap=True)
    return table
