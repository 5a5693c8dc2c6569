"""Labels against a loop, over any logs and cuts; and over refreshes each label is learned once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import SourceError
from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.tower_reading import read_tower_set
from tests.producers.upstream.reading_world import (
    Row,
    at,
    examples_of,
    micro,
    seconds,
    world_of,
    write_table,
)

INT = pa.int64()
SHOWN = pa.schema([("id", INT), ("user", INT), ("pin", INT), ("ts", INT)])
CLICKS = pa.schema([("shown", INT), ("ts", INT)])
BUYS = pa.schema([("user", INT), ("pin", INT), ("ts", INT)])
PINS = pa.schema([("pin", INT), ("born", INT), ("gone", INT)])
TIME: dict[str, Any] = {"time": "ts", "time_unit": "s"}
WITHIN = {"click": 2, "buy": 5}
NEGATIVES = 3
EVENT: Any = {"head": {"user": "user"}, "tail": {"pin": "pin"}, **TIME}
WORLD = world_of(["shown", "clicks", "buys", "pins"], {"look": {"table": "shown", **EVENT}})
DECLARED: dict[str, Any] = {
    "sources": {
        "shown": {"table": "shown", "id": "id", "user": "user", "pin": "pin", **TIME, "labels": {
            "click": {"table": "clicks", "match": {"id": "shown"}, "within": "2h", **TIME},
            "buy": {"table": "buys", "match": {"user": "user", "pin": "pin"}, "within": "5h",
                    **TIME}}},
        "bought": {"table": "buys", "user": "user", "pin": "pin", **TIME,
                   "labels": {"bought": "always"}, "negatives": NEGATIVES},
    },
    "pins": {"table": "pins", "key": "pin", "time": "born", "time_unit": "s", "until": "gone"},
}  # fmt: skip

hours = st.integers(0, 12)
users, pins = st.integers(1, 3), st.integers(1, 4)
maybe = st.integers(0, 8) | st.none()
shown_rows = st.lists(st.tuples(maybe, users, pins, hours), min_size=1, max_size=30)
click_rows = st.lists(st.tuples(maybe, hours), min_size=1, max_size=15)
buy_rows = st.lists(st.tuples(users, pins, hours), min_size=1, max_size=15)
pin_rows = st.lists(st.tuples(pins, hours, hours | st.none()), min_size=1, max_size=6)
cuts = st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True).map(sorted)


class Log:
    """Rows with times in hours, and what a reader should make of them, by loops."""

    def __init__(self, shown: Any, clicks: Any, buys: Any, listed: Any) -> None:
        self.shown, self.clicks, self.buys, self.listed = shown, clicks, buys, listed

    def write(self, folder: Path) -> None:
        def named(schema: pa.Schema, rows: Any, times: int) -> list[Row]:
            return [
                dict(zip(schema.names, row[:-times], strict=False))
                | {
                    name: None if hour is None else seconds(hour)
                    for name, hour in zip(schema.names[-times:], row[-times:], strict=True)
                }
                for row in rows
            ]

        for name, schema, rows, times in (
            ("shown", SHOWN, self.shown, 1),
            ("clicks", CLICKS, self.clicks, 1),
            ("buys", BUYS, self.buys, 1),
            ("pins", PINS, self.listed, 2),
        ):
            write_table(folder, name, schema, named(schema, rows, times))

    def labels(self, cut: int) -> list[Row]:
        """Of each row before the cut whose labels are known in part: the labels."""
        rows = sorted(
            (row for row in self.shown if row[3] < cut),
            key=lambda row: (row[3], row[1], row[2], row[0] is None, row[0] or 0),
        )
        hits: set[tuple[int, str]] = set()
        for task, log in (("click", self.clicks), ("buy", self.buys)):
            for one in log:
                if one[-1] >= cut:
                    continue
                earlier = [
                    place
                    for place, row in enumerate(rows)
                    if row[3] <= one[-1]
                    and (row[0] == one[0] is not None if task == "click" else row[1:3] == one[:2])
                ]
                if earlier:
                    newest = max(rows[place][3] for place in earlier)
                    first = next(place for place in earlier if rows[place][3] == newest)
                    if one[-1] <= newest + WITHIN[task]:
                        hits.add((first, task))
        told = []
        for place, (_, user, pin, hour) in enumerate(rows):
            labels = {
                task: int((place, task) in hits) if hour + within < cut else None
                for task, within in WITHIN.items()
            }
            told.append({"user": user, "pin": pin, "hour": hour, **labels})
        return [row for row in told if any(row[task] is not None for task in WITHIN)]

    def is_there(self, pin: int, hour: int) -> bool:
        """Whether a pin was known at that time and not taken down."""
        met = [row[3] for row in self.shown if row[2] == pin]
        met += [row[2] for row in self.buys if row[1] == pin]
        listings = [(since, until) for one, since, until in self.listed if one == pin]
        begun = [since for since, _ in listings if since <= hour]
        if not begun:
            return any(time <= hour for time in met)
        ends = [until for since, until in listings if since == max(begun)]
        return None in ends or max(ends) > hour


logs = st.builds(Log, shown_rows, click_rows, buy_rows, pin_rows)


def read(log: Log, cut: int, since: int | None = None, by: str = "popularity") -> list[Row]:
    declared: Any = {**DECLARED, "sources": dict(DECLARED["sources"])}
    declared["sources"]["bought"] = DECLARED["sources"]["bought"] | {"negatives_by": by}
    with TemporaryDirectory() as name:
        folder = Path(name)
        log.write(folder)
        tower_set = read_tower_set(
            TowerSources.model_validate(declared),
            WORLD,
            folder,
            folder / "set",
            at(cut),
            since=None if since is None else at(since),
        )
        return examples_of(tower_set)


def told(rows: list[Row]) -> Counter[tuple[Any, ...]]:
    """Each known label of each row of the source `shown`, as often as it is there."""
    return Counter(
        (row["user"], row["pin"], row["time"], task, row[f"label_{task}"])
        for row in rows
        for task in WITHIN
        if row["source"] == "shown" and row[f"label_{task}"] is not None
    )


def bought(rows: list[Row]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (row["user"], row["pin"], row["time"], row["label_bought"])
        for row in rows
        if row["source"] == "bought"
    )


@settings(max_examples=12, deadline=None)
@given(logs, st.integers(1, 20))
def test_labels_are_those_of_a_loop(log: Log, cut: int) -> None:
    expected = [
        ("shown", row["user"], row["pin"], micro(row["hour"]), row["click"], row["buy"], None)
        for row in log.labels(cut)
    ] + [
        ("bought", user, pin, micro(hour), None, None, 1)
        for user, pin, hour in log.buys
        if hour < cut
    ]
    if not expected:
        with pytest.raises(SourceError, match="no example before"):
            read(log, cut)
        return
    found = [
        (row["source"], row["user"], row["pin"], row["time"], row["label_click"],
         row["label_buy"], row["label_bought"])
        for row in read(log, cut)
        if row["label_bought"] != 0
    ]  # fmt: skip
    assert Counter(found) == Counter(expected)
    assert [row[3] for row in found] == sorted(row[3] for row in found)


@settings(max_examples=5, deadline=None)
@given(logs, cuts, st.sampled_from(["popularity", "uniform"]))
def test_over_refreshes_each_label_and_each_negative_is_learned_once(
    log: Log, cuts: list[int], by: str
) -> None:
    parts: list[Row] = []
    for since, cut in zip([-1, *cuts], cuts, strict=False):
        parts += read(log, cut, since, by)
    whole = read(log, cuts[-1], -1, by)
    assert told(parts) == told(whole)
    assert bought(parts) == bought(whole)


@settings(max_examples=6, deadline=None)
@given(logs, st.sampled_from(["popularity", "uniform"]))
def test_a_negative_is_a_pin_that_is_there_and_not_the_users(log: Log, by: str) -> None:
    rows = [row for row in read(log, 20, -1, by) if row["source"] == "bought"]
    positives = Counter((r["user"], r["time"]) for r in rows if r["label_bought"] == 1)
    negatives = [row for row in rows if row["label_bought"] == 0]
    own = {(user, pin, micro(hour)) for user, pin, hour in log.buys}
    for row in negatives:
        hour = (row["time"] - micro(0)) // 3_600_000_000
        assert log.is_there(row["pin"], hour)
        assert (row["user"], row["pin"], row["time"]) not in own
        assert row["label_click"] is None and row["label_buy"] is None
        if by == "popularity":
            met = [r[3] for r in log.shown if r[2] == row["pin"]]
            met += [r[2] for r in log.buys if r[1] == row["pin"]]
            assert min(met) < hour
    for key, number in Counter((r["user"], r["time"]) for r in negatives).items():
        assert number <= NEGATIVES * positives[key]
