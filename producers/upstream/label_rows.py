"""What became of a source's rows: which of them the rows of a label's table make positives.

A row of the label's table makes one row of the source a positive at most: the newest that is not
later and fits in all declared columns, if it is not too long ago. Of equally new ones it is the
first by user, pin and id.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from provender.plugin.world import KeyType
from provender.producers.upstream.declarations import (
    LabelDeclaration,
    SourceDeclaration,
)
from provender.producers.upstream.tower_rows import (
    Key,
    Reading,
    Report,
    in_microseconds,
    judged,
)

Label = LabelDeclaration | Literal["always"]
_INSTANT = timedelta(microseconds=1)


def window(label: Label) -> int:
    """The attribution window in microseconds."""
    return label.within // _INSTANT if isinstance(label, LabelDeclaration) else 0


def known(reading: Reading, label: Label) -> str:
    """SQL: whether a row's label is known by the cut, since its window has passed before it.

    Positives wait as well: those that are early would otherwise be learned from, and the rows of
    the same time that become none would not.
    """
    return f"time + {window(label)} < {reading.cut}"


def learned(reading: Reading, label: Label) -> str:
    """SQL: whether a row's label was known at the last refresh already."""
    if reading.since is None:
        return "false"
    return f"time + {window(label)} < {in_microseconds(reading.since)}"


def positives(
    reading: Reading,
    name: str,
    source: SourceDeclaration,
    task: str,
    label: LabelDeclaration,
    rows: str,
) -> tuple[str, Report]:
    """Find the rows of a source that have a declared label.

    Args:
        name: the source's.
        task: the label's.
        rows: SQL of the source's rows: row, user, pin, time, id.

    Returns SQL of them, their `row`, each once, and how many rows of the label's table there are
    and were dropped. Rows that can't be the reason of a label that is asked for are not there.

    Raises MappingError, SourceError or BadRowsError.
    """
    types: dict[str, KeyType] = {"id": "string", **reading.world.entities}
    keys = [Key(end, column, types[end], needed=False) for end, column in label.match.items()]
    place = f"upstream.sources.{name}.labels.{task}"
    followed, dropped = judged(reading, place, label, keys)
    ends = ", ".join(label.match)
    same = " AND ".join(f"f.{end} = s.{end}" for end in label.match)
    earliest = reading.since and in_microseconds(reading.since) - max(
        window(one) for one in source.labels.values()
    )
    asked = "" if earliest is None else f"WHERE time >= {earliest}"
    found = reading.copy(
        f"WITH shown AS (SELECT {ends}, time, min(row) AS row FROM {rows} {asked} GROUP BY ALL)\n"
        f"SELECT DISTINCT s.row FROM {followed} f ASOF JOIN shown s ON {same} "
        f"AND f.time >= s.time WHERE f.time <= s.time + {window(label)}",
        f"positives_{name}_{task}",
    )
    return found, {"rows": reading.count(followed), "dropped": dropped}
