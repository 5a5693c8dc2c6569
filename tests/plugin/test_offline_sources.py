"""What the offline store reads: files, folders and globs, every Feast type, our snapshots."""

from __future__ import annotations

import itertools
import uuid
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureView, FileSource
from feast.data_format import ParquetFormat
from feast.types import (
    Array,
    Bool,
    Bytes,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    String,
    UnixTimestamp,
)

from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.errors import ProvenderError, SnapshotError, SourceError
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import find_snapshot, write_snapshot
from tests.plugin.offline_world import (
    CREATED,
    DAY,
    PIN,
    T0,
    TIME,
    USER,
    asked,
    at,
    check,
    facts_of,
    facts_table,
    open_store,
    retrieve,
    stamps,
    view_of,
    write,
)

VALUE = ["stats:value"]


# Files, folders, globs ------------------------------------------------------------------------

UNITS = ["s", "ms", "us", "ns"]


@pytest.mark.parametrize(("first", "second"), itertools.permutations(UNITS, 2))
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_files_of_several_units_are_one_source(
    tmp_path: Path, first: str, second: str, zone: str | None
) -> None:
    tables = [
        facts_table([(1, T0, T0, 1), (2, T0 + DAY, T0, 2)], unit=first, tz=zone),
        facts_table([(1, T0 + DAY, T0, 3), (2, T0, T0, 4)], unit=second, tz=zone),
    ]
    for number, table in enumerate(tables):
        write(tmp_path / "stats" / f"{number}.parquet", table)
    view = view_of(tmp_path / "stats")
    store = open_store(tmp_path, [view])

    entities = asked([(user, T0 + days * DAY) for user in (1, 2) for days in (-1, 0, 1)])
    check(store, entities, VALUE, [facts_of(view, *tables)])


@pytest.mark.parametrize("zones", itertools.permutations(["UTC", "Asia/Tokyo", None]))
def test_files_of_several_zones_are_one_source_and_those_without_are_utc(
    tmp_path: Path, zones: list[str | None]
) -> None:
    tables = [facts_table([(n, T0, T0, n)], tz=zone) for n, zone in enumerate(zones)]
    for number, table in enumerate(tables):
        write(tmp_path / "stats" / f"{number}.parquet", table)
    view = view_of(tmp_path / "stats")
    store = open_store(tmp_path, [view])

    entities = asked([(user, T0 + after) for user in range(3) for after in (-1000, 0)])
    check(store, entities, VALUE, [facts_of(view, *tables)])


@pytest.mark.parametrize("pattern", ["*.parquet", "**/*.parquet", "[01].parquet"])
def test_globs(tmp_path: Path, pattern: str) -> None:
    tables = [facts_table([(1, T0 + n * DAY, T0, n)]) for n in range(2)]
    for number, table in enumerate(tables):
        write(tmp_path / "stats" / f"{number}.parquet", table)
    view = view_of(tmp_path / "stats" / pattern)
    store = open_store(tmp_path, [view])

    check(store, asked([(1, T0), (1, T0 + DAY)]), VALUE, [facts_of(view, *tables)])


def test_files_with_other_column_orders_widths_and_missing_columns(tmp_path: Path) -> None:
    first = facts_table([(1, T0, T0, 1)]).append_column("word", [["a"]])
    second = facts_table([(2, T0, T0, 2)]).select([CREATED, "value", TIME, "user_id"])
    first = first.set_column(3, "value", first["value"].cast(pa.int32()))
    for number, table in enumerate((first, second)):
        write(tmp_path / "stats" / f"{number}.parquet", table)
    view = view_of(tmp_path / "stats", features={"value": Int64, "word": String})
    store = open_store(tmp_path, [view])

    found = retrieve(store, asked([(2, T0), (1, T0)]), ["stats:value", "stats:word"]).to_arrow()

    assert found["value"].to_pylist() == [2, 1]
    assert found["word"].to_pylist() == [None, "a"]
    assert found.schema.field("value").type == pa.int64()


def test_partitioned_folders_give_their_partitions_as_columns(tmp_path: Path) -> None:
    place = tmp_path / "stats"
    for country, day in itertools.product(["de", "jp"], [0, 1]):
        user = 1 if country == "de" else 2
        table = facts_table([(user, T0 + day * DAY, T0, 10 * user + day)])
        write(place / f"country={country}" / f"day={day}" / "part.parquet", table)
    view = view_of(place, features={"value": Int64, "country": String, "day": Int32})
    store = open_store(tmp_path, [view])

    references = ["stats:value", "stats:country", "stats:day"]
    entities = asked([(1, T0), (2, T0 + DAY), (3, T0)])
    found = retrieve(store, entities, references).to_arrow()

    assert found["value"].to_pylist() == [10, 21, None]
    assert found["country"].to_pylist() == ["de", "jp", None]
    assert found["day"].to_pylist() == [0, 1, None]


