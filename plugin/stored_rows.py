"""Rows between packing and a database: what is written, and what was found and is verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from provender.plugin.checksums import key_words, row_checksums
from provender.plugin.online_keys import Keys
from provender.plugin.packing import Ints, Payloads, RowLayout

#: What a query returns of a row, in this order.
COLUMNS = ("key", "event_us", "created_us", "layout", "checksum", "payload")
FoundRow = tuple[Any, int, int, int, int, bytes]


class DamagedRowError(ValueError):
    """A row that is not what was written; the store adds the names of the view and the entity.

    Attributes:
        key: its key.
        found: what is wrong.
    """

    def __init__(self, key: int | bytes, found: str) -> None:
        super().__init__(found)
        self.key, self.found = key, found


@dataclass(frozen=True)
class PackedRows:
    """n rows of one layout as they are written; the arrays are (n,).

    Attributes:
        keys: int64, or byte strings.
        event_us: microseconds since 1970 in UTC.
        created_us: the same, or the least int64 where there is no created time.
        layout: the layout's id.
        payloads: the packed features.
    """

    keys: Keys
    event_us: Ints
    created_us: Ints
    layout: int
    payloads: Payloads

    def __len__(self) -> int:
        return len(self.event_us)

    def checksums(self) -> Ints:
        """(n,) int64 over all that a row holds."""
        return row_checksums(
            key_words(self.keys),
            self.event_us,
            self.created_us,
            self.layout,
            self.payloads.data,
            self.payloads.offsets,
        )

    def newest(self) -> PackedRows:
        """One row a key, ascending: the newest by event and created time, the last of a tie.

        B-trees are filled in order, and no statement meets a key twice.
        """
        if not len(self):
            return self
        if isinstance(self.keys, np.ndarray):
            if (np.diff(self.keys) > 0).all():
                return self
            order = np.lexsort((self.created_us, self.event_us, self.keys))
            last = np.append(np.diff(self.keys[order]) != 0, True)
            return self.take(order[last])
        times = zip(self.keys, self.event_us.tolist(), self.created_us.tolist(), strict=True)
        best: dict[bytes, tuple[int, int, int]] = {}
        for row, (key, event, created) in enumerate(times):
            if key not in best or (event, created) >= best[key][:2]:
                best[key] = (event, created, row)
        return self.take(np.array([best[key][2] for key in sorted(best)], dtype=np.int64))

    def take(self, rows: Ints) -> PackedRows:
        """These rows, in their order."""
        keys = self.keys
        return replace(
            self,
            keys=keys[rows] if isinstance(keys, np.ndarray) else [keys[row] for row in rows],
            event_us=self.event_us[rows],
            created_us=self.created_us[rows],
            payloads=self.payloads.take(rows),
        )

    def tuples(self) -> Iterator[FoundRow]:
        """One tuple of :data:`COLUMNS` a row, for drivers that take no arrays."""
        rows = len(self)
        return zip(
            self.keys.tolist() if isinstance(self.keys, np.ndarray) else self.keys,
            self.event_us.tolist(),
            self.created_us.tolist(),
            [self.layout] * rows,
            self.checksums().tolist(),
            self.payloads.to_list(),
            strict=True,
        )


@dataclass(frozen=True)
class LayoutRows:
    """Found and verified rows of one layout.

    Attributes:
        layout: how they are packed.
        places: (m,) where in the answer each belongs; None for all of it in order.
        payloads: the packed features.
    """

    layout: RowLayout
    places: Ints | None
    payloads: Payloads


@dataclass(frozen=True)
class FoundRows:
    """Found and verified rows.

    Attributes:
        event_us: (n,) microseconds since 1970 in UTC.
        groups: the rows by their layout.
    """

    event_us: Ints
    groups: list[LayoutRows]


def verified(rows: Sequence[FoundRow], layout_of: Callable[[int], RowLayout | None]) -> FoundRows:
    """Compare every row with its checksum.

    Args:
        rows: as a query returned them.
        layout_of: the layout of an id, None where the store knows none.

    Raises:
        DamagedRowError: a row that is not what was written.
    """
    if not rows:
        return FoundRows(np.empty(0, dtype=np.int64), [])
    keys, event_us, created_us, ids, sums, payloads = zip(*rows, strict=True)
    events = np.array(event_us, dtype=np.int64)
    created, checks = np.array(created_us, dtype=np.int64), np.array(sums, dtype=np.int64)
    groups = []
    numbers = sorted(set(ids))
    for number in numbers:
        layout = layout_of(number)
        whole = len(numbers) == 1  # Nearly always: rows of a former schema are soon replaced.
        places = np.arange(len(ids)) if whole else np.flatnonzero(np.array(ids) == number)
        if layout is None:
            raise DamagedRowError(keys[places[0]], f"the unknown row layout {number}")
        held = payloads if whole else [payloads[row] for row in places]
        own = keys if whole else [keys[row] for row in places]
        payload = Payloads.of(held)
        _check_sizes(layout, own, payload.sizes)
        packed = PackedRows(
            np.array(own, dtype=np.int64) if isinstance(own[0], int) else list(own),
            events[places],
            created[places],
            number,
            payload,
        )
        wrong = packed.checksums() != checks[places]
        if wrong.any():
            raise DamagedRowError(own[int(np.argmax(wrong))], "bytes that do not fit its checksum")
        groups.append(LayoutRows(layout, None if whole else places, payload))
    return FoundRows(events, groups)


def _check_sizes(layout: RowLayout, keys: Sequence[int | bytes], sizes: Ints) -> None:
    if layout.variable:
        wrong, expected = (sizes < 8) | (sizes % 8 != 0), "a multiple of 8"
    else:
        wrong, expected = sizes != layout.width, str(layout.width)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DamagedRowError(keys[row], f"a payload of {sizes[row]} bytes instead of {expected}")
