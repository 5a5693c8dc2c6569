"""What the columns of a feature view are called in its source, and its keys and times read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from feast.data_source import DataSource

from provender.plugin.errors import SourceError
from provender.plugin.feature_rows import FeatureRows, Window
from provender.plugin.history import History, Positions
from provender.plugin.instants import Instants, is_time, to_nanoseconds
from provender.plugin.key_index import KeyIndex, normalized


@dataclass(frozen=True)
class TimedRows:
    """The rows of a source that lie in a window.

    Attributes:
        table: their keys and times, under the source's names.
        numbers: int64 (n,), ascending: which rows of the source they are.
        event: int64 (n,), nanoseconds.
        created: the same, or None of a source without.
    """

    table: pa.Table
    numbers: Positions
    event: Instants
    created: Instants | None


@dataclass(frozen=True)
class SourceColumns:
    """A source's own names of a view's join keys, features and times."""

    keys: list[str]
    features: list[str]
    time: str
    created: str | None

    @classmethod
    def of(
        cls, rows: FeatureRows, source: DataSource, keys: Sequence[str], features: Sequence[str]
    ) -> SourceColumns:
        """Look up the names that the source's field mapping leads to.

        Raises SourceError naming the columns that are there.
        """
        mapping = dict(source.field_mapping or {})
        created = source.created_timestamp_column
        return cls(
            [_column(rows, key, mapping) for key in keys],
            [_column(rows, feature, mapping) for feature in features],
            _column(rows, source.timestamp_field, mapping),
            _column(rows, created, mapping) if created else None,
        )

    def check(self, rows: FeatureRows) -> None:
        """Raise SourceError unless the source has every column."""
        created = [self.created] if self.created else []
        for name in (*self.keys, *self.features, self.time, *created):
            _column(rows, name, {})

    def read_times(self, rows: FeatureRows, window: Window) -> TimedRows:
        """Read keys and times of the rows within the window, both ends included."""
        created = [self.created] if self.created else []
        names = list(dict.fromkeys([*self.keys, self.time, *created]))
        table, numbers = rows.scan(names, self.time, window)
        event = _times(rows, table, self.time)
        kept = (event >= window[0]) & (event <= window[1])
        if not kept.all():
            table, numbers, event = table.filter(pa.array(kept)), numbers[kept], event[kept]
        made = _times(rows, table, self.created) if self.created else None
        return TimedRows(table, numbers, event, made)

    def history(self, read: TimedRows, *, strict: bool = False) -> tuple[KeyIndex, History]:
        """Return the keys of the rows read, and their history; there must be a key."""
        index = KeyIndex([normalized(read.table[key]) for key in self.keys])
        return index, History(index.ranks, read.event, read.created, strict=strict)


def _column(rows: FeatureRows, name: str, mapping: dict[str, str]) -> str:
    for source_name, feast_name in mapping.items():
        if feast_name == name and source_name in rows.schema.names:
            return source_name
    if name in rows.schema.names:
        return name
    raise SourceError(
        rows.thing,
        found=f"the columns {', '.join(rows.schema.names)}",
        expected=f"a column {name}",
        remedy="Correct the view's schema, the source's field_mapping or the file.",
    )


def _times(rows: FeatureRows, table: pa.Table, column: str) -> Instants:
    kind = table.schema.field(column).type
    if not is_time(kind):
        raise SourceError(
            f"{rows.thing}, column {column}",
            found=f"the type {kind}",
            expected="timestamps or dates",
            remedy="Write the column as Parquet timestamps.",
        )
    return to_nanoseconds(table[column])
