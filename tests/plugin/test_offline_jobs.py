"""What can be made of a retrieval, and the store's other tasks: pulls, writes, logs, data sets."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from feast import FeatureService, FeatureStore, FeatureView, Field, PushSource, RequestSource
from feast.data_source import PushMode
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, FeastType, Float32, Float64, Int64, String

from provender.plugin.embedding_view import embedding_view
from provender.plugin.errors import ConfigError, ProvenderError, SnapshotError, SourceError
from tests.plugin.offline_world import (
    CREATED,
    DAY,
    PIN,
    T0,
    TIME,
    USER,
    asked,
    at,
    facts_of,
    facts_table,
    open_store,
    retrieve,
    stamps,
    view_of,
    write,
)
from tests.plugin.pit_oracle import joined, rows_of

FEATURES = ["stats:value", "stats:score", "stats:vector", "stats:word", "stats:flag"]


@pytest.fixture
def view(tmp_path: Path) -> FeatureView:
    table = facts_table([(user, T0, T0, user) for user in range(6)])
    table = table.append_column("score", pa.array([0.5 * n for n in range(6)]))
    vectors = pa.array([[n, n + 0.25] for n in range(6)], pa.list_(pa.float32()))
    table = table.append_column("vector", vectors)
    table = table.append_column("word", pa.array([f"w{n}" for n in range(6)]))
    table = table.append_column("flag", pa.array([n % 2 == 0 for n in range(6)]))
    features: dict[str, FeastType] = {
        "value": Int64,
        "score": Float64,
        "vector": Array(Float32),
        "word": String,
        "flag": Bool,
    }
    return view_of(write(tmp_path / "stats.parquet", table), features=features)


@pytest.fixture
def store(tmp_path: Path, view: FeatureView) -> FeatureStore:
    return open_store(tmp_path, [view])


ENTITIES = asked([(user, T0 + user) for user in (5, 0, 9, 1, 1, 2, 8, 3, 4, 5)], unit="ns")


# Streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 10, 11])
def test_a_stream_is_the_table_in_pieces(store: FeatureStore, rows: int) -> None:
    job = retrieve(store, ENTITIES, FEATURES)
    whole = job.to_arrow()

    batches = list(job.stream(rows))

    assert [b.num_rows for b in batches] == [min(rows, 10 - n) for n in range(0, 10, rows)]
    assert {batch.schema for batch in batches} == {whole.schema}
    assert pa.Table.from_batches(batches) == whole


def test_a_stream_to_parquet_appears_whole(tmp_path: Path, store: FeatureStore) -> None:
    job = retrieve(store, ENTITIES, FEATURES)
    path = tmp_path / "new" / "train.parquet"
    path.parent.mkdir()

    assert job.to_parquet(path, rows=3) == 10
    assert pq.read_table(path) == job.to_arrow()
    assert [each.name for each in path.parent.iterdir()] == ["train.parquet"]

    assert retrieve(store, ENTITIES.slice(0, 2), FEATURES).to_parquet(str(path)) == 2
    assert pq.read_table(path).num_rows == 2


def test_a_stream_that_breaks_off_leaves_the_former_file(
    tmp_path: Path, store: FeatureStore
) -> None:
    path = tmp_path / "train.parquet"
    retrieve(store, ENTITIES, FEATURES).to_parquet(path)
    before = path.read_bytes()
    (tmp_path / "stats.parquet").write_bytes(b"gone")

    with pytest.raises(ProvenderError):
        retrieve(store, ENTITIES, FEATURES).to_parquet(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_tensors_in_batches(store: FeatureStore, rows: int) -> None:
    batches = list(retrieve(store, ENTITIES, FEATURES).tensors(rows))

    users = ENTITIES["user_id"].to_pylist()
    known = [user < 6 for user in users]
    for name in ("value", "score", "vector", "flag"):
        present = torch.cat([batch.present[name] for batch in batches])
        assert present.tolist() == known
    columns = {
        name: torch.cat([batch.columns[name] for batch in batches])
        for name in ("user_id", TIME, "value", "score", "vector", "flag")
    }
    masked = [user * there for user, there in zip(users, known, strict=True)]
    assert columns["user_id"].tolist() == users
    assert columns[TIME].tolist() == [T0 + user for user in users]
    assert (columns["value"].dtype, columns["value"].tolist()) == (torch.int64, masked)
    assert columns["score"].tolist() == [0.5 * n for n in masked]
    assert columns["vector"].dtype == torch.float32
    assert columns["vector"].tolist() == [
        [n, (n + 0.25) * there] for n, there in zip(masked, known, strict=True)
    ]
    words = [word for batch in batches for word in batch.others["word"].to_pylist()]
    assert words == [f"w{user}" if user < 6 else None for user in users]


def test_tensors_of_rows_that_all_lack_the_vector_have_its_dim(store: FeatureStore) -> None:
    *_, last = retrieve(store, asked([(1, T0), (9, T0), (8, T0)]), FEATURES).tensors(2)

    assert last.columns["vector"].tolist() == [[0.0, 0.0]]
    assert last.present["vector"].tolist() == [False]


def test_lists_that_are_no_vectors_stay_lists(tmp_path: Path) -> None:
    table = facts_table([(user, T0, T0, user) for user in range(3)])
    table = table.append_column("ragged", pa.array([[1.0], [], [1.0, 2.0]]))
    table = table.append_column("empty", pa.array([[], [], []], pa.list_(pa.float32())))
    view = view_of(
        write(tmp_path / "s.parquet", table),
        features={"ragged": Array(Float64), "empty": Array(Float32)},
    )
    store = open_store(tmp_path, [view])
    job = retrieve(store, asked([(n, T0) for n in range(3)]), ["stats:ragged", "stats:empty"])

    (batch,) = job.tensors()

    assert batch.others["ragged"].to_pylist() == [[1.0], [], [1.0, 2.0]]
    assert batch.others["empty"].to_pylist() == [[], [], []]


def test_all_of_it_as_tensors_the_way_feast_gives_them(store: FeatureStore) -> None:
    found = retrieve(store, ENTITIES, FEATURES).to_tensor()

    users = ENTITIES["user_id"].to_pylist()
    assert found["user_id"].tolist() == users
    assert found["vector"].shape == (10, 2)
    assert [math.isnan(x) for x in found["value"].tolist()] == [user > 5 for user in users]
    assert [math.isnan(x) for x in found["vector"][:, 1].tolist()] == [user > 5 for user in users]
    assert found["word"] == [f"w{user}" if user < 6 else None for user in users]


def test_no_rows_as_tensors(store: FeatureStore) -> None:
    job = retrieve(store, ENTITIES.slice(0, 0), FEATURES)

    assert list(job.tensors()) == []
    assert set(job.to_tensor()) == {"user_id", TIME, "value", "score", "vector", "word", "flag"}


def test_event_times_beside_the_values(tmp_path: Path) -> None:
    table = facts_table([(1, T0 + 1, T0, 10), (1, T0 + DAY, T0, 11)], unit="ns")
    store = open_store(tmp_path, [view_of(write(tmp_path / "s.parquet", table))])
    entities = asked([(1, T0), (1, T0 + 1), (1, T0 + 2 * DAY)], unit="ns")

    found = retrieve(store, entities, ["stats:value"]).with_event_times().to_arrow()

    times = [row["stats__event_timestamp"] for row in rows_of(found)]
    assert times == [None, T0 + 1, T0 + DAY]


def test_dims_that_no_view_has_are_refused(tmp_path: Path, store: FeatureStore) -> None:
    job = retrieve(store, ENTITIES, FEATURES)

    with pytest.raises(ConfigError, match="stats"):
        job.at_dims({"stats": 1}).to_arrow()
    with pytest.raises(ConfigError, match="nothing"):
        job.at_dims({"nothing": 1}).to_arrow()


# On-demand features ---------------------------------------------------------------------------


def on_demand(view: FeatureView) -> list[Any]:
    request = RequestSource(name="asked_with", schema=[Field(name="factor", dtype=Int64)])

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[view, request],
        schema=[Field(name="product", dtype=Float64)],
        mode="pandas",
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"product": inputs["score"] * inputs["factor"]})

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[view], schema=[Field(name="doubled", dtype=Float64)], mode="python"
    )
    def twice(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"doubled": [None if s is None else 2 * s for s in inputs["score"]]}

    return [scaled, twice]


@pytest.mark.parametrize("full", [False, True])
def test_on_demand_features_of_whole_results_and_of_streams(
    tmp_path: Path, view: FeatureView, full: bool
) -> None:
    store = open_store(tmp_path, [view, *on_demand(view)])
    entities = asked([(user, T0) for user in (1, 2, 4, 5, 3)])
    entities = entities.append_column("factor", pa.array([1, 10, 100, 1000, 10000]))
    references = ["scaled:product", "twice:doubled", "stats:score"]

    for frame in (entities.to_pandas(), entities):
        job = retrieve(store, frame, references, full_feature_names=full)
        table = job.to_arrow()

        names = [f"{'scaled__' * full}product", f"{'twice__' * full}doubled"]
        assert table[names[0]].to_pylist() == [0.5, 10.0, 200.0, 2500.0, 15000.0]
        assert table[names[1]].to_pylist() == [1.0, 2.0, 4.0, 5.0, 3.0]
        streamed = pa.Table.from_batches(list(job.stream(2)))
        assert streamed.to_pylist() == table.to_pylist()
        assert job.to_df()[names[0]].tolist() == table[names[0]].to_pylist()


# Saved data sets ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["saved.parquet", "folder"])
@pytest.mark.parametrize("full", [False, True])
def test_saved_data_sets_come_back(
    tmp_path: Path, store: FeatureStore, name: str, full: bool
) -> None:
    job = retrieve(store, ENTITIES.to_pandas(), FEATURES, full_feature_names=full)
    place = tmp_path / "sets" / name
    place.parent.mkdir()

    store.create_saved_dataset(job, "mine", SavedDatasetFileStorage(path=str(place)))
    found = store.get_saved_dataset("mine").to_df()

    expected = job.to_df()
    assert sorted(found.columns) == sorted(expected.columns)
    order = ["user_id", TIME]
    pd.testing.assert_frame_equal(
        found[list(expected.columns)].sort_values(order).reset_index(drop=True),
        expected.sort_values(order).reset_index(drop=True),
        check_dtype=False,
    )


def test_a_saved_data_set_is_overwritten_only_where_allowed(
    tmp_path: Path, store: FeatureStore
) -> None:
    storage = SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet"))
    job = retrieve(store, ENTITIES.to_pandas(), FEATURES)
    store.create_saved_dataset(job, "mine", storage)

    with pytest.raises(SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(job, "again", storage)
    less = retrieve(store, ENTITIES.slice(0, 3).to_pandas(), FEATURES)
    store.create_saved_dataset(less, "again", storage, allow_overwrite=True)

    assert len(store.get_saved_dataset("again").to_df()) == 3


# Without an entity frame ----------------------------------------------------------------------


def test_every_value_between_two_dates_asks_for_itself(tmp_path: Path) -> None:
    users = facts_table(
        [
            (1, T0 - 1000, T0, 0),
            (1, T0, T0, 1),
            (1, T0, T0 + DAY, 2),
            (2, T0 + DAY, T0, 3),
            (None, T0, T0, 4),
            (3, None, T0, 5),
            (2, T0 + DAY + 1000, T0, 6),
        ]
    )
    view = view_of(write(tmp_path / "u.parquet", users), ttl=timedelta(days=1))
    store = open_store(tmp_path, [view])

    job = retrieve(store, None, ["stats:value"], start_date=at(T0), end_date=at(T0 + DAY))

    pairs = [{"user_id": 1, TIME: T0}, {"user_id": 2, TIME: T0 + DAY}]
    expected = joined(pairs, [facts_of(view, users)])
    found = sorted(rows_of(job.to_arrow()), key=lambda row: row["user_id"])
    assert found == expected
    assert [row["value"] for row in found] == [2, 3]
    assert job.metadata is not None
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (
        at(T0),
        at(T0 + DAY),
    )


def test_views_of_several_entities_without_a_frame(tmp_path: Path) -> None:
    first = facts_table([(1, T0, T0, 1), (2, T0, T0, 2)])
    second = facts_table([(1, T0 + DAY, T0, 3), (1, T0, T0, 4)])
    third = facts_table([("a", T0, T0, 5)], key="pin_id")
    views = [
        view_of(write(tmp_path / "1.parquet", first), "first", ttl=timedelta(hours=1)),
        view_of(write(tmp_path / "2.parquet", second), "second"),
        view_of(write(tmp_path / "3.parquet", third), "third", entities=[PIN]),
    ]
    store = open_store(tmp_path, views)

    references = [f"{view.name}:value" for view in views]
    dates = {"start_date": at(T0), "end_date": at(T0 + DAY)}
    job = retrieve(store, None, references, full_feature_names=True, **dates)

    pairs: list[dict[str, Any]] = [
        {"user_id": 1, "pin_id": None, TIME: T0},
        {"user_id": 1, "pin_id": None, TIME: T0 + DAY},
        {"user_id": 2, "pin_id": None, TIME: T0},
        {"user_id": None, "pin_id": "a", TIME: T0},
    ]
    tables = (first, second, third)
    facts = [facts_of(view, table, full=True) for view, table in zip(views, tables, strict=True)]
    expected = joined(pairs, facts)
    found = rows_of(job.to_arrow().select(list(expected[0])))
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_no_value_between_two_dates_gives_no_row(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 1)])
    store = open_store(tmp_path, [view_of(write(tmp_path / "s.parquet", table))])
    dates = {"start_date": at(T0 + 1000), "end_date": at(T0 + DAY)}

    found = retrieve(store, None, ["stats:value"], **dates).to_arrow()

    assert found.num_rows == 0
    assert set(found.column_names) == {"user_id", TIME, "value"}


# Pulls ----------------------------------------------------------------------------------------


def pulled(store: FeatureStore, view: FeatureView, what: str, **changes: Any) -> pa.Table:
    source = view.batch_source
    assert source is not None
    arguments: dict[str, Any] = {
        "config": store.config,
        "data_source": source,
        "join_key_columns": ["user_id"],
        "feature_name_columns": ["value"],
        "timestamp_field": TIME,
        "created_timestamp_column": CREATED,
        "start_date": at(T0),
        "end_date": at(T0 + DAY),
    }
    pull = getattr(store._get_provider().offline_store, f"pull_{what}_from_table_or_query")
    job = pull(**(arguments | changes))
    table: pa.Table = job.to_arrow()
    assert pa.Table.from_batches(list(job.stream(2))) == table
    return table


PULLED = [
    (1, T0 - 1000, T0, 0),
    (1, T0, T0, 1),
    (1, T0, T0 + 1000, 2),
    (2, T0 + DAY, T0, 3),
    (2, T0 + DAY, None, 4),
    (2, T0 + DAY + 1000, T0, 5),
    (3, T0 - 1000, T0, 6),
    (None, T0, T0, 7),
    (4, None, T0, 8),
    (5, T0 + 5000, T0, None),
    (5, T0 + 4000, T0, 9),
]


@pytest.mark.parametrize("unit", ["us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_the_newest_row_of_each_key_within_the_dates_both_included(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    path = write(tmp_path / "s.parquet", facts_table(PULLED, unit=unit, tz=zone))
    store = open_store(tmp_path, [view := view_of(path)])

    found = pulled(store, view, "latest")

    assert found.column_names[:4] == ["user_id", "value", TIME, CREATED]
    rows = [(row["user_id"], row["value"]) for row in rows_of(found) if row["user_id"] is not None]
    assert sorted(rows) == [(1, 2), (2, 3), (5, None)]


def test_all_rows_within_the_dates_both_included(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", facts_table(PULLED))
    store = open_store(tmp_path, [view := view_of(path)])

    within = pulled(store, view, "all")["value"].to_pylist()
    before = pulled(store, view, "all", start_date=None, end_date=at(T0))["value"].to_pylist()
    after = pulled(store, view, "all", start_date=at(T0 + DAY), end_date=None)["value"].to_pylist()

    assert sorted(within, key=str) == [1, 2, 3, 4, 7, 9, None]
    assert sorted(before) == [0, 1, 2, 6, 7]
    assert sorted(after) == [3, 4, 5]


def test_pulls_of_a_source_without_created_times_or_without_rows(tmp_path: Path) -> None:
    table = facts_table([(1, T0, None, 1), (1, T0 + 1, None, 2)], unit="ns")
    path = write(tmp_path / "s.parquet", table.drop_columns([CREATED]))
    store = open_store(tmp_path, [view := view_of(path, created=None)])

    found = pulled(store, view, "latest", created_timestamp_column=None)
    none = pulled(store, view, "latest", created_timestamp_column=None, start_date=at(T0 + DAY))

    assert (found["value"].to_pylist(), none.num_rows) == ([2], 0)
    assert none.schema == found.schema


def test_feasts_own_materialization_reads_from_the_store(
    store: FeatureStore, view: FeatureView
) -> None:
    store.materialize(at(T0 - DAY), at(T0 + DAY))

    found = store.get_online_features(
        features=["stats:value", "stats:vector"], entity_rows=[{"user_id": 3}, {"user_id": 77}]
    ).to_dict()

    assert found["value"] == [3, None]
    assert found["vector"] == [[3.0, 3.25], None]


# Writes ---------------------------------------------------------------------------------------


def test_rows_that_are_written_are_found(tmp_path: Path) -> None:
    for place in ("file.parquet", "folder/0.parquet"):
        path = write(tmp_path / place, facts_table([(1, T0, T0, 1)]))
        name = path.parent.name if path.parent.name == "folder" else "file"
        view = view_of(path if name == "file" else path.parent, name)
        store = open_store(tmp_path, [view])
        row = {CREATED: [at(T0)], "user_id": [2], "value": [2], TIME: [at(T0 + 1000)]}

        store.write_to_offline_store(name, pd.DataFrame(row))

        found = retrieve(store, asked([(1, T0), (2, T0 + 1000)]), [f"{name}:value"]).to_arrow()
        assert found["value"].to_pylist() == [1, 2]


def test_pushed_rows_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", facts_table([(1, T0, T0, 1)]))
    plain = view_of(path)
    push = PushSource(name="pushed", batch_source=plain.batch_source)
    view = FeatureView(name="stats", entities=[USER], schema=plain.schema, source=push)
    store = open_store(tmp_path, [view])
    frame = pd.DataFrame({"user_id": [2], "value": [5], TIME: [at(T0)], CREATED: [at(T0)]})

    store.push("pushed", frame, to=PushMode.OFFLINE)

    found = retrieve(store, asked([(2, T0), (1, T0)]), ["stats:value"]).to_arrow()
    assert found["value"].to_pylist() == [5, 1]


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", facts_table([(0, T0, T0, 0)]))
    store = open_store(tmp_path, [view_of(path)])
    failures: list[BaseException] = []

    def append(first: int) -> None:
        try:
            for user in range(first, first + 10):
                row = {"user_id": [user], TIME: [at(T0)], CREATED: [at(T0)], "value": [user]}
                store.write_to_offline_store("stats", pd.DataFrame(row))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=append, args=(n,)) for n in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    users = sorted(pq.read_table(path)["user_id"].to_pylist())
    assert users == [0, *(n + i for n in (100, 200, 300) for i in range(10))]


def test_rows_that_do_not_fit_are_refused_and_the_file_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", facts_table([(1, T0, T0, 1)]))
    store = open_store(tmp_path, [view := view_of(path)])
    before = path.read_bytes()
    write_batch = store._get_provider().offline_store.offline_write_batch

    wrong = facts_table([(1, T0, T0, 1)])
    for table in (
        wrong.drop_columns(["value"]),
        wrong.select([TIME, "user_id", CREATED, "value"]),
        wrong.set_column(3, "value", pa.array(["x"])),
    ):
        with pytest.raises(SourceError, match="stats"):
            write_batch(store.config, view, table, None)

    assert path.read_bytes() == before


def test_snapshots_do_not_change(tmp_path: Path) -> None:
    view = embedding_view(
        name="emb",
        version=1,
        entity=USER,
        dim=2,
        space="s",
        producer="p",
        ttl=timedelta(days=1),
        snapshots=tmp_path / "snapshots",
    )
    store = open_store(tmp_path, [view])
    frame = pa.table({"user_id": [1], "embedding": [[1.0, 2.0]], TIME: stamps([T0])})

    with pytest.raises(SnapshotError, match="emb_v1"):
        write_batch = store._get_provider().offline_store.offline_write_batch
        write_batch(store.config, view, frame, None)


@pytest.mark.parametrize("partition_by", [None, ["__log_date"]])
def test_logged_features_come_back(
    tmp_path: Path, view: FeatureView, partition_by: list[str] | None
) -> None:
    folder = tmp_path / "logs"
    place = FileLoggingDestination(path=str(folder), partition_by=partition_by)
    service = FeatureService(
        name="ranker", features=[view[["value"]]], logging_config=LoggingConfig(destination=place)
    )
    store = open_store(tmp_path, [view, service])

    def log(user: int, instant: int) -> pa.Table:
        return pa.table(
            {
                "user_id": [user],
                "stats__value": [user],
                "stats__value__timestamp": stamps([T0]),
                "stats__value__status": pa.array([2], pa.int32()),
                "__request_id": [f"r{user}"],
                "__log_timestamp": stamps([instant]),
                "__log_date": pa.array([instant // DAY], pa.int32()).cast(pa.date32()),
            }
        )

    store.write_logged_features(log(1, T0), service)
    part = tmp_path / "buffer"
    write(part / "0.parquet", log(2, T0 + DAY))
    store.write_logged_features(part / "0.parquet", service)
    store.write_logged_features(log(3, T0 + 2 * DAY), service)

    # By name: pyarrow leaves out folders that begin with an underscore.
    files = [str(file) for file in folder.rglob("*.parquet")]
    logged = ds.dataset(files, partitioning="hive").to_table()
    assert sorted(logged["user_id"].to_pylist()) == [1, 2, 3]
    provider = store._get_provider()
    job = provider.retrieve_feature_service_logs(
        service, at(T0), at(T0 + DAY), store.config, store.registry
    )
    assert sorted(job.to_arrow()["stats__value"].to_pylist()) == [1, 2]
