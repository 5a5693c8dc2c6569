"""The online store on SQLite, PostgreSQL and MariaDB: what is written is what is read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int32, Int64, String

from provender.plugin.errors import (
    FetchError,
    OnlineRowError,
    OnlineStoreError,
    OnlineValueError,
)
from provender.plugin.online_tables import fitting
from tests.plugin.online_world import (
    START,
    OnlineWorld,
    entity,
    floats,
    number_view,
    pin,
    plain_view,
    times,
    vector_batch,
    vector_view,
)

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def test_vectors_come_back_in_request_order_with_duplicates(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    assert online.load(view, vector_batch([30, -10, 2**62], VECTORS, event=1)) == 3

    rows = online.store.read_columns(online.config(), view, {"pin_id": [2**62, 7, 30, 30, -10]})

    assert rows.present.tolist() == [True, False, True, True, True]
    column = rows.columns["embedding"]
    assert column.values.dtype == np.float32
    assert column.values.flags.c_contiguous
    expected = [VECTORS[2], np.zeros(4), VECTORS[0], VECTORS[0], VECTORS[1]]
    assert column.values.tolist() == [list(vector) for vector in expected]
    assert column.valid.tolist() == rows.present.tolist()
    now = START + timedelta(days=3.5)
    seconds = 2.5 * 86_400
    assert rows.ages(now).tolist()[2:] == [seconds] * 3
    assert np.isnan(rows.ages(now)[1])
    assert rows.fresh(timedelta(seconds=seconds), now).tolist() == rows.present.tolist()
    assert not rows.fresh(timedelta(seconds=seconds - 1), now).any()
    assert not rows.fresh(None, START).any()


def test_a_prefix_is_one_of_the_views_own_dims(online: OnlineWorld, tmp_path: Path) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, vector_batch([1, 2, 3], VECTORS))

    rows = online.store.read_columns(online.config(), view, {"pin_id": [3, 1, 9]}, dim=2)

    found = rows.columns["embedding"].values
    assert found.tolist() == [VECTORS[2, :2].tolist(), VECTORS[0, :2].tolist(), [0, 0]]
    assert found.flags.c_contiguous
    with pytest.raises(FetchError, match="found dim 3; expected one of its dims 2, 4"):
        online.store.read_columns(online.config(), view, {"pin_id": [3]}, dim=3)
    with pytest.raises(FetchError, match="the features nothing"):
        online.store.read_columns(online.config(), view, {"pin_id": [3]}, ["nothing"])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_narrow_vectors_come_back_within_their_error(
    online: OnlineWorld, tmp_path: Path, dtype: str
) -> None:
    view = vector_view(tmp_path, dtype=dtype)
    online.apply(view)
    online.load(view, vector_batch([1, 2, 3], VECTORS))

    rows = online.store.read_columns(online.config(), view, {"pin_id": [1, 2, 3]})
    (read,) = online.store.online_read(online.config(), view, [pin(2)])

    found = rows.columns["embedding"].values
    limit = np.abs(VECTORS) * 2.0**-11 if dtype == "float16" else VECTORS.max(1)[:, None] / 254
    assert (np.abs(found - VECTORS) <= limit * 1.0001).all()
    assert read[1] is not None
    assert list(read[1]["embedding"].float_list_val.val) == found[1].tolist()


def test_feast_reads_and_writes(online: OnlineWorld, tmp_path: Path) -> None:
    view = vector_view(tmp_path)
    config, progress = online.config(), list[int]()
    online.apply(view)
    data = [
        (pin(1), {"embedding": floats(VECTORS[0])}, datetime(2026, 1, 1), None),
        (pin(2), {"embedding": floats(VECTORS[1])}, START, START),
    ]

    online.store.online_write_batch(config, view, data, progress.append)
    read = online.store.online_read(config, view, [pin(2), pin(5), pin(1), pin(2)], ["embedding"])

    two = (START, {"embedding": floats(VECTORS[1])})
    assert read == [two, (None, None), (START, {"embedding": floats(VECTORS[0])}), two]
    assert read[0][0] is not None
    assert read[0][0].tzinfo == UTC
    assert sum(progress) == 2
    assert online.store.online_read(config, view, []) == []
    online.store.online_write_batch(config, view, [], None)


def test_feast_reads_and_writes_asynchronously(online: OnlineWorld) -> None:
    view, config = number_view(), online.config()
    online.apply(view)

    async def both() -> Any:
        row = {"number": Value(int64_val=7)}
        await online.store.online_write_batch_async(
            config, view, [(pin(1), row, START, None)], None
        )
        return await asyncio.gather(
            *(online.store.online_read_async(config, view, [pin(n)]) for n in range(20))
        )

    read = asyncio.run(both())

    assert [rows[0][1] for rows in read[:3]] == [None, {"number": Value(int64_val=7)}, None]
    assert online.store.async_supported.read and online.store.async_supported.write


def test_older_rows_never_replace_newer_ones(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    online.apply(view)

    def first() -> float:
        rows = online.store.read_columns(config, view, {"pin_id": [1]})
        return float(rows.columns["embedding"].values[0, 0])

    def push(value: float, event: float, created: float | None) -> None:
        stamp = None if created is None else START + timedelta(days=created)
        row = {"embedding": floats([value] * 4)}
        when = START + timedelta(days=event)
        online.store.online_write_batch(config, view, [(pin(1), row, when, stamp)], None)

    online.load(view, vector_batch([1], [[1] * 4], event=5, created=5))
    assert first() == 1
    online.load(view, vector_batch([1], [[2] * 4], event=4, created=9))
    assert first() == 1
    online.load(view, vector_batch([1], [[3] * 4], event=5, created=4))
    assert first() == 1
    online.load(view, vector_batch([1], [[4] * 4], event=5, created=5))
    assert first() == 4
    push(5, 5, None)  # Without a created time it is the older of two with one event time.
    assert first() == 4
    push(6, 4.9, 9)
    assert first() == 4
    push(7, 5.1, None)
    assert first() == 7
    push(8, 5.1, None)
    assert first() == 8


def test_more_keys_than_a_database_takes_at_once(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    text = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
    by_word = plain_view("words", {"number": Int64}, text)
    online.apply(view, by_word)
    online.load(view, vector_batch([5, 39_999], VECTORS[:2]))
    word = {"number": Value(int64_val=3)}
    data = [(entity(word=Value(string_val="w39999")), word, START, None)]
    online.store.online_write_batch(config, by_word, data, None)

    rows = online.store.read_columns(config, view, {"pin_id": np.arange(40_000)})
    words = [f"w{number}" for number in range(40_000)]
    by_text = online.store.read_columns(config, by_word, {"word": words})

    assert np.flatnonzero(rows.present).tolist() == [5, 39_999]
    assert rows.columns["embedding"].values[39_999].tolist() == VECTORS[1].tolist()
    assert np.flatnonzero(by_text.present).tolist() == [39_999]
    none = online.store.read_columns(config, view, {"pin_id": []})
    assert len(none) == 0
    assert none.columns["embedding"].values.shape == (0, 4)


KEYS = ["", "a", "a ", "A", "é", "e\u0301", "日本 'x\"; --", "n\0l", "%s %% ?", "🦆" * 50]


def test_string_keys_are_told_apart_byte_by_byte(online: OnlineWorld) -> None:
    text = Entity(name="word", join_keys=["word"], value_type=ValueType.STRING)
    view, config = plain_view("words", {"number": Int64}, text), online.config()
    online.apply(view)
    batch = pa.record_batch(
        {
            "word": KEYS,
            "number": range(len(KEYS)),
            "event_timestamp": times([0] * len(KEYS)),
            "created_timestamp": times([0] * len(KEYS)),
        }
    )
    online.load(view, batch)

    asked = [*KEYS[::-1], "b", "a"]
    rows = online.store.read_columns(config, view, {"word": asked})
    protos = [entity(word=Value(string_val=word)) for word in asked]
    read = online.store.online_read(config, view, protos)

    expected = [*range(len(KEYS))[::-1], None, 1]
    column = rows.columns["number"]
    assert [
        int(n) if column.valid[row] else None for row, n in enumerate(column.values)
    ] == expected
    assert [row and row["number"].int64_val for _, row in read] == expected
    scanned = [rows.keys for rows in online.store.scan(config, view, rows=3)]
    assert [word for keys in scanned for word in (keys or {})["word"]] == sorted(KEYS)


def test_composite_keys_are_feasts_own(online: OnlineWorld) -> None:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT32)
    raw = Entity(name="raw", join_keys=["raw"], value_type=ValueType.BYTES)
    view = plain_view("visits", {"number": Int64}, user, shop, raw)
    config = online.config()
    online.apply(view)
    users, shops, raws = ["é", "é", "b"], [1, 2, 1], [b"\0", b"x", b""]
    batch = pa.record_batch(
        {
            "shop": pa.array(shops, pa.int32()),
            "raw": raws,
            "user_id": users,
            "number": [1, 2, 3],
            "event_timestamp": times([0] * 3),
            "created_timestamp": times([0] * 3),
        }
    )
    online.load(view, batch)

    asked: dict[str, list[Any]] = {
        "user_id": ["b", "é", "b"],
        "shop": [1, 2, 2],
        "raw": [b"", b"x", b""],
    }
    rows = online.store.read_columns(config, view, asked)
    read = online.store.online_read(
        config,
        view,
        [
            entity(
                user_id=Value(string_val=users[row]),
                raw=Value(bytes_val=raws[row]),
                shop=Value(int32_val=shops[row]),
            )
            for row in range(3)
        ],
    )

    assert rows.columns["number"].values.tolist() == [3, 2, 0]
    assert rows.present.tolist() == [True, True, False]
    assert [row and row["number"].int64_val for _, row in read] == [1, 2, 3]
    (scanned,) = online.store.scan(config, view)
    assert scanned.keys is not None
    assert sorted(zip(*(scanned.keys[n] for n in ("user_id", "shop", "raw")), strict=True)) == [
        ("b", 1, b""),
        ("é", 1, b"\0"),
        ("é", 2, b"x"),
    ]


def test_views_without_an_entity_and_precomputed_vectors(online: OnlineWorld) -> None:
    config = online.config()
    view = FeatureView(name="world", entities=[], schema=[Field(name="n", dtype=Int64)])
    online.apply(view)
    batch = pa.record_batch(
        {"n": [5], "event_timestamp": times([0]), "created_timestamp": times([None])}
    )
    online.load(view, batch)
    dummy = entity(__dummy_id=Value(string_val=""))

    assert online.store.online_read(config, view, [dummy])[0][1] == {"n": Value(int64_val=5)}

    online.store.write_precomputed_vector(config, "service", online.project, pin(4), b"\x01\x02")
    found = online.store.read_precomputed_vectors(
        config, "service", online.project, [pin(3), pin(4)]
    )
    assert found == [None, b"\x01\x02"]


def test_rows_of_a_former_schema_stay_readable(online: OnlineWorld) -> None:
    config = online.config()
    old = plain_view("grown", {"kept": Int32, "gone": String})
    new = plain_view("grown", {"kept": Int64, "added": Float32, "words": Array(String)})
    online.apply(old)
    row = {"kept": Value(int32_val=-5), "gone": Value(string_val="x")}
    online.store.online_write_batch(config, old, [(pin(1), row, START, None)], None)

    online.apply(new)
    row = {"kept": Value(int64_val=6), "added": Value(float_val=0.5)}
    online.store.online_write_batch(config, new, [(pin(2), row, START, None)], None)
    columns = online.store.read_columns(config, new, {"pin_id": [2, 1, 3]}).columns
    read = online.store.online_read(config, new, [pin(1), pin(2)])

    assert columns["kept"].values.tolist() == [6, -5, 0]
    assert columns["kept"].values.dtype == np.int64
    assert columns["added"].values.tolist() == [0.5, 0, 0]
    assert columns["added"].valid.tolist() == [True, False, False]
    assert columns["words"].values.tolist() == [None] * 3
    assert read[0][1] == {"kept": Value(int32_val=-5), "added": Value(), "words": Value()}
    assert read[1][1] == {**row, "words": Value()}


def test_native_versions_have_tables_of_their_own(online: OnlineWorld) -> None:
    config = online.config(versioning=True)
    views = []
    for version in (1, 2):
        view = number_view()
        view.projection.version_tag = version
        views.append(view)
        online.apply(view, config=config)
        row = {"number": Value(int64_val=version)}
        online.store.online_write_batch(config, view, [(pin(1), row, START, None)], None)

    read = [online.store.online_read(config, view, [pin(1)])[0][1] for view in views]

    assert read == [{"number": Value(int64_val=1)}, {"number": Value(int64_val=2)}]
    assert online.store._is_versioned_read_supported() or online.store._versioned_read_supported


def test_ttl_is_held_where_the_config_says_so(online: OnlineWorld) -> None:
    view = number_view()
    view.ttl = timedelta(days=1)
    online.apply(view)
    now = datetime.now(UTC)
    data = [
        (pin(days), {"number": Value(int64_val=days)}, now - timedelta(days=days), None)
        for days in (0, 2)
    ]
    online.store.online_write_batch(online.config(), view, data, None)

    free = online.store.online_read(online.config(), view, [pin(0), pin(2)])
    held = online.store.online_read(online.config(enforce_ttl=True), view, [pin(0), pin(2)])

    assert [row is not None for _, row in free] == [True, True]
    assert [row is not None for _, row in held] == [True, False]


def test_teardown_drops_what_is_the_projects_and_nothing_else(online: OnlineWorld) -> None:
    config = online.config()
    one, two = number_view("one"), number_view("two")
    online.apply(one, two)
    online.store.write_precomputed_vector(config, "service", online.project, pin(4), b"x")
    other = f"{online.project}x_other"
    online.execute(f"CREATE TABLE `{other}` (a INTEGER)")

    online.store.teardown(config, [one], [])
    names = set(online.database().names("test"))
    assert f"{online.project}_two" in names
    assert other in names
    assert f"{online.project}_one" not in names
    assert not any("precomputed" in name for name in names if name.startswith(online.project))

    online.execute(f"DROP TABLE `{other}`")
    online.store.update(config, [two], [], [], [], True)
    online.store.teardown(config, [], [])
    if online.kind == "sqlite":
        assert [path.name for path in (online.root / "data").iterdir()] == []


def test_names_are_quoted_and_long_ones_stay_apart(online: OnlineWorld) -> None:
    names = ["a%s`\"'; --", "b" * 70 + "1", "b" * 70 + "2"]
    views, config = [number_view(name) for name in names], online.config()
    online.apply(*views)
    for number, view in enumerate(views):
        row = {"number": Value(int64_val=number)}
        online.store.online_write_batch(config, view, [(pin(1), row, START, None)], None)
        batch = pa.record_batch(
            {
                "pin_id": [2],
                "number": [number],
                "event_timestamp": times([0]),
                "created_timestamp": times([0]),
            }
        )
        online.load(view, batch)

    for number, view in enumerate(views):
        rows = online.store.read_columns(config, view, {"pin_id": [1, 2]})
        assert rows.columns["number"].values.tolist() == [number, number]
    online.store.teardown(config, views, [])
    assert not [n for n in online.database().names("test") if n.startswith(online.project)]
    assert len(fitting("é" * 70).encode()) <= 63


def test_what_an_embedding_view_does_not_declare_is_refused(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view, config = vector_view(tmp_path), online.config()
    online.apply(view)
    good = vector_batch([1], VECTORS[:1])
    bad: dict[str, Any] = {
        "3 floats": [1, 2, 3],
        "the element nan": [1, 2, float("nan"), 4],
        "the element -inf": [1, 2, 3, float("-inf")],
        "null": None,
        "a null within a vector": [1, None, 3, 4],
    }
    for found, vector in bad.items():
        vectors = pa.array([[1, 2, 3, 4], vector], pa.list_(pa.float32()))
        columns = {"pin_id": pa.array([8, 9]), "embedding": vectors}
        stamps = {"event_timestamp": times([0, 0]), "created_timestamp": times([0, 0])}
        with pytest.raises(OnlineValueError) as caught:
            online.load(view, [good, pa.record_batch(columns | stamps)])
        assert caught.value.found == found
        if "within" not in found:
            assert "entity pin_id 9" in caught.value.thing
    row = {"embedding": floats([1, 2, 3])}
    with pytest.raises(OnlineValueError, match="entity pin_id 9: found 3 floats; expected 4"):
        online.store.online_write_batch(config, view, [(pin(9), row, START, None)], None)
    with pytest.raises(OnlineValueError, match="a value of type string_val"):
        online.store.online_write_batch(
            config, view, [(pin(9), {"embedding": Value(string_val="x")}, START, None)], None
        )

    rows = online.store.read_columns(config, view, {"pin_id": [1, 8, 9]})
    assert not rows.present.any()

    half = vector_view(tmp_path, name="pin_half", dtype="float16")
    online.apply(half)
    with pytest.raises(OnlineValueError, match=r"the element 70000\.0; expected finite floats"):
        online.load(half, vector_batch([1], [[1, 2, 3, 70_000]]))


def test_keys_and_columns_that_do_not_fit_are_refused(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    online.apply(view)

    def refused(keys: dict[str, Any]) -> str:
        with pytest.raises(OnlineValueError) as caught:
            online.store.read_columns(config, view, keys)
        return caught.value.found

    assert "double" in refused({"pin_id": [1.5]})
    assert "string" in refused({"pin_id": ["1"]})
    assert refused({"pin_id": [1, None]}) == "null for pin_id in row 1"
    assert refused({"pin": [1]}) == "the key columns pin"
    with pytest.raises(OnlineValueError, match="string_val"):
        online.store.online_read(config, view, [entity(pin_id=Value(string_val="1"))])
    with pytest.raises(OnlineValueError, match="an empty key"):
        online.store.online_read(config, view, [EntityKey()])
    batch = vector_batch([1, None], VECTORS[:2])
    with pytest.raises(OnlineValueError, match="null for pin_id in row 1"):
        online.load(view, batch)
    with pytest.raises(OnlineValueError, match="null in event_timestamp"):
        index = batch.schema.get_field_index("event_timestamp")
        online.load(
            view, vector_batch([1], VECTORS[:1]).set_column(index, "event_timestamp", times([None]))
        )
    with pytest.raises(OnlineValueError, match="no column 'created_timestamp'"):
        online.load(view, vector_batch([1], VECTORS[:1]).drop_columns(["created_timestamp"]))
    with pytest.raises(OnlineValueError, match="embedding"):
        online.load(view, vector_batch([1], VECTORS[:1]).drop_columns(["embedding"]))


def test_a_damaged_row_names_its_entity(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    online.apply(view)
    online.load(view, vector_batch([1, 2, 3], VECTORS))
    table = f"`{online.project}_pin_test_v1`"
    ((payload,),) = online.execute(f"SELECT payload FROM {table} WHERE `key` = ?", 2)
    damaged = bytearray(payload)
    damaged[5] ^= 4

    online.execute(f"UPDATE {table} SET payload = ? WHERE `key` = ?", bytes(damaged), 2)

    expected = r"online feature view pin_test_v1, entity pin_id 2: found bytes that do not fit"
    with pytest.raises(OnlineRowError, match=expected):
        online.store.read_columns(config, view, {"pin_id": [1, 2]})
    with pytest.raises(OnlineRowError, match=expected):
        online.store.online_read(config, view, [pin(2)])
    with pytest.raises(OnlineRowError, match=expected):
        list(online.store.scan(config, view))
    online.execute(f"UPDATE {table} SET payload = ? WHERE `key` = ?", bytes(damaged[:7]), 2)
    with pytest.raises(OnlineRowError, match="entity pin_id 2: found a payload of 7 bytes"):
        online.store.online_read(config, view, [pin(2)])
    online.execute(f"UPDATE {table} SET payload = ?, layout = 5 WHERE `key` = ?", payload, 2)
    with pytest.raises(OnlineRowError, match="entity pin_id 2: found the unknown row layout 5"):
        online.store.online_read(config, view, [pin(2)])
    assert online.store.read_columns(config, view, {"pin_id": [1, 3]}).present.all()


def test_a_missing_table_says_what_to_run(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config()
    row = {"embedding": floats(VECTORS[0])}

    with pytest.raises(OnlineStoreError, match=r"pin_test_v1 at .* Run `feast apply`"):
        online.store.online_read(config, view, [pin(1)])
    with pytest.raises(OnlineStoreError, match="Run `feast apply`"):
        online.store.online_write_batch(config, view, [(pin(1), row, START, None)], None)
    with pytest.raises(OnlineStoreError, match="Run `feast apply`"):
        online.load(view, vector_batch([1], VECTORS[:1]))


def test_an_empty_table_follows_the_type_of_its_key_and_a_full_one_does_not(
    online: OnlineWorld,
) -> None:
    text = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.STRING)
    by_number, by_text = number_view(), plain_view("numbers", {"number": Int64}, text)
    online.apply(by_number)
    online.apply(by_text)
    row = {"number": Value(int64_val=1)}
    data = [(entity(pin_id=Value(string_val="x")), row, START, None)]
    online.store.online_write_batch(online.config(), by_text, data, None)

    with pytest.raises(OnlineStoreError, match="found rows with keys of another type"):
        online.apply(by_number)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://root:s3cret@127.0.0.1:1/test",
        "mysql+pymysql://root:s3cret@127.0.0.1:1/test",
        "postgresql+psycopg2://root:s3cret@127.0.0.1/test",
        "oracle://root:s3cret@127.0.0.1/test",
        "root:s3cret at nowhere",
        "sqlite://",
    ],
)
def test_a_database_that_does_not_answer_is_one_line_without_the_password(
    url: str, tmp_path: Path
) -> None:
    world = OnlineWorld("none", tmp_path, url)

    with pytest.raises(OnlineStoreError) as caught:
        world.store.online_read(world.config(), number_view(), [pin(1)])

    assert "\n" not in str(caught.value)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "s3cret" not in str(seen)
        seen = None if seen.__suppress_context__ else seen.__context__
    assert "s3cret" not in repr(world.config().online_store)
