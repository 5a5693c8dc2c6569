"""What one ranking request asks for, checked and turned into arrays before anything is read.

Legend of shapes: B candidates, P past actions that count, U distinct pins of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from provender.consumers.ranking_task import PIN, USER
from provender.consumers.user_history import Action, HistorySpec
from provender.plugin.errors import FetchError
from provender.plugin.online_rows import microseconds_of

Ints = npt.NDArray[np.int64]
Key = int | str
#: Join key -> the type of its keys, where the feature service says it.
KeyTypes = Mapping[str, pa.DataType]


class Request(NamedTuple):
    """A user and what may be shown to it.

    Attributes:
        user_id: whose request it is; the unknown have no features.
        pin_ids: the candidates, (B,).
        context: column -> one value for all rows, or a sequence or array of one a candidate.
        history: what the user did, in any order.
    """

    user_id: Key
    pin_ids: Sequence[Key] | npt.NDArray[Any] | pa.Array
    context: Mapping[str, Any] | None = None
    history: Sequence[Action] = ()


@dataclass(frozen=True)
class Prepared:
    """A request that can be read.

    Attributes:
        instant: the time of the request.
        keys: join key -> (B,) int64 or string.
        context: column -> (B,).
        pins: (U,) the distinct pins: of the candidates, then of the past.
        rows: int64 (B,), the place of each candidate in `pins`.
        past: int64 (P,), the place of each action's pin in `pins`, the latest first.
        kinds: int64 (P,), places in the spec's kinds.
        ages_us: int64 (P,), microseconds from each action to the request.
    """

    instant: datetime
    keys: dict[str, pa.Array]
    context: dict[str, pa.Array]
    pins: pa.Array
    rows: Ints
    past: Ints
    kinds: Ints
    ages_us: Ints

    def __len__(self) -> int:
        return len(self.rows)


def prepare(
    request: Request, instant: datetime, types: KeyTypes, spec: HistorySpec | None
) -> Prepared:
    """Check a request; raises FetchError for a key, context value or action that means nothing.

    Actions that are not earlier than the request are left out, as the training join leaves them
    out; of the others the latest of the spec's length count. Without a spec none does.
    """
    pins = key_array(PIN, request.pin_ids, types.get(PIN))
    user = key_array(USER, [request.user_id], types.get(USER))
    actions = _latest(request.history, instant, spec) if spec is not None and len(pins) else []
    past = key_array(f"{PIN} of the history", [each.pin for each in actions], pins.type)
    both = pa.concat_arrays([pins, past]) if len(past) else pins
    distinct, places = _distinct(both)
    kinds = spec.kinds if spec is not None else ()
    now = microseconds_of(instant)
    return Prepared(
        instant=instant,
        keys={USER: pa.repeat(user[0], len(pins)), PIN: pins},
        context={name: _context(name, v, len(pins)) for name, v in (request.context or {}).items()},
        pins=distinct,
        rows=places[: len(pins)],
        past=places[len(pins) :],
        kinds=np.array([kinds.index(each.kind) for each in actions], np.int64),
        ages_us=np.array([now - microseconds_of(each.time) for each in actions], np.int64),
    )


def key_array(
    thing: str, keys: Sequence[Key] | npt.NDArray[Any] | pa.Array, declared: pa.DataType | None
) -> pa.Array:
    """Return keys as int64 or string (n,), of the type that is declared for them if one is.

    Raises FetchError for null, for what is no whole number or string, and for another type.
    """
    try:
        array = keys if isinstance(keys, pa.Array) else pa.array(keys)
    except (pa.ArrowException, OverflowError, TypeError):
        raise _bad_key(thing, keys) from None
    if pa.types.is_null(array.type) and not len(array):
        return pa.array([], declared or pa.int64())
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if array.null_count or not (text or pa.types.is_integer(array.type)):
        raise _bad_key(thing, array.to_pylist())
    wanted = pa.string() if text else pa.int64()
    if declared is not None and wanted != declared:
        raise refused(f"key {thing}", f"{array[0].as_py()!r}", f"keys of type {declared}")
    try:
        return array if array.type == wanted else array.cast(wanted)
    except pa.ArrowInvalid:
        raise _bad_key(thing, array.to_pylist()) from None


def refused(thing: str, found: str, expected: str) -> FetchError:
    """What to raise about a request."""
    return FetchError(thing, found=found, expected=expected, remedy="Correct the request.")


def _distinct(keys: pa.Array) -> tuple[pa.Array, Ints]:
    """The distinct keys in the order of their first appearance, and the place of each there."""
    if pa.types.is_integer(keys.type):
        # Most often they are distinct, and a sort says so in less time than a hash table.
        ascending = np.sort(keys.to_numpy())
        if (ascending[1:] != ascending[:-1]).all():
            return keys, np.arange(len(keys))
    encoded = keys.dictionary_encode()
    return encoded.dictionary, np.asarray(encoded.indices.to_numpy(), np.int64)


def _bad_key(thing: str, keys: Any) -> FetchError:
    """Name the key that is none: one by one, for all is lost already."""
    for key in keys:
        plain = key.item() if isinstance(key, np.generic) else key
        if isinstance(plain, bool) or not isinstance(plain, int | str):
            return refused(f"key {thing}", repr(key), "a whole number or a string")
        if isinstance(plain, int) and not -(2**63) <= plain < 2**63:
            return refused(f"key {thing}", repr(key), "a whole number of 64 bits")
    return refused(f"key {thing}", "keys of several types", "one type")


def _context(name: str, value: Any, rows: int) -> pa.Array:
    try:
        if isinstance(value, pa.Array | pa.ChunkedArray):
            array = pa.concat_arrays(value.chunks) if isinstance(value, pa.ChunkedArray) else value
        elif isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
            array = pa.array(value)
        else:
            array = pa.repeat(value, rows)
    except (pa.ArrowException, OverflowError, TypeError):
        raise refused(
            f"context {name}", "values of several types, or of none", "one type"
        ) from None
    if len(array) != rows:
        raise refused(f"context {name}", f"{len(array)} values", f"one, or {rows}")
    missing = array.null_count
    if pa.types.is_floating(array.type):
        missing += int(np.isnan(array.to_numpy(zero_copy_only=False)).sum())
    if missing or (rows and pa.types.is_null(array.type)):
        raise refused(f"context {name}", "null or NaN", "a value for each candidate")
    return array


def _latest(history: Sequence[Action], instant: datetime, spec: HistorySpec) -> list[Action]:
    """The last actions before the request, the latest first; ties as the log of actions has them.

    Of the same time the first is the one whose kind, then whose pin, comes first.
    """
    for place, action in enumerate(history):
        if action.kind not in spec.kinds:
            found, expected = f"the kind {action.kind!r}", f"one of {', '.join(spec.kinds)}"
            raise refused(f"history, action {place}", found, expected)
        if action.time.tzinfo is None:
            found = f"the time {action.time} without a zone"
            raise refused(f"history, action {place}", found, "a time with its zone")
    before = [each for each in history if each.time < instant]
    try:
        before.sort(key=lambda each: (instant - each.time, spec.kinds.index(each.kind), each.pin))
    except TypeError:
        raise refused(f"{PIN} of the history", "keys of several types", "one type") from None
    return before[: spec.length]
