"""All snapshots of a view as one history, joined without sorting anything.

A snapshot's keys ascend and all its rows have one event and one created time. So the join goes
from the newest snapshot back: a row asks each that it may use, until one has its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import SnapshotError
from provender.plugin.history import MISSING, Positions
from provender.plugin.instants import Instants, instant, to_nanoseconds
from provender.plugin.manifest import SnapshotFile
from provender.plugin.mapped_vectors import MappedVectors, of_files
from provender.plugin.snapshot import Snapshot

Key = pa.Array | pa.ChunkedArray
#: Keys, and the positions of their vectors in the history.
Located = tuple[pa.Array, Positions]
#: The times of rows, for how long a vector holds, and whether it has to have been created.
_When = tuple[Instants, int | None, bool]


class SnapshotHistory:
    """The vectors of one view by key and time; positions count through all its snapshots.

    Takes 8 bytes a vector beside the mapped files, and the keys of the snapshots that are asked.
    """

    def __init__(self, snapshots: Sequence[Snapshot], dim: int) -> None:
        kept = [snapshot for snapshot in snapshots if snapshot.manifest.rows]
        self._parts = [_Part(snapshot) for snapshot in kept]
        self.dim = dim
        files = [file for s in kept for file in of_files(s.path, s.manifest.files, s.manifest.dim)]
        self.vectors = MappedVectors(files, dim)
        rows = [snapshot.manifest.rows for snapshot in kept]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._events = np.array([part.event for part in self._parts], np.int64)

    def find(
        self, keys: pa.Array, times: Instants, ttl: int | None, *, strict: bool = False
    ) -> Positions:
        """Return the position of the vector that holds for each key at its time, or MISSING.

        As :meth:`provender.plugin.history.History.find`; keys are normalized, length m.
        """

        def ask(part: _Part, rows: Positions) -> Positions:
            return part.find(keys if len(rows) == len(keys) else keys.take(pa.array(rows)))

        open_rows = np.flatnonzero(pc.is_valid(keys).to_numpy(zero_copy_only=False))
        return self._from_newest(ask, open_rows, (times, ttl, strict))

    def among(self, keys: pa.Array) -> NumberedKeys:
        """Return a finder of keys that are asked for again and again, by their places in `keys`.

        They are normalized; nulls are never found.
        """
        return NumberedKeys(self, keys)

    def _from_newest(self, ask: _Ask, open_rows: Positions, when: _When) -> Positions:
        """Let rows that are open ask each snapshot that they may use, the newest first."""
        times, ttl, strict = when
        found = np.full(len(times), MISSING, np.int64)
        for part, start in reversed(list(zip(self._parts, self._starts[:-1], strict=True))):
            if not len(open_rows):
                break
            usable = open_rows[part.usable(times[open_rows], ttl, strict)]
            if len(usable):
                rows = ask(part, usable)
                hit = rows != MISSING
                found[usable[hit]] = rows[hit] + start
                open_rows = open_rows[found[open_rows] == MISSING]
        return found

    @property
    def key_type(self) -> pa.DataType:
        """The normalized type of the key; null of no vectors at all."""
        return self._parts[-1].keys.type if self._parts else pa.null()

    def event(self, positions: Positions) -> Instants:
        """Return the event times of positions, none of which is MISSING."""
        return self._events[np.searchsorted(self._starts, positions, side="right") - 1]

    def latest(self, first: int, last: int) -> Iterator[Located]:
        """Yield each key once, with its newest vector of the window (both ends included)."""
        seen: list[_Part] = []
        for part, start in reversed(list(zip(self._parts, self._starts[:-1], strict=True))):
            if first <= part.event <= last:
                new = np.ones(part.rows, np.bool_)
                for newer in seen:
                    new[new] = newer.find(part.keys.filter(pa.array(new))) == MISSING
                yield part.keys.filter(pa.array(new)), np.flatnonzero(new) + start
                seen.append(part)

    def all(self, first: int, last: int) -> Iterator[Located]:
        """Yield every vector of the window."""
        for part, start in zip(self._parts, self._starts[:-1], strict=True):
            if first <= part.event <= last:
                yield part.keys, np.arange(part.rows) + start

    def created(self, positions: Positions) -> Instants:
        """Return the created times of positions, none of which is MISSING."""
        times = np.array([part.created for part in self._parts], np.int64)
        return times[np.searchsorted(self._starts, positions, side="right") - 1]


class NumberedKeys:
    """Keys with numbers in the snapshots of a view: each snapshot is searched for all of them once.

    Takes 4 bytes a key and snapshot, from when the snapshot is first asked.
    """

    def __init__(self, history: SnapshotHistory, keys: pa.Array) -> None:
        self._history, self._keys = history, keys
        self._places: dict[_Part, npt.NDArray[np.int32]] = {}

    def find(
        self, numbers: Positions, times: Instants, ttl: int | None, *, strict: bool = False
    ) -> Positions:
        """As :meth:`SnapshotHistory.find`; a number of -1 is no key's."""

        def ask(part: _Part, rows: Positions) -> Positions:
            return self._within(part)[numbers[rows]].astype(np.int64)

        return self._history._from_newest(ask, np.flatnonzero(numbers >= 0), (times, ttl, strict))

    def _within(self, part: _Part) -> npt.NDArray[np.int32]:
        if part not in self._places:
            valid = pc.is_valid(self._keys)
            places = np.full(len(self._keys), MISSING, np.int32)
            places[valid.to_numpy(zero_copy_only=False)] = part.find(self._keys.filter(valid))
            self._places[part] = places
        return self._places[part]


