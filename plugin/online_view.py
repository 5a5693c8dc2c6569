"""One feature view's rows in an online database: found, verified, decoded, written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from feast.base_feature_view import BaseFeatureView
from feast.protos.feast.types.Value_pb2 import Value

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.errors import FetchError, LoadLockedError, OnlineRowError
from provender.plugin.hot_snapshot import withdrawn
from provender.plugin.manifest import RunRecord
from provender.plugin.online_database import Cursor, OnlineDatabase
from provender.plugin.online_keys import EntityKeys, Keys
from provender.plugin.online_rows import Bools, Column
from provender.plugin.online_tables import OnlineTable
from provender.plugin.packing import RowLayout, Slot, unpack
from provender.plugin.proto_cells import to_protos
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.stored_rows import (
    DamagedRowError,
    FoundRow,
    FoundRows,
    PackedRows,
    verified,
)
from provender.plugin.table_records import note_load
from provender.plugin.tensor_cells import column_of, empty_column, place
from provender.plugin.view_layouts import layout_of

#: From here on a push goes the way of a load.
BULK_ROWS = 1_000


@dataclass(frozen=True)
class OnlineView:
    """A view, its table, and how its keys and rows are written.

    Attributes:
        feature_view: what Feast has registered.
        database: where it lies.
        table: its table.
        keys: how its entities are written as keys.
        layout: how its rows are packed today.
        hot: the folder of its hot snapshot, None where there is none.
    """

    feature_view: BaseFeatureView
    database: OnlineDatabase
    table: OnlineTable
    keys: EntityKeys
    layout: RowLayout
    hot: Path | None

    @classmethod
    def of(
        cls, view: BaseFeatureView, database: OnlineDatabase, table: OnlineTable, hot: Path | None
    ) -> OnlineView:
        """A view that Feast has registered; only an embedding of one key can be hot."""
        keys, layout = EntityKeys.of(view), layout_of(view)
        hot = hot if is_embedding_view(view) and keys.kind != "entity" else None
        return cls(view, database, table, keys, layout, hot)

    @property
    def thing(self) -> str:
        """The view as messages name it."""
        return f"online feature view {self.feature_view.name}"

    @property
    def spec(self) -> EmbeddingSpec | None:
        """The declaration of an embedding view."""
        return spec_of(self.feature_view) if is_embedding_view(self.feature_view) else None

    def find(self, keys: Keys) -> tuple[Bools, FoundRows]:
        """Which of the keys are there, and the rows of those in the order of the request.

        Raises OnlineRowError for a damaged row, OnlineStoreError for the database's own errors.
        """
        if not len(keys):
            return np.zeros(0, dtype=np.bool_), verified([], lambda number: None)

        def query(cursor: Cursor) -> tuple[Bools, FoundRows]:
            several = len(keys) > self.database.dialect.most_bound
            with self.database.snapshot(cursor) if several else nullcontext():
                return self.find_by(cursor, keys)

        return self.database.read(self.thing, query)

    def find_by(self, cursor: Cursor, keys: Keys) -> tuple[Bools, FoundRows]:
        """The same by a cursor that has begun a snapshot, if one statement may not do."""
        dialect, rows = self.database.dialect, []
        for start in range(0, len(keys), dialect.most_bound):
            chunk = keys[start : start + dialect.most_bound]
            rows += dialect.find(cursor, self.table, chunk)
        by_key = {row[0]: row for row in rows}
        listed = keys if isinstance(keys, list) else keys.tolist()
        ordered = [by_key.get(key) for key in listed]
        present = np.array([row is not None for row in ordered], dtype=np.bool_)
        held = [row for row in ordered if row is not None]
        return present, self._verified(cursor, held)

    def scan(self, rows: int) -> Iterator[tuple[Keys, FoundRows]]:
        """All rows ascending by key, at most `rows` at a time, all from one state of the table."""
        with self.database.session(self.thing) as cursor, self.database.snapshot(cursor):
            yield from self.scan_by(cursor, rows)

    def scan_by(self, cursor: Cursor, rows: int) -> Iterator[tuple[Keys, FoundRows]]:
        """The same by a cursor that has begun a snapshot."""
        last: int | bytes | None = None
        while True:
            found = self.database.dialect.after(cursor, self.table, last, rows)
            if not found:
                return
            keys = [row[0] for row in found]
            yield (
                np.array(keys, dtype=np.int64) if self.table.integer else keys,
                self._verified(cursor, found),
            )
            last = keys[-1]

    def columns(
        self, found: FoundRows, names: Sequence[str], dim: int | None = None
    ) -> dict[str, Column]:
        """The found rows' features as arrays; those that a row's layout lacks are null."""
        slots = {slot.name: slot for slot in self.layout.slots}
        self._check_request(slots, names, dim)
        rows = len(found.event_us)
        if len(found.groups) == 1 and found.groups[0].layout == self.layout:
            cells = unpack(self.layout, found.groups[0].payloads, names)
            return {name: column_of(slots[name], cells[name], dim) for name in names}
        columns = {name: empty_column(slots[name], rows, dim) for name in names}
        for group in found.groups:
            cells = unpack(group.layout, group.payloads, names)
            where = np.arange(rows) if group.places is None else group.places
            for slot in group.layout.slots:
                if slot.name in cells:
                    self._place(columns[slot.name], where, slot, cells[slot.name], dim)
        return columns

    def protos(self, found: FoundRows, names: Sequence[str]) -> list[dict[str, Value]]:
        """The found rows' features as Feast's values, one dict a row."""
        rows: list[dict[str, Value]] = [{} for _ in found.event_us]
        for group in found.groups:
            cells = unpack(group.layout, group.payloads, names)
            places = range(len(rows)) if group.places is None else group.places.tolist()
            for slot in group.layout.slots:
                if slot.name in cells:
                    values = to_protos(slot, cells[slot.name])
                    for row, value in zip(places, values, strict=True):
                        rows[row][slot.name] = value
        for row_values in rows:
            for name in names:
                if name not in row_values:
                    row_values[name] = Value()
        return rows

    def write(self, chunks: Sequence[tuple[RowLayout, PackedRows]]) -> None:
        """Write pushed rows in one transaction; older never replaces newer."""

        def change(cursor: Cursor) -> None:
            for layout, rows in chunks:
                self._write(cursor, layout, rows, len(rows) >= BULK_ROWS)

        self.database.write(self.thing, change, self._committing)

    def load(
        self, chunks: Iterable[tuple[RowLayout, PackedRows, int]], runs: Sequence[RunRecord]
    ) -> int:
        """Write all chunks in one transaction under the table's load lock.

        Args:
            chunks: layout, rows and how many rows of the source they stand for.
            runs: of the snapshots that the rows come from.

        Returns:
            The rows of the source.

        Raises:
            LoadLockedError: another load of the table is under way.
        """
        database, total = self.database, 0
        with database.session(self.thing) as cursor, self._locked(cursor):
            with database.transaction(cursor, self._committing):
                for layout, rows, count in chunks:
                    self._write(cursor, layout, rows, bulk=True)
                    total += count
                ttl = None if self.spec is None else self.spec.ttl
                note_load(cursor, database.dialect.placeholder, self.table.name, runs, ttl)
            database.dialect.loaded(cursor, self.table)
        return total

    def register(self) -> None:
        """Note what the layout of today's rows says."""
        layout = self.layout

        def change(cursor: Cursor) -> None:
            self.database.dialect.register_layout(cursor, layout.id, layout.description)

        self.database.write(self.thing, change)

    @contextmanager
    def _locked(self, cursor: Cursor) -> Iterator[None]:
        with self.database.dialect.locked(cursor, self.table) as held:
            if not held:
                raise LoadLockedError(
                    self.thing,
                    found="another load of it under way",
                    expected="one at a time",
                    remedy="Wait until that one has ended, then run this one again; a killed "
                    "one gives up its lock by itself.",
                )
            yield

    def _write(self, cursor: Cursor, layout: RowLayout, rows: PackedRows, bulk: bool) -> None:
        dialect = self.database.dialect
        dialect.register_layout(cursor, layout.id, layout.description)
        (dialect.bulk_upsert if bulk else dialect.upsert)(cursor, self.table, rows)

    def _committing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.hot is None else withdrawn(self.hot)

    def _verified(self, cursor: Cursor, rows: Sequence[FoundRow]) -> FoundRows:
        try:
            return verified(rows, lambda number: self._layout(cursor, number))
        except DamagedRowError as error:
            raise OnlineRowError(
                f"{self.thing}, entity {self.keys.shown(error.key)}",
                found=error.found,
                expected="the row that was written",
                remedy="Delete the row, or drop the table with `feast teardown` and `feast apply`, "
                "then materialize the view again.",
            ) from None

    def _layout(self, cursor: Cursor, number: int) -> RowLayout | None:
        if number == self.layout.id:
            return self.layout
        known = self.database.layouts
        if number not in known:
            description = self.database.dialect.find_layout(cursor, number)
            try:
                layout = RowLayout.parse(description or "null")
            except (ValueError, TypeError):
                return None
            if layout.id != number:
                return None
            known[number] = layout
        return known[number]

    def _check_request(self, slots: dict[str, Slot], names: Sequence[str], dim: int | None) -> None:
        unknown = [name for name in names if name not in slots]
        if unknown:
            self._refuse(f"the features {', '.join(unknown)}", f"of {', '.join(slots)}")
        if dim is None:
            return
        spec = self.spec
        if spec is None:
            self._refuse(f"dim {dim}", "no dim, for it is no embedding view")
        elif dim not in (*spec.nested_dims, spec.dim):
            known = ", ".join(map(str, (*spec.nested_dims, spec.dim)))
            self._refuse(f"dim {dim}", f"one of its dims {known}")

    def _refuse(self, found: str, expected: str) -> None:
        raise FetchError(self.thing, found=found, expected=expected, remedy="Correct the request.")

    def _place(self, column: Column, where: Any, slot: Slot, cells: Any, dim: int | None) -> None:
        try:
            place(column, where, column_of(slot, cells, dim))
        except ValueError as error:
            raise OnlineRowError(
                f"{self.thing}, feature {slot.name}",
                found=f"rows that were written otherwise: {error}",
                expected="values as the view declares them",
                remedy="Materialize the view again.",
            ) from None
