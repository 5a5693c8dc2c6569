"""Hot snapshots behind the online store: built by a load, withdrawn by a push, never stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feast import Entity, RepoConfig, ValueType
from feast.protos.feast.types.Value_pb2 import Value

from provender.plugin.hot_snapshot import open_hot
from tests.plugin.online_world import (
    START,
    OnlineWorld,
    entity,
    floats,
    number_view,
    pin,
    vector_batch,
    vector_view,
)

VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def folder_of(online: OnlineWorld) -> Path:
    return online.root / "data" / "hot" / f"{online.project}_pin_test_v1"


def read(world: OnlineWorld, config: RepoConfig, view: Any, keys: list[Any], **how: Any) -> Any:
    rows = world.store.read_columns(config, view, {"pin_id": keys}, **how)
    return rows, rows.columns["embedding"].values.tolist()


def test_a_load_publishes_what_a_read_then_takes(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config(hot="data/hot")
    online.apply(view)
    online.load(view, vector_batch([30, -1, 2**62], VECTORS, event=1), config)
    asked = [2**62, 5, 30, 30]
    plain = online.store.read_columns(online.config(), view, {"pin_id": asked})
    online.execute(f"DELETE FROM `{online.project}_pin_test_v1`")  # The copy answers alone.

    rows, vectors = read(online, config, view, asked)

    assert vectors == plain.columns["embedding"].values.tolist()
    assert rows.present.tolist() == plain.present.tolist() == [True, False, True, True]
    assert rows.event_us.tolist() == plain.event_us.tolist()
    assert read(online, config, view, asked, dim=2)[1] == [v[:2] for v in vectors]
    assert not online.store.read_columns(online.config(), view, {"pin_id": asked}).present.any()


def test_a_push_withdraws_it_and_the_next_load_publishes_again(
    online: OnlineWorld, tmp_path: Path
) -> None:
    view, config = vector_view(tmp_path), online.config(hot="data/hot")
    online.apply(view)
    online.load(view, vector_batch([1, 2, 3], VECTORS), config)
    assert open_hot(folder_of(online)) is not None

    row = {"embedding": floats([9] * 4)}
    stamp = START.replace(year=2027)
    online.store.online_write_batch(config, view, [(pin(2), row, stamp, None)], None)

    assert open_hot(folder_of(online)) is None
    assert read(online, config, view, [2, 1])[1] == [[9] * 4, VECTORS[0].tolist()]
    online.load(view, vector_batch([4], [[4] * 4]), config)
    snapshot = open_hot(folder_of(online))
    assert snapshot is not None
    assert snapshot.rows == 4
    assert read(online, config, view, [2, 4])[1] == [[9] * 4, [4] * 4]


def test_a_damaged_copy_is_given_up_for_the_table(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config(hot="data/hot")
    online.apply(view)
    online.load(view, vector_batch([1, 2, 3], VECTORS), config)
    snapshot = open_hot(folder_of(online))
    assert snapshot is not None
    vectors = snapshot.path / "vectors"
    raw = bytearray(vectors.read_bytes())
    raw[3] ^= 1
    vectors.write_bytes(raw)

    assert read(online, config, view, [1, 2, 3])[1] == VECTORS.tolist()
    assert open_hot(folder_of(online)) is None


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_copy_of_narrow_vectors_is_what_the_table_gives(
    online: OnlineWorld, tmp_path: Path, dtype: str
) -> None:
    text = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.STRING)
    view = vector_view(tmp_path, dtype=dtype, entity=text)
    config = online.config(hot="data/hot")
    online.apply(view)
    online.load(view, vector_batch(["é", "a", "日"], VECTORS / 7), config)
    assert open_hot(folder_of(online)) is not None
    asked = ["日", "x", "é"]

    assert read(online, config, view, asked)[1] == read(online, online.config(), view, asked)[1]
    key = entity(pin_id=Value(string_val="é"))
    (row,) = online.store.online_read(config, view, [key])
    assert row[1] is not None
    assert list(row[1]["embedding"].float_list_val.val) == read(online, config, view, ["é"])[1][0]


def test_dropping_the_view_drops_its_copy(online: OnlineWorld, tmp_path: Path) -> None:
    view, config = vector_view(tmp_path), online.config(hot="data/hot")
    numbers = number_view()
    online.apply(view, numbers)
    online.load(view, vector_batch([1, 2, 3], VECTORS), config)

    online.store.teardown(config, [view, numbers], [])

    assert not folder_of(online).exists()