class _Part:
    """One snapshot: its keys, read when they are first asked for, and its two times."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.rows = snapshot.manifest.rows
        self.event = instant(snapshot.manifest.as_of)

    @cached_property
    def created(self) -> int:
        return int(to_nanoseconds(self._read("created_timestamp", groups=[0]))[0])

    @cached_property
    def keys(self) -> pa.Array:
        keys = self._read(self._snapshot.manifest.join_key)
        if len(keys) != self.rows:
            raise self._damaged(f"{len(keys)} keys")
        return keys

    @cached_property
    def _finder(self) -> Callable[[pa.Array], Positions]:
        if pa.types.is_integer(self.keys.type):
            return _IntegerKeys(self.keys.to_numpy()).find
        return self._find_text

    def find(self, keys: pa.Array) -> Positions:
        return self._finder(keys)

    def usable(self, times: Instants, ttl: int | None, strict: bool) -> npt.NDArray[np.bool_]:
        since = max(self.event, self.created) if strict else self.event
        usable = times >= since
        if ttl is not None:
            usable &= times - self.event <= ttl
        return usable

    def _find_text(self, keys: pa.Array) -> Positions:
        found = pc.index_in(keys, value_set=self.keys)
        return np.asarray(pc.fill_null(found, MISSING).to_numpy(), np.int64)

    def _read(self, column: str, groups: list[int] | None = None) -> pa.Array:
        try:
            files = [pq.ParquetFile(self._snapshot.path / f.name) for f in self._files]
            tables = [
                file.read_row_groups(groups or range(file.num_row_groups), columns=[column])
                for file in (files[:1] if groups else files)
            ]
            return pa.concat_tables(tables)[column].combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(str(error).splitlines()[0]) from None

    @property
    def _files(self) -> list[SnapshotFile]:
        return [file for file in self._snapshot.manifest.files if file.rows]

    def _damaged(self, found: str) -> SnapshotError:
        return SnapshotError(
            f"snapshot {self._snapshot.path}",
            found=found,
            expected=f"{self.rows} rows, by its manifest",
            remedy="Remove its folder and run the producer again for this as-of date.",
        )


#: Asks a snapshot for the keys of some rows: where they stand in it.
_Ask = Callable[[_Part, Positions], Positions]


class _IntegerKeys:
    """Ascending integer keys: a table of places where they lie densely, else binary search."""

    def __init__(self, keys: npt.NDArray[np.int64]) -> None:
        self._keys, self._low = keys, int(keys[0])
        span = int(keys[-1]) - self._low + 1
        self._places: npt.NDArray[np.int32] | None = None
        # Ids that a database counted up lie densely; the table is never larger than the keys.
        if span <= 2 * len(keys):
            self._places = np.full(span, MISSING, np.int32)
            self._places[keys - self._low] = np.arange(len(keys), dtype=np.int32)

    def find(self, keys: pa.Array) -> Positions:
        wanted = keys.to_numpy()
        if self._places is not None:
            inside = (wanted >= self._low) & (wanted <= self._keys[-1])
            places = self._places[np.where(inside, wanted - self._low, 0)]
            return np.where(inside, places, MISSING).astype(np.int64)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.where(self._keys[places] == wanted, places, MISSING)
