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

from provender.producers.upstream.entity_keys import ALWAYS_SQL, numbered
from provender.producers.upstream.tower_rows import Reading

#: After so many draws that can't be taken there is no negative.
_DRAWS = 16


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
    parts = []
    for attempt in range(_DRAWS):
        tried = reading.copy(
            _attempt(asked, attempt, pool, all_rows, listings), f"drawn_{name}_{attempt}"
        )
        parts.append(f"SELECT row, draw, pin FROM {tried} WHERE taken")
        asked = f"(SELECT * EXCLUDE (pin, taken) FROM {tried} WHERE NOT taken)"
        if not reading.count(asked):
            break
    return f"({' UNION ALL '.join(parts)})"


def _attempt(asked: str, attempt: int, pool: str, all_rows: str, listings: str | None) -> str:
    """The SELECT of what is asked for with a drawn `pin`, and whether it can be `taken`."""
    chance = uniform("salt", "draw", str(attempt))
    gone = "false"
    spells = ""
    if listings is not None:
        spells = f"ASOF LEFT JOIN {listings} l ON l.key = d.pin AND d.time >= l.since"
        gone = "coalesce(l.until <= d.time, false)"
    return (
        f"WITH placed AS (SELECT *, CAST(floor({chance} * places) AS BIGINT) AS place "
        f"FROM {asked}),\n"
        f"chosen AS (SELECT p.* EXCLUDE (place), o.pin FROM placed p JOIN {pool} o "
        "ON o.place = p.place),\n"
        f"own AS (SELECT DISTINCT user, pin, time FROM {all_rows})\n"
        f"SELECT d.*, NOT {gone} AND o.user IS NULL AS taken FROM chosen d {spells} "
        "LEFT JOIN own o ON o.user = d.user AND o.pin = d.pin AND o.time = d.time"
    )