def test_a_relative_path_is_taken_from_the_repo(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7)])
    write(tmp_path / "data" / "stats.parquet", table)
    view = view_of("data/stats.parquet")
    store = open_store(tmp_path, [view])

    check(store, asked([(1, T0)]), VALUE, [facts_of(view, table)])


def test_a_uri_of_a_file(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7)])
    view = view_of(f"file://{write(tmp_path / 'stats.parquet', table)}")
    store = open_store(tmp_path, [view])

    check(store, asked([(1, T0)]), VALUE, [facts_of(view, table)])


def test_keys_of_a_source_beyond_every_signed_number(tmp_path: Path) -> None:
    keys = pa.array([1, 2**64 - 1], pa.uint64())
    table = facts_table([(0, T0, T0, 7), (0, T0, T0, 8)]).set_column(0, "user_id", keys)
    store = open_store(tmp_path, [view_of(write(tmp_path / "stats.parquet", table))])

    found = retrieve(store, asked([(1, T0), (-1, T0)]), VALUE).to_arrow()

    assert found["value"].to_pylist() == [7, None]


def test_markers_and_empty_files_in_a_folder_are_no_source(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7)])
    write(tmp_path / "stats" / "0.parquet", table.slice(0, 0))
    write(tmp_path / "stats" / "1.parquet", table)
    (tmp_path / "stats" / "_SUCCESS").write_text("")
    (tmp_path / "stats" / ".1.parquet.crc").write_text("x")
    view = view_of(tmp_path / "stats")
    store = open_store(tmp_path, [view])

    check(store, asked([(1, T0)]), VALUE, [facts_of(view, table)])


def test_names_with_spaces_quotes_and_brackets(tmp_path: Path) -> None:
    table = facts_table([(1, T0, T0, 7)])
    view = view_of(write(tmp_path / "it's a #1 100% ü" / "my file.parquet", table))
    store = open_store(tmp_path, [view])

    check(store, asked([(1, T0)]), VALUE, [facts_of(view, table)])


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "stats.parquet", facts_table([(1, T0, T0, 7)]))
    store = open_store(tmp_path, [view_of(path)])
    assert retrieve(store, asked([(1, T0)]), VALUE).to_arrow()["value"].to_pylist() == [7]

    write(path, facts_table([(1, T0, T0, 8)]))

    assert retrieve(store, asked([(1, T0)]), VALUE).to_arrow()["value"].to_pylist() == [8]


# Types ----------------------------------------------------------------------------------------

