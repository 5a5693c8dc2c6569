"""The k nearest rows of the online store against a sort of everything, with filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, FeastType, Float32, Int64, String

from provender.plugin.errors import FetchError
from tests.plugin.online_world import (
    START,
    OnlineWorld,
    floats,
    number_view,
    pin,
    plain_view,
    times,
    vector_batch,
    vector_view,
)

RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.standard_normal((40, 4)).astype(np.float32)
QUERY = [0.3, -1.0, 0.2, 0.9]


def distances(metric: str) -> np.ndarray[Any, Any]:
    query = np.array(QUERY)
    rows = VECTORS.astype(np.float64)
    if metric == "l2":
        return np.array(((rows - query) ** 2).sum(axis=1) ** 0.5)
    if metric == "inner_product":
        return np.array(-(rows @ query))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return np.array(1 - (rows @ query) / norms)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_the_nearest_are_those_of_a_full_sort(
    online: OnlineWorld, tmp_path: Path, metric: str
) -> None:
    view = vector_view(tmp_path)
    online.apply(view)
    online.load(view, vector_batch(range(40), VECTORS, event=1))
    expected = np.argsort(distances(metric))[:7]

    hits = online.store.retrieve_online_documents_v2(
        online.config(), view, ["embedding"], QUERY, 7, metric
    )
    documents = online.store.retrieve_online_documents(
        online.config(), view, ["embedding"], QUERY, 7, metric
    )

    assert [hit[1] for hit in hits] == [pin(row) for row in expected]
    for hit, row in zip(hits, expected, strict=True):
        assert hit[2] is not None
        assert hit[2]["embedding"] == floats(VECTORS[row])
        assert hit[2]["distance"].float_val == pytest.approx(distances(metric)[row], abs=1e-6)
    assert [each[1] for each in documents] == [pin(row) for row in expected]
    assert [each[4].float_val for each in documents if each[4]] == [
        hit[2]["distance"].float_val for hit in hits if hit[2]
    ]


def filtered_view(online: OnlineWorld) -> Any:
    kinds: dict[str, FeastType] = {
        "vector": Array(Float32),
        "age": Int64,
        "name": String,
        "good": Bool,
    }
    view = plain_view("filtered", kinds)
    online.apply(view)
    batch = pa.record_batch(
        {
            "pin_id": range(40),
            "vector": pa.array([*VECTORS.tolist()[:39], None], pa.list_(pa.float32())),
            "age": [None, *range(1, 40)],
            "name": [f"n{row % 3}" for row in range(40)],
            "good": [row % 2 == 0 for row in range(40)],
            "event_timestamp": times([0] * 40),
            "created_timestamp": times([0] * 40),
        }
    )
    online.load(view, batch)
    return view


FILTERS: list[tuple[Any, Any]] = [
    (ComparisonFilter(type="eq", key="age", value=7), lambda row: row == 7),
    (ComparisonFilter(type="ne", key="age", value=7), lambda row: row not in (0, 7)),
    (ComparisonFilter(type="gte", key="age", value=30.0), lambda row: row >= 30),
    (ComparisonFilter(type="lt", key="age", value=3), lambda row: 0 < row < 3),
    (ComparisonFilter(type="gt", key="name", value=5), lambda row: False),
    (ComparisonFilter(type="eq", key="good", value=True), lambda row: row % 2 == 0),
    (ComparisonFilter(type="in", key="name", value=["n1", "x"]), lambda row: row % 3 == 1),
    (ComparisonFilter(type="nin", key="age", value=[1, 2]), lambda row: row > 2),
    (
        CompoundFilter(
            type="or",
            filters=[
                ComparisonFilter(type="lte", key="age", value=2),
                CompoundFilter(
                    type="and",
                    filters=[
                        ComparisonFilter(type="eq", key="name", value="n0"),
                        ComparisonFilter(type="gt", key="age", value=30),
                    ],
                ),
            ],
        ),
        lambda row: 0 < row <= 2 or (row % 3 == 0 and row > 30),
    ),
    (CompoundFilter(type="and", filters=[]), lambda row: True),
]


def test_filters_apply_before_ranking(online: OnlineWorld) -> None:
    view = filtered_view(online)
    ranked = [row for row in np.argsort(distances("cosine")).tolist() if row != 39]
    for filters, passes in FILTERS:
        hits = online.store.retrieve_online_documents_v2(
            online.config(), view, ["age", "name"], QUERY, 5, filters=filters
        )

        expected = [row for row in ranked if passes(row)][:5]
        assert [hit[1] for hit in hits] == [pin(row) for row in expected], filters
        for hit, row in zip(hits, expected, strict=True):
            assert hit[2] is not None
            assert hit[2]["age"] == (Value(int64_val=row) if row else Value())
            assert hit[2]["name"] == Value(string_val=f"n{row % 3}")


def test_what_cannot_be_searched_says_so(online: OnlineWorld, tmp_path: Path) -> None:
    view, numbers, config = vector_view(tmp_path), number_view(), online.config()
    online.apply(view, numbers)
    search = online.store.retrieve_online_documents_v2

    assert search(config, view, ["embedding"], QUERY, 3) == []
    online.load(view, vector_batch([1], VECTORS[:1]))
    with pytest.raises(FetchError, match="a query_string and no string feature"):
        search(config, view, ["embedding"], QUERY, 3, query_string="x")
    with pytest.raises(FetchError, match="neither an embedding nor a query_string"):
        search(config, view, ["embedding"], None, 3)
    with pytest.raises(FetchError, match="0 vector features"):
        search(config, numbers, ["number"], QUERY, 3)
    with pytest.raises(FetchError, match="the features nothing"):
        search(config, view, ["nothing"], QUERY, 3)
    with pytest.raises(FetchError, match="a query of 3 floats"):
        search(config, view, ["embedding"], [1, 2, 3], 3)
    with pytest.raises(FetchError, match="hamming"):
        search(config, view, ["embedding"], QUERY, 3, "hamming")


def test_vectors_of_several_lengths_have_no_order(online: OnlineWorld) -> None:
    view = plain_view("ragged", {"vector": Array(Float32)})
    online.apply(view)
    data = [(pin(n), {"vector": floats([1.0] * n)}, START, None) for n in (2, 3)]
    online.store.online_write_batch(online.config(), view, data, None)

    with pytest.raises(FetchError, match=r"vectors of the lengths \[2, 3\]"):
        online.store.retrieve_online_documents_v2(online.config(), view, ["vector"], [1, 2], 3)


TEXTS = {
    1: "Red wool socks, RED laces",
    2: "red",
    3: "wool and red thread",
    4: "blue wool",
    5: None,
    6: "redwool",
}


def test_words_are_found_and_ranked_by_their_share(online: OnlineWorld) -> None:
    view = plain_view("texts", {"text": String, "vector": Array(Float32)})
    online.apply(view)
    data = [
        (
            pin(key),
            {
                "text": Value() if text is None else Value(string_val=text),
                "vector": floats([key, 0.0]),
            },
            START,
            None,
        )
        for key, text in TEXTS.items()
    ]
    config = online.config()
    online.store.online_write_batch(config, view, data, None)

    def found(text: str, query: list[float] | None = None, k: int = 9) -> list[tuple[Any, ...]]:
        hits = online.store.retrieve_online_documents_v2(
            config, view, ["text", "pin_id"], query, k, "L2", query_string=text
        )
        scores = ("text_rank", "distance")
        return [
            (
                hit[2]["pin_id"].int64_val,
                *(round(hit[2][name].float_val, 4) for name in scores if name in hit[2]),
            )
            for hit in hits
            if hit[2] is not None
        ]

    assert found("wool RED") == [(1, 0.6), (3, 0.5)]
    assert found("red") == [(2, 1.0), (1, 0.4), (3, 0.25)]
    assert found("red", k=1) == [(2, 1.0)]
    assert found("nothing") == found("") == []
    assert found("red wool", [6.0, 0.0], 3) == [(1, 0.6, 5.0), (3, 0.5, 3.0), (6, 0.0, 0.0)]
