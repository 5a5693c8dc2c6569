"""Requests as they were: a user, the pins that it was shown on one day, and where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from provender.consumers.ranking_task import PIN, TIME, USER, context_columns
from provender.plugin.errors import FetchError

_DAY = 86_400_000_000


@dataclass(frozen=True)
class LoggedRequest:
    """A user, its candidates and their context, one value a candidate."""

    user: int | str
    pins: list[int | str]
    context: dict[str, pa.Array]


def logged_requests(
    shown: pa.Table, count: int, candidates: int, seed: int
) -> Iterator[LoggedRequest]:
    """Draw users' days from labelled impressions, each at most once.

    The candidates are the pins that the user was shown that day, in their order, filled up with
    other pins of that day, which are asked for in the context of the first.

    Raises FetchError where there are no impressions.
    """
    check_shown("requests to replay", shown)
    generator = np.random.default_rng(seed)
    days = shown[TIME].cast(pa.int64()).to_numpy() // _DAY
    users = shown[USER].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    visits = users * (int(days.max()) + 1) + days
    order = np.argsort(visits, kind="stable")
    distinct, starts = np.unique(visits[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for visit in generator.choice(len(distinct), min(count, len(distinct)), replace=False):
        rows = order[starts[visit] : ends[visit]][:candidates]
        others = np.flatnonzero(days == days[rows[0]])
        yield _request(shown, rows, others, candidates, generator)


def check_shown(thing: str, shown: pa.Table) -> None:
    """Raise FetchError where there are no impressions to draw requests from."""
    if not shown.num_rows:
        raise FetchError(
            thing,
            found="no impressions after the last refresh",
            expected="some, to draw users and candidates from",
            remedy="Correct the dates of the world file.",
        )


def _request(
    shown: pa.Table,
    rows: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    candidates: int,
    generator: np.random.Generator,
) -> LoggedRequest:
    pins = shown[PIN].take(pa.array(rows)).to_pylist()
    known = set(pins)
    of_the_day = shown[PIN].take(pa.array(others)).unique().sort().to_pylist()
    free = [pin for pin in of_the_day if pin not in known]
    missing = min(candidates - len(pins), len(free))
    drawn = generator.choice(len(free), missing, replace=False) if missing > 0 else ()
    filled = [free[place] for place in drawn]
    places = pa.array(np.append(rows, [rows[0]] * len(filled)).astype(np.int64))
    names = context_columns(shown.column_names)
    context = {name: shown[name].take(places).combine_chunks() for name in names}
    user = shown[USER][int(rows[0])].as_py()
    return LoggedRequest(user, pins + filled, context)