TYPES: list[tuple[FeastType, pa.DataType, list[Any]]] = [
    (Int32, pa.int32(), [-(2**31), 2**31 - 1]),
    (Int64, pa.int64(), [-(2**63), 2**63 - 1]),
    (Float32, pa.float32(), [1.5, float("-inf")]),
    (Float64, pa.float64(), [0.1, 1e308]),
    (Bool, pa.bool_(), [True, False]),
    (String, pa.string(), ["", "ключ 🔑"]),
    (String, pa.large_string(), ["a", "b"]),
    (Bytes, pa.binary(), [b"", b"\x00\xff"]),
    (UnixTimestamp, pa.timestamp("us", "UTC"), [at(T0), at(0)]),
    (UnixTimestamp, pa.timestamp("ns"), [at(T0).replace(tzinfo=None), None]),
    (Json, pa.string(), ['{"a": 1}', "null"]),
    (Map, pa.map_(pa.string(), pa.string()), [[("a", "b")], []]),
    (Float64, pa.decimal128(9, 2), [Decimal("1.25"), Decimal("-1.00")]),
    (Array(Int32), pa.list_(pa.int32()), [[1, 2], []]),
    (Array(Int64), pa.list_(pa.int64()), [[1], [2, None]]),
    (Array(Float32), pa.list_(pa.float32()), [[1.5, 2.5], [3.5]]),
    (Array(Float32), pa.list_(pa.float32()), [[1.5, 2.5], [3.5, 4.5]]),
    (Array(Float32), pa.list_(pa.float32()), [[], []]),
    (Array(Float32), pa.list_(pa.float32()), [[1.5, None], [3.5, 4.5]]),
    (Array(Float32), pa.list_(pa.float32(), 2), [[1.5, 2.5], [3.5, 4.5]]),
    (Array(Float32), pa.large_list(pa.float32()), [[1.5, 2.5], [3.5, 4.5]]),
    (Array(Float64), pa.list_(pa.float64()), [[0.1], [0.2, 0.3]]),
    (Array(Bool), pa.list_(pa.bool_()), [[True], [False, True]]),
    (Array(String), pa.list_(pa.string()), [["a", ""], ["ü"]]),
    (Array(Bytes), pa.list_(pa.binary()), [[b"a"], [b"\x00", b""]]),
    (Array(UnixTimestamp), pa.list_(pa.timestamp("us", "UTC")), [[at(T0)], []]),
    (Array(Array(Float32)), pa.list_(pa.list_(pa.float32())), [[[1.5]], [[2.5], []]]),
    (String, pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
]


@pytest.mark.parametrize(("kind", "held", "values"), TYPES, ids=lambda x: str(x)[:30])
def test_every_type_comes_out_as_it_lies_in_the_file(
    tmp_path: Path, kind: FeastType, held: pa.DataType, values: list[Any]
) -> None:
    plain = held.value_type if pa.types.is_dictionary(held) else held
    feature = pa.array([*values, None, values[0]], plain).cast(held)
    keys = [1, 2, 3, 4]
    table = facts_table([(key, T0, T0, 0) for key in keys]).append_column("feature", feature)
    path = write(tmp_path / "stats.parquet", table, row_group_size=3)
    store = open_store(tmp_path, [view_of(path, features={"feature": kind})])
    entities = asked([(key, T0) for key in (4, 9, 3, 2, 1, 1)])

    job = retrieve(store, entities, ["stats:feature"])

    wanted = [*feature.to_pylist(), None]
    expected = [wanted[place] for place in (3, 4, 2, 1, 0, 0)]
    assert job.to_arrow()["feature"].to_pylist() == expected
    assert pa.Table.from_batches(list(job.stream(2)))["feature"].to_pylist() == expected
    assert len(job.to_df()) == 6
    job.to_parquet(tmp_path / "out.parquet")


def test_extra_types_that_feast_knows_as_text_or_bytes(tmp_path: Path) -> None:
    ids = [str(uuid.UUID(int=n)) for n in range(2)]
    table = facts_table([(n, T0, T0, n) for n in range(2)]).append_column("id", [ids])
    store = open_store(
        tmp_path, [view_of(write(tmp_path / "s.parquet", table), features={"id": String})]
    )

    found = retrieve(store, asked([(1, T0), (0, T0)]), ["stats:id"]).to_arrow()

    assert found["id"].to_pylist() == ids[::-1]


# Sources that can't be read -------------------------------------------------------------------


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:1500] = b"\xff" * 1496
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def not_parquet(path: Path) -> None:
    path.write_text("user_id,value\n1,2\n")


def text_times(path: Path) -> None:
    write(path, pa.table({"user_id": [1], TIME: ["2026-03-10"], CREATED: ["x"], "value": [1]}))


def no_feature(path: Path) -> None:
    write(path, facts_table([(1, T0, T0, 1)]).rename_columns({"value": "other"}))


def no_time(path: Path) -> None:
    write(path, facts_table([(1, T0, T0, 1)]).drop_columns([TIME]))


def no_created(path: Path) -> None:
    write(path, facts_table([(1, T0, T0, 1)]).drop_columns([CREATED]))


def no_key(path: Path) -> None:
    write(path, facts_table([(1, T0, T0, 1)], key="uid"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, []),
        (damaged, []),
        (cut, []),
        (not_parquet, []),
        (text_times, [TIME, "string"]),
        (no_feature, ["value", "other"]),
        (no_time, [TIME]),
        (no_created, [CREATED]),
        (no_key, ["user_id", "uid"]),
    ],
)
def test_sources_that_can_not_be_read(tmp_path: Path, harm: Any, words: list[str]) -> None:
    rows = [(user, T0 + user, T0, user) for user in range(2000)]
    path = write(tmp_path / "stats.parquet", facts_table(rows), compression="none")
    store = open_store(tmp_path, [view_of(path)])
    harm(path)

    with pytest.raises(ProvenderError) as caught:
        retrieve(store, asked([(user, T0 + DAY) for user in range(2000)]), VALUE).to_arrow()

    assert "\n" not in str(caught.value)
    for word in ["stats", *words]:
        assert word in str(caught.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "stats").mkdir()
    store = open_store(tmp_path, [view_of(tmp_path / "stats")])

    with pytest.raises(SourceError, match="stats"):
        retrieve(store, asked([(1, T0)]), VALUE).to_arrow()


