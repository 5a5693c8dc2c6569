"""What towers would be given, as tables for the terminal: rows, labels and features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from provender.producers.upstream.feature_tables import FeatureRow


def inputs_summary(report: Mapping[str, Any], features: Sequence[FeatureRow]) -> list[Table]:
    """Tables of the rows that were read, of tasks and of features.

    Args:
        report: of a `TowerSet`.
        features: as `describe` tells them.
    """
    return [_rows(report), _tasks(report["sources"]), _features(features)]


def inputs_json(report: Mapping[str, Any], features: Sequence[FeatureRow]) -> dict[str, Any]:
    """The same as plain values."""
    return {**report, "features": [one._asdict() for one in features]}


def _rows(report: Mapping[str, Any]) -> Table:
    table = _table("what is read", "", "rows", "dropped", "used", "not used", "drawn")
    for name, told in _read(report):
        used = [f"{told[key]:,}" if key in told else "" for key in ("used", "drawn")]
        table.add_row(
            escape(name),
            f"{told['rows']:,}",
            _reasons(told["dropped"]),
            used[0],
            _reasons(told.get("left_out", {})),
            used[1],
        )
    for entity, count in report["entities"].items():
        table.add_row(f"{entity}s", f"{count:,}", "", "", "", "")
    return table


def _read(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All that rows were read for: its name, and what became of them."""
    for name, told in report["events"].items():
        yield f"event {name}", told
    for name, told in report["sources"].items():
        yield f"source {name}", told
        for task, one in told["tasks"].items():
            if "rows" in one:
                yield f"label {task} of {name}", one
    if "pins" in report:
        yield "table of pins", report["pins"]
    for entity, columns in report["columns"].items():
        for name, told in columns.items():
            yield f"{entity} {name}", told


def _tasks(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("labels of the rows that are used", "task", "known", "positives", "unknown")
    for name, told in sources.items():
        for task, one in told["tasks"].items():
            counts = (f"{one[key]:,}" for key in ("known", "positives", "unknown"))
            table.add_row(escape(f"{task} of {name}"), *counts)
    return table


def _features(features: Sequence[FeatureRow]) -> Table:
    table = _table("features", "tower", "feature", "form", "there")
    for one in features:
        table.add_row(one.tower, escape(one.feature), escape(one.form), f"{one.coverage:.1%}")
    return table


def _reasons(counts: Mapping[str, int]) -> str:
    return escape(", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        words = column in ("", "task", "tower", "feature", "form", "dropped", "not used")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table
