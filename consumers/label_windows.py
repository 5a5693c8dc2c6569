"""What followed an impression within a label's window, and whether the window has closed.

`provender_shown` is the table of impressions to label, `provender_read` that of all in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa

from provender.consumers.delayed_feedback import DelayDistribution, Ints
from provender.consumers.log_columns import micros, time_sql
from provender.consumers.ranking_task import ID, KEYS, TIME, Label
from provender.plugin.tables import explained, quoted

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class LabelWindow:
    """One label, and which of its windows have closed at a time.

    Attributes:
        within: microseconds of the attribution window.
        now: the first microsecond that was not observed any more.
        delays: of mature positives, where younger rows are weighed; None where they are left out.
    """

    within: int
    now: int
    delays: DelayDistribution | None

    def columns(self, followed: pa.Array, times: Ints) -> tuple[pa.Array, pa.Array]:
        """Labels, int8 with nulls where unknown, and weights, float32 and 0 there.

        A window has closed when its last microsecond, which belongs to it, was observed.

        Args:
            followed: (n,) of 0 and 1, whether the event was seen.
            times: (n,) of the impressions, microseconds since 1970-01-01 UTC.
        """
        labels, elapsed = followed.to_numpy().astype(np.int8), self.now - times
        weights = np.where(elapsed > self.within, 1.0, 0.0)
        if self.delays is not None:
            young = self.delays.weights(labels == 1, elapsed)
            weights = np.where(weights > 0, weights, young)
        return pa.array(labels, mask=weights == 0), pa.array(weights.astype(np.float32))


def match_label(
    connection: duckdb.DuckDBPyConnection, name: str, label: Label, observed_until: datetime
) -> LabelWindow:
    """Make the table `provender_<label>` of the impressions' ids that the event followed."""
    keys = "".join(
        f", {quoted(theirs)} as k{place}" for place, theirs in enumerate(label.match.values())
    )
    with explained(f"ranking: label {name} of table {label.table}"):
        connection.execute(
            f"""create temp table provender_{name}_rows as
                select {time_sql(connection, label)} as t{keys}
                from {quoted(label.table)} where ({label.where or "true"})"""
        )
    within, now = label.within // _MICROSECOND, micros(observed_until)
    connection.execute(
        f"""create temp table provender_{name} as
            {_followed(connection, name, label, "provender_shown", now)}"""
    )
    delays = _delays(connection, name, label, now) if label.immature == "weigh" else None
    return LabelWindow(within, now, delays)


def _delays(
    connection: duckdb.DuckDBPyConnection, name: str, label: Label, now: int
) -> DelayDistribution:
    """The delays of all impressions in the log whose window has closed, not only of those asked."""
    good = " and ".join(f"{key} is not null" for key in KEYS)
    mature = f"{good} and {TIME} + {label.within // _MICROSECOND} < {now}"
    connection.execute(
        f"create or replace temp view provender_mature as from provender_read where {mature}"
    )
    found = connection.sql(_followed(connection, name, label, "provender_mature", now))
    delays = found.to_arrow_table()["delay"].to_numpy()
    rows = connection.execute("select count(*) from provender_mature").fetchall()
    return DelayDistribution.of(delays, int(rows[0][0]))


def _followed(
    connection: duckdb.DuckDBPyConnection, name: str, label: Label, table: str, now: int
) -> str:
    """SQL of the impressions that the event followed, and the microseconds until its first."""
    same = " and ".join(
        f"try_cast(l.k{place} as {_type_of(connection, ours)}) = s.{ours}"
        for place, ours in enumerate(label.match)
    )
    within = label.within // _MICROSECOND
    return f"""select s.{ID} as id, min(l.t) - s.{TIME} as delay
        from {table} s join provender_{name}_rows l on {same}
        where l.t >= s.{TIME} and l.t <= s.{TIME} + {within} and l.t < {now}
        group by s.{ID}, s.{TIME}"""


def _type_of(connection: duckdb.DuckDBPyConnection, column: str) -> str:
    types = connection.execute(f"select typeof({column}) from provender_read limit 1").fetchall()
    return str(types[0][0]) if types else "VARCHAR"