# Embeddings -----------------------------------------------------------------------------------


def embeddings(root: Path, version: int = 1, dim: int = 4, **changes: Any) -> FeatureView:
    declared: dict[str, Any] = {
        "name": "user_emb",
        "version": version,
        "entity": USER,
        "dim": dim,
        "nested_dims": (2,),
        "space": f"s{version}",
        "producer": "p",
        "ttl": timedelta(days=2),
        "snapshots": root,
    }
    return embedding_view(**(declared | changes))


def refresh(root: Path, view: FeatureView, instant: int, keys: list[Any]) -> dict[Any, list[float]]:
    spec = spec_of(view)
    dice = np.random.default_rng(instant % 997)
    vectors = dice.normal(size=(len(keys), spec.dim)).astype(np.float32)
    run = RunInfo("run", spec.producer, "c0ffee", at(instant), at(instant))
    write_snapshot(root, spec, at(instant), pa.array(keys), vectors, run)
    return dict(zip(keys, vectors.tolist(), strict=True))


def test_embeddings_of_the_newest_refresh_that_has_the_entity(tmp_path: Path) -> None:
    view = embeddings(tmp_path / "s")
    monday = refresh(tmp_path / "s", view, T0, [1, 2, 5])
    tuesday = refresh(tmp_path / "s", view, T0 + DAY, [2, 3])
    store = open_store(tmp_path, [view])
    expected = {
        (1, T0 - 1): None,
        (1, T0): monday[1],
        (1, T0 + 2 * DAY): monday[1],
        (1, T0 + 2 * DAY + 1): None,
        (2, T0 + DAY - 1): monday[2],
        (2, T0 + DAY): tuesday[2],
        (3, T0 + DAY): tuesday[3],
        (3, T0): None,
        (4, T0): None,
        (5, T0 + DAY): monday[5],
        (None, T0): None,
    }
    entities = asked([*expected, *expected], unit="ns")

    for frame in (entities, entities.set_column(0, "user_id", entities[0].cast(pa.int32()))):
        found = retrieve(store, frame, ["user_emb_v1:embedding"]).to_arrow()
        assert found["embedding"].to_pylist() == [*expected.values()] * 2

    frame = entities.to_pandas()
    assert frame["user_id"].dtype == float
    found = retrieve(store, frame, ["user_emb_v1:embedding"]).to_arrow()
    assert found["embedding"].to_pylist() == [*expected.values()] * 2


def test_a_backfill_counts_unless_created_times_are_respected(tmp_path: Path) -> None:
    view = embeddings(tmp_path / "s", ttl=timedelta(days=9999))
    held = refresh(tmp_path / "s", view, T0, [1])
    store = open_store(tmp_path, [view])
    snapshot = find_snapshot(tmp_path / "s", "user_emb_v1", at(T0))
    assert snapshot is not None
    created = int(snapshot.manifest.created_at.timestamp())
    times = [T0 + DAY, (created - 60) * 10**9, (created + 60) * 10**9]
    entities = asked([(1, time) for time in times])
    references = ["user_emb_v1:embedding"]

    loose = retrieve(store, entities, references).to_arrow()
    strict = retrieve(store, entities, references, filter_by_created_timestamp=True).to_arrow()

    assert loose["embedding"].to_pylist() == [held[1]] * 3
    assert strict["embedding"].to_pylist() == [None, None, held[1]]


def test_two_versions_of_one_embedding_in_one_call(tmp_path: Path) -> None:
    views = [embeddings(tmp_path / "s", version, dim) for version, dim in ((1, 4), (2, 3))]
    held = [refresh(tmp_path / "s", view, T0, [1, 2]) for view in views]
    store = open_store(tmp_path, views)

    found = retrieve(
        store,
        asked([(2, T0), (1, T0)]),
        [f"{view.name}:embedding" for view in views],
        full_feature_names=True,
    ).to_arrow()

    assert found.column_names[2:] == ["user_emb_v1__embedding", "user_emb_v2__embedding"]
    assert found["user_emb_v1__embedding"].to_pylist() == [held[0][2], held[0][1]]
    assert found["user_emb_v2__embedding"].to_pylist() == [held[1][2], held[1][1]]


