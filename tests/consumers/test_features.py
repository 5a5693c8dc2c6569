from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Int64, String

from provender.consumers.features import Column, FeatureLayout, RankerBatch, shape_batch
from provender.plugin.errors import ConfigError


def test_a_layout_reads_what_the_registry_declares(store: FeatureStore) -> None:
    layout = FeatureLayout.of_service(store, "rich")
    assert [spec.view_name for spec in layout.embeddings] == ["user_test_v1", "pin_test_v1"]
    assert [(each.column, each.integer) for each in layout.dense] == [
        ("user_counters__clicks", True),
        ("user_counters__rate", False),
        ("pin_counters__clicks", True),
        ("pin_counters__rate", False),
    ]
    assert layout.references("pin_id") == [
        "pin_test_v1:embedding",
        "pin_counters:clicks",
        "pin_counters:rate",
    ]
    assert FeatureLayout.model_validate_json(layout.model_dump_json()) == layout


def test_a_feature_that_no_ranker_reads_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    view = FeatureView(
        name="names",
        entities=[store.get_entity("pin")],
        schema=[Field(name="pin_id", dtype=Int64), Field(name="title", dtype=String)],
        source=FileSource(path=str(tmp_path / "no.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([view, FeatureService(name="named", features=[view])])
    with pytest.raises(ConfigError, match="names:title of type String"):
        FeatureLayout.of_service(store, "named")


def test_a_view_under_another_name_is_refused(store: FeatureStore) -> None:
    view = store.get_feature_view("user_counters").with_name("people")
    store.apply([FeatureService(name="aliased", features=[view])])
    with pytest.raises(ConfigError, match="user_counters under another name"):
        FeatureLayout.of_service(store, "aliased")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_missing_or_not_finite_is_zero_and_marked(store: FeatureStore, bad: float) -> None:
    layout = FeatureLayout.of_service(store, "rich")
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[1, 2] = bad
    ages = np.array([5.0, 6.0, 7.0])
    mask = np.array([True, True, False])
    columns: dict[str, Column] = {
        f"{entity}_test_v1__embedding": Column(vectors, mask, ages) for entity in ("user", "pin")
    }
    for each in layout.dense:
        columns[each.column] = Column(np.array([2.0, bad, 4.0]), mask)
    batch = shape_batch(layout, columns, 3)
    assert batch.present["user_test_v1"].tolist() == [True, False, False]
    assert batch.vectors["user_test_v1"].sum(1).tolist() == [4.0, 0.0, 0.0]
    assert torch.isnan(batch.age_seconds["user_test_v1"]).tolist() == [False, True, True]
    assert batch.dense[:, 0].tolist() == [2.0, 0.0, 0.0]
    assert batch.dense_present[:, 3].tolist() == [True, False, False]
    assert vectors[2, 0] == 1.0  # The caller's array is its own.


def test_rows_are_taken_in_the_order_asked_twice_where_asked() -> None:
    columns: dict[str, Any] = {"v": torch.arange(3.0)[:, None]}
    flags = {"v": torch.tensor([True, False, True])}
    batch = RankerBatch(
        vectors=columns,
        present=flags,
        age_seconds={"v": torch.arange(3.0)},
        dense=torch.arange(6.0).reshape(3, 2),
        dense_present=torch.ones(3, 2, dtype=torch.bool),
        context={"place": pa.array(["a", "b", "c"])},
        labels={"click": torch.tensor([0.0, 1.0, 0.0])},
    )
    taken = batch.take(torch.tensor([2, 0, 2]))
    assert taken.vectors["v"][:, 0].tolist() == [2.0, 0.0, 2.0]
    assert taken.context["place"].to_pylist() == ["c", "a", "c"]
    assert taken.dense[:, 1].tolist() == [5.0, 1.0, 5.0]
    assert taken.labels["click"].tolist() == [0.0, 0.0, 0.0]
    assert batch.without_context().take(torch.tensor([1])).context == {}
