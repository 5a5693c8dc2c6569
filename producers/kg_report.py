"""The report of `provender evaluate kg`: one JSON with everything, and a table of the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from provender.plugin.files import write_whole

_LINKS = {"MRR": "mrr", "Hits@1": "hits@1", "Hits@3": "hits@3", "Hits@10": "hits@10"}
#: Of so many relations at most the table tells one by one.
_TOLD = 20


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the JSON so that a reader sees all of it or none."""
    write_whole(path, json.dumps(report, indent=2, allow_nan=False).encode() + b"\n")


def link_table(report: Mapping[str, Any]) -> Table:
    """MRR, Hits and mean rank: both sides, each side, and the relations with the most links."""
    table = Table(title=f"{report['model']}, filtered", show_edge=False)
    for column in ("links", "", "", *_LINKS, "mean rank"):
        table.add_column(column, justify="left" if column in ("links", "") else "right")
    for name, figures in report["metrics"].items():
        sides = {"both sides": figures, "heads": figures["head"], "tails": figures["tail"]}
        for place, (side, one) in enumerate(sides.items()):
            count = f"{one['links']:,}" if side != "both sides" else f"{figures['links']:,}"
            told = (f"{one[key]:.4f}" for key in _LINKS.values())
            first = name if place == 0 else ""
            table.add_row(first, side, count, *told, f"{one['mean_rank']:,.1f}")
    _add_relations(table, report["metrics"]["test"]["relations"])
    return table


def bars_of(report: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], str]:
    """What a picture shows of the test links, and its name.

    Recall@k of the model and of popularity by k, or else the MRR of the largest relations.
    """
    if "per_head" in report:
        ways = report["per_head"]["test"]
        keys = [key for key in ways["model"] if key.startswith("recall@")]
        return {key: {way: ways[way][key] for way in ways} for key in keys}, "recall"
    relations = report["metrics"]["test"]["relations"]
    return {name: {report["model"]: relations[name]["mrr"]} for name in _largest(relations)}, "mrr"


def _largest(relations: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Those of which most links are predicted, as many as are told."""
    return sorted(relations, key=lambda name: -relations[name]["links"])[:_TOLD]


def _add_relations(table: Table, relations: Mapping[str, Mapping[str, float]]) -> None:
    if len(relations) < 2:
        return
    largest = _largest(relations)
    for place, name in enumerate(largest):
        one = relations[name]
        dashes = ("", f"{one['hits@10']:.4f}", "")
        first = "test, by relation" if place == 0 else ""
        table.add_row(first, name, f"{one['links']:,}", f"{one['mrr']:.4f}", "", *dashes)
    if len(relations) > len(largest):
        table.add_row("", f"and {len(relations) - len(largest)} more, in the report")


def head_table(report: Mapping[str, Any]) -> Table:
    """Recall@k and NDCG@k per head, beside popularity."""
    per_head = report["per_head"]
    first = next(iter(per_head.values()))["model"]
    columns = [key for key in first if "@" in key]
    table = Table(title=f"tails of {report['relation']} for each head", show_edge=False)
    for column in ("links", "heads", "", *columns):
        table.add_column(column, justify="right" if "@" in column else "left")
    for name, ways in per_head.items():
        for place, (way, figures) in enumerate(ways.items()):
            start = (name, f"{figures['heads']:,}") if place == 0 else ("", "")
            who = report["model"] if way == "model" else way
            table.add_row(*start, who, *(f"{figures[key]:.4f}" for key in columns))
    return table