def test_text_keys_and_two_roles_of_one_embedding(tmp_path: Path) -> None:
    view = embeddings(tmp_path / "s", entity=PIN)
    held = refresh(tmp_path / "s", view, T0, sorted(["a", "ü", "鍵"]))
    store = open_store(tmp_path, [view])
    roles = [
        view.with_name(f"{role}_emb").with_join_key_map({"pin_id": f"{role}_pin"})
        for role in ("shown", "clicked")
    ]
    service = FeatureService(name="pairs", features=roles)
    store.apply([service])
    entities = pa.table(
        {"shown_pin": ["a", "x", None], "clicked_pin": ["鍵", "ü", "a"], TIME: stamps([T0] * 3)}
    )

    found = retrieve(store, entities, service, full_feature_names=True).to_arrow()

    assert found["shown_emb__embedding"].to_pylist() == [held["a"], None, None]
    assert found["clicked_emb__embedding"].to_pylist() == [held["鍵"], held["ü"], held["a"]]


def test_the_same_files_through_a_plain_view_give_the_same(tmp_path: Path) -> None:
    view = embeddings(tmp_path / "s")
    for day in range(3):
        refresh(tmp_path / "s", view, T0 + day * DAY, [1, 2, 3 + day])
    source = FileSource(
        name="plain",
        path=str(tmp_path / "s" / "user_emb_v1" / "*" / "part-*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field=TIME,
        created_timestamp_column=CREATED,
    )
    plain = view_of("x", "plain", features={"embedding": Array(Float32)}, ttl=view.ttl)
    plain.batch_source = source
    store = open_store(tmp_path, [view, plain])
    entities = asked([(user, T0 + hour * DAY // 4) for user in range(7) for hour in range(-1, 20)])

    found = retrieve(
        store,
        entities,
        ["user_emb_v1:embedding", "plain:embedding"],
        full_feature_names=True,
    ).to_arrow()

    ours, theirs = found["user_emb_v1__embedding"], found["plain__embedding"]
    assert ours.to_pylist() == theirs.to_pylist()
    assert 0 < ours.null_count < len(ours)


def test_an_embedding_view_without_any_snapshot_is_named(tmp_path: Path) -> None:
    store = open_store(tmp_path, [embeddings(tmp_path / "s")])

    with pytest.raises(ProvenderError, match="user_emb_v1"):
        retrieve(store, asked([(1, T0)]), ["user_emb_v1:embedding"]).to_arrow()


def own_files(folder: Path, vectors: list[Any]) -> FeatureView:
    """An embedding view over a user's own file."""
    users = len(vectors)
    table = facts_table([(user, T0, T0, 0) for user in range(users)]).drop_columns(["value"])
    table = table.append_column("embedding", pa.array(vectors, pa.list_(pa.float32())))
    path = write(folder / "own.parquet", table, row_group_size=2)
    return embeddings(path)


def test_vectors_of_a_users_own_file_and_their_prefixes(tmp_path: Path) -> None:
    vectors = [[float(4 * user + i) for i in range(4)] for user in range(5)]
    vectors_with_null: list[Any] = [*vectors, None]
    store = open_store(tmp_path, [own_files(tmp_path, vectors_with_null)])
    entities = asked([(user, T0) for user in (3, 0, 5, 4, 9, 3)])

    job = retrieve(store, entities, ["user_emb_v1:embedding"])

    expected = [vectors[3], vectors[0], None, vectors[4], None, vectors[3]]
    assert job.to_arrow()["embedding"].to_pylist() == expected
    found = job.at_dims({"user_emb_v1": 2}).to_arrow()["embedding"].to_pylist()
    assert found == [vector and vector[:2] for vector in expected]


@pytest.mark.parametrize("wrong", [[1.0, 2.0, 3.0], [], [1.0] * 5, [1.0, None, 2.0, 3.0]])
@pytest.mark.parametrize("place", [0, 3])
def test_vectors_of_another_length_than_declared_are_refused(
    tmp_path: Path, wrong: list[Any], place: int
) -> None:
    vectors: list[Any] = [[1.0, 2.0, 3.0, 4.0] for _ in range(5)]
    view = own_files(tmp_path, vectors)
    store = open_store(tmp_path, [view])
    vectors[place] = wrong
    own_files(tmp_path, vectors)

    with pytest.raises(SnapshotError) as caught:
        entities = asked([(user, T0) for user in range(5)])
        retrieve(store, entities, ["user_emb_v1:embedding"]).to_arrow()

    assert "4" in str(caught.value)
    assert "own.parquet" in str(caught.value) or "user_emb_v1" in str(caught.value)


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    view = embeddings(tmp_path / "s")
    refresh(tmp_path / "s", view, T0, list(range(100)))
    store = open_store(tmp_path, [view])
    path = next((tmp_path / "s").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(SnapshotError) as caught:
        retrieve(store, asked([(1, T0)]), ["user_emb_v1:embedding"]).to_arrow()

    assert "user_emb_v1" in str(caught.value)
