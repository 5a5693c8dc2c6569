"""What of a page set's rows was not taken, one line a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

#: Reasons why rows that repeat others are dropped: they are no bad ones.
REPEATED = ("told before", "an older row of its key")


def dropped_rows(report: Mapping[str, Any], but: Collection[str] = ()) -> Iterator[str]:
    """Lines of the tables of which something was dropped or left out.

    Args:
        report: that of a page set (page_tables.PageSet).
        but: reasons that are not told.
    """
    for table, told in report.items():
        if table == "pairs":
            for kind, each in told.items():
                yield from _line(f"pairs ({kind})" if kind != table else table, each, but)
        else:
            yield from _line(table, told, but)


def unreadable_images(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the image files that could not be read, with the first of each table.

    Args:
        report: that of features (features.Features).
    """
    for name in ("pages", "pins"):
        found = report[name]["unreadable_images"]
        for file, reason in list(found["named"].items())[:1]:
            yield f"{name}: {found['count']:,} images can't be read, such as {file}: {reason}"


def _line(name: str, told: Mapping[str, Any], but: Collection[str]) -> Iterator[str]:
    dropped, left_out = told["dropped"], told.get("left_out", {})
    rows = told["kept"] + sum(dropped.values())
    bad = {why: count for why, count in dropped.items() if why not in but}
    parts = []
    if gone := sum(bad.values()):
        parts.append(f"{gone:,} of {rows:,} rows were dropped ({_reasons(bad)})")
    if reasons := _reasons(left_out):
        parts.append(f"left out of rows that were kept: {reasons}")
    if parts:
        yield f"{name}: {'; '.join(parts)}"


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
