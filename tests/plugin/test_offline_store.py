"""The offline store's point-in-time joins against the oracle, through Feast's public methods."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, ValueType
from feast.types import Int64, String

from tests.plugin.offline_world import (
    CREATED,
    DAY,
    PIN,
    T0,
    TIME,
    USER,
    asked,
    check,
    facts_of,
    facts_table,
    open_store,
    retrieve,
    stamps,
    view_of,
    write,
)

TTL = timedelta(days=2)
US = 1000


def world(
    folder: Path, rows: list[tuple[Any, ...]], ttl: timedelta | None = TTL, **unit: Any
) -> tuple[FeatureStore, FeatureView, pa.Table]:
    """A store with the one view `stats` over rows of (user, event, created, value)."""
    table = facts_table(rows, **unit)
    view = view_of(write(folder / "stats.parquet", table), ttl=ttl)
    return open_store(folder, [view]), view, table


def test_the_newest_value_that_is_not_after_the_row(tmp_path: Path) -> None:
    rows = [(1, T0 + day * DAY, T0 + day * DAY, day) for day in (0, 1, 3)]
    store, view, table = world(tmp_path, rows, ttl=None)
    times = [T0 - US, T0, T0 + US, T0 + DAY - US, T0 + DAY, T0 + 3 * DAY, T0 + 9999 * DAY]

    found = check(store, asked([(1, t) for t in times]), ["stats:value"], [facts_of(view, table)])

    assert sorted(found["value"].to_pylist(), key=str) == [0, 0, 0, 1, 3, 3, None]


@pytest.mark.parametrize(("unit", "step"), [("us", 1000), ("ns", 1), ("ms", 10**6), ("s", 10**9)])
def test_the_ttl_holds_at_its_very_edge_and_not_one_step_past_it(
    tmp_path: Path, unit: str, step: int
) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7)], unit=unit)
    times = [T0 + 2 * DAY + moved * step for moved in (-1, 0, 1)]

    found = check(
        store, asked([(1, t) for t in times], unit=unit), ["stats:value"], [facts_of(view, table)]
    )

    assert found["value"].to_pylist() == [7, 7, None]


def test_nanoseconds_of_a_source_are_not_rounded_into_the_past(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0 + 1, T0, 7)], unit="ns")

    found = check(
        store,
        asked([(1, T0), (1, T0 + 1), (1, T0 + 2)], unit="ns"),
        ["stats:value"],
        [facts_of(view, table)],
    )

    assert found["value"].to_pylist() == [None, 7, 7]


def test_a_ttl_of_zero_is_without_limit(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7)], ttl=timedelta(0))

    check(store, asked([(1, T0 + 5000 * DAY)]), ["stats:value"], [facts_of(view, table)])


def test_ties_go_to_the_value_created_last_and_one_without_a_created_time_loses(
    tmp_path: Path,
) -> None:
    rows = [
        (1, T0, T0 + 1 * DAY, 10),
        (1, T0, T0 + 3 * DAY, 11),
        (1, T0, T0 + 2 * DAY, 12),
        (2, T0, None, 20),
        (2, T0, T0 - 9 * DAY, 21),
        (3, T0, None, 30),
        (4, T0, T0, 40),
        (4, T0 + US, T0 - DAY, 41),
    ]
    store, view, table = world(tmp_path, rows)

    found = check(
        store,
        asked([(user, T0 + DAY) for user in (1, 2, 3, 4)]),
        ["stats:value"],
        [facts_of(view, table)],
    )

    assert sorted(found["value"].to_pylist()) == [11, 21, 30, 41]


def test_values_created_later_count_unless_they_are_filtered(tmp_path: Path) -> None:
    rows = [
        (1, T0 - DAY, T0 - DAY, 1),
        (1, T0, T0 + DAY, 2),
        (1, T0, T0 + 2 * DAY, 3),
        (2, T0, None, 4),
        (3, T0, T0 + DAY, 5),
    ]
    store, view, table = world(tmp_path, rows)
    moved = (-DAY, 0, DAY - US, DAY, 2 * DAY - US, 2 * DAY)
    entities = asked([(user, T0 + after) for user in (1, 2, 3) for after in moved])

    check(store, entities, ["stats:value"], [facts_of(view, table)])
    found = check(store, entities, ["stats:value"], [facts_of(view, table)], strict=True)

    values = found["value"].to_pylist()
    assert sorted(values, key=str) == sorted([1, 1, 1, 2, 2, 3, *[None] * 9, 5, 5, 5], key=str)


def test_a_view_without_created_times_is_not_filtered(tmp_path: Path) -> None:
    table = facts_table([(1, T0, None, 7)]).drop_columns([CREATED])
    view = view_of(write(tmp_path / "stats.parquet", table), created=None)
    store = open_store(tmp_path, [view])

    found = check(store, asked([(1, T0)]), ["stats:value"], [facts_of(view, table)], strict=True)

    assert found["value"].to_pylist() == [7]


def test_nulls_of_the_newest_value_stay_null_and_do_not_fall_back(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7), (1, T0 + DAY, T0, None)])

    found = check(store, asked([(1, T0 + DAY)]), ["stats:value"], [facts_of(view, table)])

    assert found["value"].to_pylist() == [None]


def test_same_rows_same_order_duplicates_and_missing_entities(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(user, T0, T0, user) for user in range(50)])
    dice = np.random.default_rng(3)
    users = dice.integers(0, 70, 500).tolist()
    times = (T0 + dice.integers(-3, 4, 500) * DAY).tolist()

    check(
        store, asked(list(zip(users, times, strict=True))), ["stats:value"], [facts_of(view, table)]
    )


def test_null_keys_match_nobody_on_either_side(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(None, T0, T0, 7), (1, T0, T0, 8)])
    entities = asked([(None, T0), (1, T0), (None, T0)])

    found = check(store, entities, ["stats:value"], [facts_of(view, table)])

    assert sorted(found["value"].to_pylist(), key=str) == [8, None, None]


def test_source_rows_without_an_event_time_are_nobodys(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, None, T0, 7), (1, T0, T0, 8), (2, None, T0, 9)])

    check(store, asked([(1, T0), (2, T0)]), ["stats:value"], [facts_of(view, table)])


def test_a_source_without_rows_gives_nulls_of_its_type(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [])

    found = check(store, asked([(1, T0)]), ["stats:value"], [facts_of(view, table)])

    assert found["value"].to_pylist() == [None]
    assert found.schema.field("value").type == pa.int64()


def test_string_keys_of_all_scripts(tmp_path: Path) -> None:
    names = [
        "a",
        "A",
        "ä",
        "a\u0308",
        "ключ",
        "鍵",
        "🔑",
        "",
        " ",
        "a ",
        "a'b\"c",
        "\x00",
        "1",
        "01",
    ]
    table = facts_table([(name, T0, T0, i) for i, name in enumerate(names)], key="pin_id")
    view = view_of(write(tmp_path / "pins.parquet", table), entities=[PIN])
    store = open_store(tmp_path, [view])

    found = check(
        store,
        asked([(name, T0) for name in [*names[::-1], "b"]], key="pin_id"),
        ["stats:value"],
        [facts_of(view, table)],
    )

    assert sorted(found["value"].to_pylist(), key=str) == sorted(
        [*range(len(names)), None], key=str
    )


def composite(folder: Path) -> tuple[FeatureStore, FeatureView, pa.Table]:
    keys = [(1, "a"), (1, "b"), (2, "a"), (11, "a"), (1, "1a"), (None, "a"), (2, None)]
    table = pa.table(
        {
            "pin_id": [pin for _, pin in keys],
            TIME: stamps([T0] * len(keys)),
            CREATED: stamps([T0] * len(keys)),
            "user_id": [user for user, _ in keys],
            "value": list(range(len(keys))),
        }
    )
    view = view_of(write(folder / "pairs.parquet", table), entities=[USER, PIN])
    return open_store(folder, [view]), view, table


def test_composite_keys_match_part_by_part(tmp_path: Path) -> None:
    store, view, table = composite(tmp_path)
    asked_for = [(u, p) for u in (1, 2, 11, 3, None) for p in ("a", "b", "1a", "c", None)]
    entities = pa.table(
        {
            "pin_id": [pin for _, pin in asked_for],
            "user_id": [user for user, _ in asked_for],
            TIME: stamps([T0] * len(asked_for)),
        }
    )

    found = check(store, entities, ["stats:value"], [facts_of(view, table)])

    assert len(asked_for) - found["value"].null_count == 5


@pytest.mark.parametrize("held", [pa.int8(), pa.int32(), pa.int64(), pa.uint32()])
@pytest.mark.parametrize("given", [pa.int16(), pa.int32(), pa.int64(), pa.uint64(), pa.float64()])
def test_numbers_match_as_keys_whatever_their_width(
    tmp_path: Path, held: pa.DataType, given: pa.DataType
) -> None:
    table = facts_table([(user, T0, T0, user) for user in (0, 1, 100)])
    table = table.set_column(0, "user_id", table["user_id"].cast(held))
    view = view_of(write(tmp_path / "stats.parquet", table))
    store = open_store(tmp_path, [view])
    entities = asked([(user, T0) for user in (100, 1, 2, 0)])
    entities = entities.set_column(0, "user_id", entities["user_id"].cast(given))

    check(store, entities, ["stats:value"], [facts_of(view, table)])


def test_float_keys_of_pandas_with_nan_for_missing(tmp_path: Path) -> None:
    store, *_ = world(tmp_path, [(1, T0, T0, 7), (2, T0, T0, 8)])
    frame = pd.DataFrame({"user_id": [1.0, np.nan, 2.0, 2.5], TIME: pd.Timestamp(T0, tz="UTC")})
    assert frame["user_id"].dtype == np.float64

    found = retrieve(store, frame, ["stats:value"]).to_df()

    assert found["value"].fillna(-1).tolist() == [7, -1, 8, -1]


def test_several_views_at_once_with_and_without_their_names(tmp_path: Path) -> None:
    numbers = facts_table([(1, T0, T0, 1), (2, T0 + DAY, T0, 2)])
    others = facts_table([(1, T0 + DAY, T0, 3), (3, T0, T0, 4)])
    words = facts_table([("a", T0, T0, "x"), ("b", T0 - 9 * DAY, T0, "y")], key="pin_id")
    words = words.rename_columns({"value": "word"})
    users = view_of(write(tmp_path / "1.parquet", numbers), "users", ttl=TTL)
    again = view_of(write(tmp_path / "2.parquet", others), "again", ttl=TTL)
    pins = view_of(
        write(tmp_path / "3.parquet", words), "pins", entities=[PIN], features={"word": String}
    )
    store = open_store(tmp_path, [users, again, pins])
    entities = pa.table(
        {
            "user_id": [1, 2, 3, 1, 2],
            TIME: stamps([T0 + DAY, T0 + DAY, T0, T0 + 2 * DAY, T0 + 5 * DAY]),
            "pin_id": ["b", "a", "c", "b", None],
        }
    )

    views = [facts_of(users, numbers), facts_of(pins, words)]
    check(store, entities, ["users:value", "pins:word"], views)
    views = [
        facts_of(users, numbers, full=True),
        facts_of(again, others, full=True),
        facts_of(pins, words, full=True),
    ]
    check(store, entities, ["users:value", "again:value", "pins:word"], views, full=True)


def test_only_the_features_that_are_asked_for_in_their_order(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 1)]).append_column("b", [[2]]).append_column("c", [[3]])
    path = write(tmp_path / "stats.parquet", table)
    view = view_of(path, features={"value": Int64, "b": Int64, "c": Int64})
    store = open_store(tmp_path, [view])

    found = retrieve(store, asked([(1, T0)]).to_pandas(), ["stats:c", "stats:value"]).to_arrow()

    assert found.column_names == ["user_id", TIME, "c", "value"]
    assert [found[name].to_pylist() for name in ("c", "value")] == [[3], [1]]


def test_columns_of_a_source_under_other_names_in_feast(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7), (2, T0 + DAY, T0, 8)], key="uid")
    table = table.rename_columns({"value": "val"})
    view = view_of(
        write(tmp_path / "stats.parquet", table), mapping={"val": "value", "uid": "user_id"}
    )
    store = open_store(tmp_path, [view])

    facts = facts_of(view, table)
    check(store, asked([(1, T0), (2, T0), (2, T0 + DAY)]), ["stats:value"], [facts])


def test_times_of_a_source_under_other_names_in_feast(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7), (1, T0, T0 + DAY, 8)])
    table = table.rename_columns({TIME: "happened", CREATED: "written"})
    view = view_of(write(tmp_path / "s.parquet", table), time="happened", created="written")
    store = open_store(tmp_path, [view])

    facts = facts_of(view, table, time="happened", created="written")
    check(store, asked([(1, T0), (1, T0 - US)]), ["stats:value"], [facts])


def test_one_view_for_two_roles(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7), (2, T0, T0, 8)])
    buyer = view.with_name("buyer").with_join_key_map({"user_id": "buyer_id"})
    seller = view.with_name("seller").with_join_key_map({"user_id": "seller_id"})
    service = FeatureService(name="trade", features=[buyer, seller])
    store.apply([service])
    entities = pa.table({"seller_id": [1, 2, 3], TIME: stamps([T0, T0, T0]), "buyer_id": [2, 2, 1]})

    views = [facts_of(buyer, table, full=True), facts_of(seller, table, full=True)]
    check(store, entities, service, views, full=True)


def test_columns_of_the_frame_that_the_join_does_not_know_are_kept(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7)])
    entities = pa.table(
        {
            "label_y": [1, 2],  # Feast's DuckDB store drops what ends so
            "user_id": [1, 2],
            "text": ["ä", None],
            "flag": [True, None],
            TIME: stamps([T0, T0]),
            "kind": pa.array(["p", "q"]).dictionary_encode(),
            "vector": [[1.0, 2.0], None],
            CREATED: [0, 1],
            "entity_row_id": [5, 6],
            "seen": stamps([T0 + 1, None], "ns", "Asia/Tokyo"),
        }
    )

    found = check(store, entities, ["stats:value"], [facts_of(view, table)])

    kept = found.select(entities.column_names)
    assert kept["seen"].cast(pa.int64()) == entities["seen"].cast(pa.int64())
    frame = retrieve(store, entities.to_pandas(), ["stats:value"]).to_df()
    assert frame["kind"].astype(str).tolist() == ["p", "q"]


def test_a_view_of_no_entity_holds_for_every_row(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7), (1, T0 + DAY, T0, 8)]).drop_columns(["user_id"])
    view = view_of(write(tmp_path / "stats.parquet", table), entities=[])
    store = open_store(tmp_path, [view])

    found = retrieve(
        store, asked([(1, T0), (2, T0 + DAY), (3, T0 - US)]).to_pandas(), ["stats:value"]
    ).to_arrow()

    assert found["value"].to_pylist() == [7, 8, None]


def test_a_feature_with_the_name_of_a_column_of_the_frame(tmp_path: Path) -> None:
    store, view, table = world(tmp_path, [(1, T0, T0, 7)])
    entities = asked([(1, T0)]).append_column("value", [[99]])

    found = check(store, entities, ["stats:value"], [facts_of(view, table, full=True)], full=True)

    assert found["value"].to_pylist() == [99]


def test_an_entity_named_unlike_its_key(tmp_path: Path) -> None:
    shop = Entity(name="shop", join_keys=["store id"], value_type=ValueType.INT64)
    table = facts_table([(1, T0, T0, 7)], key="store id").rename_columns({"value": 'a "b" c'})
    view = view_of(
        write(tmp_path / "s.parquet", table), entities=[shop], features={'a "b" c': Int64}
    )
    store = open_store(tmp_path, [shop, view])

    found = retrieve(
        store, asked([(1, T0)], key="store id").to_pandas(), ['stats:a "b" c']
    ).to_arrow()

    assert found['a "b" c'].to_pylist() == [7]
