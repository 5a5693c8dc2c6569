"""Entity frames in every form that a user may give one, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from provender.plugin.errors import EntityFrameError
from tests.plugin.offline_world import (
    CREATED,
    DAY,
    PIN,
    T0,
    TIME,
    asked,
    at,
    facts_table,
    open_store,
    retrieve,
    stamps,
    view_of,
    write,
)
from tests.plugin.pit_oracle import rows_of

VALUE = ["stats:value"]
NOON = T0 + DAY // 2
MINUTE = 60 * 10**9


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """One view: user 1 has 10 from midnight and 11 from noon on, user 2 has 20 from noon on."""
    rows = [(1, T0, T0, 10), (1, NOON, T0, 11), (2, NOON, T0, 20)]
    table = facts_table(rows)
    words = facts_table([("a", T0, T0, 1)], key="pin_id")
    views = [
        view_of(write(tmp_path / "stats.parquet", table)),
        view_of(write(tmp_path / "words.parquet", words), "words", entities=[PIN]),
    ]
    return open_store(tmp_path, views)


ASKED = [(2, NOON - 1000), (1, NOON - 1000), (1, NOON), (3, NOON), (2, NOON)]
ANSWER = [None, 10, 11, None, 20]


def as_sql(frame: pa.Table, folder: Path) -> str:
    path = write(folder / "a b'c" / "frame.parquet", frame)
    name = str(path).replace("'", "''")
    return f"SELECT * FROM read_parquet('{name}') ORDER BY row DESC"


@pytest.mark.parametrize(
    ("given", "backwards"),
    [
        (lambda frame, folder: frame, False),
        (lambda frame, folder: frame.to_pandas(), False),
        (lambda frame, folder: frame.to_pandas().set_index("row", drop=False)[::-1], True),
        (lambda frame, folder: str(write(folder / "frame.parquet", frame)), False),
        (lambda frame, folder: write(folder / "f.parquet", frame, row_group_size=2), False),
        (as_sql, True),
    ],
)
def test_every_form_of_a_frame_gives_the_same(
    tmp_path: Path,
    store: FeatureStore,
    given: Callable[[pa.Table, Path], Any],
    backwards: bool,
) -> None:
    frame = asked(ASKED).append_column("row", pa.array(range(len(ASKED))))
    order = -1 if backwards else 1

    found = retrieve(store, given(frame, tmp_path / "given"), VALUE).to_arrow()

    assert found.column_names == ["user_id", TIME, "row", "value"]
    assert found["value"].to_pylist() == ANSWER[::order]
    assert rows_of(found.select(frame.column_names)) == rows_of(frame)[::order]


@pytest.mark.parametrize(
    "times",
    [
        pd.to_datetime(["2026-03-10 12:00"]),
        pd.to_datetime(["2026-03-10 12:00"]).astype("datetime64[s]"),
        pd.to_datetime(["2026-03-10 12:00"], utc=True),
        pd.to_datetime(["2026-03-10 21:00"]).tz_localize("Asia/Tokyo"),
        pd.to_datetime(["2026-03-10 12:00"], utc=True).astype("datetime64[us, UTC]"),
        ["2026-03-10 12:00:00"],
        ["2026-03-10T12:00:00Z"],
        ["2026-03-10T14:00:00+02:00"],
        [datetime(2026, 3, 10, 12)],
        [datetime(2026, 3, 10, 14, tzinfo=timezone(timedelta(hours=2)))],
        [pd.Timestamp("2026-03-10 12:00", tz="UTC")],
    ],
)
def test_noon_in_every_form_of_pandas(store: FeatureStore, times: Any) -> None:
    frame = pd.DataFrame({"user_id": [1], TIME: times})
    given = frame.copy()

    found = retrieve(store, frame, VALUE).to_arrow()

    assert found["value"].to_pylist() == [11]
    assert rows_of(found.select([TIME])) == [{TIME: NOON}]
    pd.testing.assert_frame_equal(frame, given)


def test_objects_of_several_zones_in_one_column(store: FeatureStore) -> None:
    tokyo = timezone(timedelta(hours=9))
    noon = [datetime(2026, 3, 10, 21, tzinfo=tokyo), datetime(2026, 3, 10, 12, tzinfo=UTC)]
    before = [at(NOON - 1000).astimezone(tokyo), at(NOON - 1000)]
    frame = pd.DataFrame({"user_id": 1, TIME: pd.Series([*noon, *before], dtype=object)})

    assert retrieve(store, frame, VALUE).to_arrow()["value"].to_pylist() == [11, 11, 10, 10]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_of_every_unit_and_zone_in_arrow(
    store: FeatureStore, unit: str, zone: str | None
) -> None:
    frame = asked([(1, NOON), (1, NOON - MINUTE)], unit=unit, tz=zone)

    found = retrieve(store, frame, VALUE).to_arrow()

    assert found["value"].to_pylist() == [11, 10]
    assert rows_of(found.select([TIME])) == rows_of(frame.select([TIME]))


def test_dates_are_midnights_in_utc(store: FeatureStore) -> None:
    frame = pa.table({"user_id": [1, 1], TIME: [date(2026, 3, 10), date(2026, 3, 11)]})

    assert retrieve(store, frame, VALUE).to_arrow()["value"].to_pylist() == [10, 11]


def test_the_only_column_of_times_is_the_time(store: FeatureStore) -> None:
    frame = asked(ASKED).rename_columns({TIME: "asked at"})

    for given in (frame, frame.to_pandas()):
        found = retrieve(store, given, VALUE).to_arrow()
        assert found["value"].to_pylist() == ANSWER


def test_the_named_column_is_the_time_among_others(store: FeatureStore) -> None:
    frame = asked(ASKED).append_column("seen", stamps([0] * 5)).append_column("n", [[1] * 5])

    assert retrieve(store, frame, VALUE).to_arrow()["value"].to_pylist() == ANSWER


@pytest.mark.parametrize("as_frame", [lambda t: t, lambda t: t.to_pandas()])
def test_an_empty_frame_gives_the_columns_without_rows(
    store: FeatureStore, as_frame: Callable[[pa.Table], Any]
) -> None:
    frame = asked([(1, T0)]).append_column("label", pa.array(["x"])).slice(0, 0)

    job = retrieve(store, as_frame(frame), VALUE)

    assert job.to_arrow().column_names == ["user_id", TIME, "label", "value"]
    assert job.to_arrow().schema.field("value").type == pa.int64()
    assert job.to_df().shape == (0, 4)
    assert [batch.num_rows for batch in job.stream()] == [0]


@pytest.mark.parametrize("key", ["user_id", "pin_id"])
def test_keys_that_are_all_missing_match_nobody(store: FeatureStore, key: str) -> None:
    frame = pa.table({"user_id": [1], "pin_id": ["a"], TIME: stamps([NOON])})
    place = frame.schema.get_field_index(key)
    frame = frame.set_column(place, key, pa.nulls(1))
    references = ["stats:value", "words:value"]

    for given in (frame, frame.to_pandas()):
        found = retrieve(store, given, references, full_feature_names=True).to_arrow()
        assert found["stats__value"].to_pylist() == [None if key == "user_id" else 11]
        assert found["words__value"].to_pylist() == [None if key == "pin_id" else 1]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), "categories"])
def test_text_keys_of_every_layout(store: FeatureStore, kind: Any) -> None:
    keys = pa.array(["a", "b", "a", None])
    keys = keys.dictionary_encode() if kind == "categories" else keys.cast(kind)
    frame = pa.table({"pin_id": keys, TIME: stamps([T0] * 4)})

    found = retrieve(store, frame, ["words:value"]).to_arrow()

    assert found["value"].to_pylist() == [1, None, 1, None]


def test_metadata_tells_what_was_asked(store: FeatureStore) -> None:
    metadata = retrieve(store, asked(ASKED).to_pandas(), VALUE).metadata

    assert metadata is not None
    assert metadata.features == VALUE
    assert metadata.keys == ["user_id"]
    assert (metadata.min_event_timestamp, metadata.max_event_timestamp) == (
        at(NOON - 1000),
        at(NOON),
    )


def test_a_job_can_be_run_again(store: FeatureStore) -> None:
    job = retrieve(store, asked(ASKED).to_pandas(), VALUE)

    assert job.to_arrow() == job.to_arrow()
    assert job.to_df().equals(job.to_arrow().to_pandas())


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"user_id": [1]}, [TIME]),
        ({"user_id": [1], "seen": [at(T0)], "made": [at(T0)]}, [TIME]),
        ({"user": [1], TIME: [at(T0)]}, ["user_id", "stats"]),
        ({"user_id": ["1"], TIME: [at(T0)]}, ["user_id", "string", "int64"]),
        ({"user_id": [1, 1], TIME: [at(T0), None]}, [TIME, "null"]),
        ({"user_id": [1], TIME: [5]}, [TIME, "int64"]),
        ({"user_id": [1], TIME: [True]}, [TIME, "bool"]),
        ({"user_id": [[1]], TIME: [at(T0)]}, ["user_id", "list"]),
        ({"user_id": [1], TIME: [at(T0)], "value": [3]}, ["value", "full_feature_names"]),
    ],
)
@pytest.mark.parametrize("form", ["arrow", "pandas", "file", "sql"])
def test_frames_that_can_not_be_joined(
    tmp_path: Path, store: FeatureStore, frame: dict[str, Any], words: list[str], form: str
) -> None:
    table = pa.table(frame)
    given: Any = table
    if form == "pandas":
        given = pd.DataFrame(frame)
    elif form != "arrow":
        given = str(write(tmp_path / "frame.parquet", table))
        given = f"SELECT * FROM read_parquet('{given}')" if form == "sql" else given

    with pytest.raises(EntityFrameError) as caught:
        retrieve(store, given, VALUE).to_arrow()

    assert "\n" not in str(caught.value)
    for word in words if form == "arrow" else words[:1]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("SELECT * FROM nowhere", ["nowhere", "SELECT"]),
        ("SELEC 1", ["SELEC"]),
        ("/no/such/frame.parquet", ["/no/such/frame.parquet"]),
        ({"user_id": [1]}, ["dict", "DataFrame"]),
        ("", ["SELECT"]),
    ],
)
def test_what_is_no_frame(store: FeatureStore, given: Any, words: list[str]) -> None:
    with pytest.raises(EntityFrameError) as caught:
        retrieve(store, given, VALUE).to_arrow()

    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_text_that_is_no_time(store: FeatureStore) -> None:
    frame = pd.DataFrame({"user_id": [1, 2], TIME: ["2026-03-10", "soon"]})

    with pytest.raises(EntityFrameError, match="soon"):
        retrieve(store, frame, VALUE).to_arrow()


def test_text_keys_for_text_are_asked_with_numbers(store: FeatureStore) -> None:
    frame = pa.table({"pin_id": [1], TIME: stamps([T0])})

    with pytest.raises(EntityFrameError, match=r"pin_id.*int64.*string"):
        retrieve(store, frame, ["words:value"]).to_arrow()


def test_numbers_beyond_every_key_are_missing_or_refused_but_never_wrapped(
    store: FeatureStore,
) -> None:
    frame = pa.table({"user_id": pa.array([1, 2**64 - 1], pa.uint64()), TIME: stamps([NOON, NOON])})

    try:
        found = retrieve(store, frame, VALUE).to_arrow()["value"].to_pylist()
    except EntityFrameError:
        return
    assert found == [11, None]


def test_columns_of_mixed_types_are_refused(store: FeatureStore) -> None:
    frame = pd.DataFrame({"user_id": [1, 2], TIME: [at(T0)] * 2, CREATED: ["x", 3]})

    with pytest.raises(EntityFrameError, match="one type"):
        retrieve(store, frame, VALUE).to_arrow()


def test_two_columns_of_one_name_are_refused(store: FeatureStore) -> None:
    frame = pd.DataFrame([[1, 2, at(T0)]], columns=["user_id", "user_id", TIME])

    with pytest.raises(EntityFrameError, match="user_id"):
        retrieve(store, frame, VALUE).to_arrow()
    with pytest.raises(EntityFrameError, match="user_id"):
        retrieve(store, pa.Table.from_arrays([pa.array([1])] * 2, ["user_id"] * 2), VALUE)
