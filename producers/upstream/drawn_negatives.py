"""Rows drawn beside those of a source whose labels are always positive: the same user, another pin.

By `popularity` the pin is that of a row drawn among all rows before, of sources and of events
between user and pin, so that a pin comes as often as it has occurred by then; `uniform` draws among
the pins that are known by then. Either way a draw is a place in a list that is ordered by time, out
of so many as lie before. It is a hash of the seed, the row and the number of the draw: it depends
on nothing later than the row, and is the same at whichever refresh the row is learned from.

A pin that is the row's own, that is taken down by then or that the user has in another row of the
source at that very time is drawn anew, some times at most; then there is a negative less.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from provender.producers.upstream.entity_keys import ALWAYS_SQL, numbered
from provender.producers.upstream.tower_rows import Reading

#: Draws are made in rounds that end before these numbers, for what no earlier one has found.
_ROUNDS = (0, 1, 4, 16)


def salt(*parts: str) -> str:
    """SQL of a hash of 64 bits (of MD5, the same in every version of DuckDB) of all parts."""
    return f"md5_number_lower(concat_ws(chr(31), {', '.join(parts)}))"


def uniform(*parts: str) -> str:
    """SQL of a number in [0, 1) that is a hash of all parts."""
    return f"(CAST({salt(*parts)} >> 11 AS DOUBLE) / {1 << 53})"


def pools(reading: Reading, deeds: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Write what is drawn from.

    Args:
        deeds: SQL of rows with `pin` (or null) and `time`, of sources and events.
        names: `popularity`, `uniform` or both.

    Returns SQL of each's `place` (from 0), `pin` (a key) and `time`, ascending in both.
    """
    every = " UNION ALL ".join(f"SELECT pin, time FROM {one}" for one in deeds)
    first = f"least(first, CASE WHEN listed THEN coalesce(since, {ALWAYS_SQL}) END)"
    selects = {
        "popularity": f"SELECT pin, time FROM ({every}) WHERE pin IS NOT NULL ORDER BY time, pin",
        "uniform": f"SELECT key AS pin, {first} AS time FROM {numbered(reading, 'pin')} "
        "ORDER BY time, pin",
    }
    return {
        name: reading.numbered_copy(selects[name], f"pool_{name}", number="place") for name in names
    }


def drawn(
    reading: Reading,
    name: str,
    rows: str,
    all_rows: str,
    pool: str,
    negatives: int,
    *,
    including: bool,
    listings: str | None,
) -> str:
    """Draw the negatives of a source.

    Args:
        name: the source's.
        rows: SQL of the rows that have negatives: row, user, time, salt.
        all_rows: SQL of all of the source's rows.
        pool: what to draw from.
        negatives: how many a row.
        including: whether what the pool has at the row's very time may be drawn: pins known then,
            but no rows.
        listings: when pins were there (entity_keys.read_listings); None where that is not told.

    Returns SQL of `row`, `draw` (1 to `negatives`) and `pin` (a key).
    """
    at = ">=" if including else ">"
    asked = reading.copy(
        f"WITH ends AS (SELECT time, max(place) + 1 AS places FROM {pool} GROUP BY time)\n"
        "SELECT r.row, r.user, r.time, r.salt, e.places, "
        f"unnest(range(1, {negatives + 1})) AS draw "
        f"FROM {rows} r ASOF JOIN ends e ON r.time {at} e.time",
        f"asked_{name}",
    )
    parts: list[str] = []
    for first, end in pairwise(_ROUNDS):
        if parts and not reading.count(asked):
            break
        select = _taken(asked, range(first, end), pool, all_rows, listings)
        found = reading.copy(select, f"drawn_{name}_{first}")
        parts.append(f"FROM {found}")
        asked = f"(FROM {asked} a ANTI JOIN {found} f ON f.row = a.row AND f.draw = a.draw)"
    return f"({' UNION ALL '.join(parts)})"


def _taken(asked: str, attempts: range, pool: str, all_rows: str, listings: str | None) -> str:
    """The SELECT of what the first attempt that can be taken has drawn, by `row` and `draw`."""
    chance = uniform("salt", "draw", "attempt")
    spells, there = "", "true"
    if listings is not None:
        spells = f"ASOF LEFT JOIN {listings} l ON l.key = d.pin AND d.time >= l.since"
        there = "coalesce(l.until > d.time, true)"
    tried = f"unnest(range({attempts.start}, {attempts.stop})) AS attempt"
    return (
        f"WITH tried AS (SELECT *, {tried} FROM {asked}),\n"
        f"placed AS (SELECT *, CAST(floor({chance} * places) AS BIGINT) AS place FROM tried),\n"
        f"drawn AS (SELECT t.* EXCLUDE (place), p.pin FROM placed t JOIN {pool} p "
        "ON p.place = t.place),\n"
        f"allowed AS (SELECT d.row, d.draw, d.attempt, d.pin FROM drawn d {spells} WHERE {there} "
        f"AND NOT EXISTS (FROM {all_rows} o WHERE o.user = d.user AND o.pin = d.pin "
        "AND o.time = d.time))\n"
        "SELECT row, draw, arg_min(pin, attempt) AS pin FROM allowed GROUP BY row, draw"
    )
