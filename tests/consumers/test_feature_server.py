"""Feast's own feature server answers for embedding views: what it says equals the snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from feast import FeatureStore
from feast.feature_server import get_app

from provender.consumers.retrieval import Retrieval
from provender.plugin.snapshot import find_snapshots
from tests.consumers.kitchen import DIM, OURS, Kitchen, Version, hours
from tests.plugin.online_world import open_world

USERS, PINS = [1, 2, 3], list(range(10, 40))
NOW = hours(30)


@pytest.fixture(params=["sqlite", "postgres", "hot"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Kitchen, TestClient]]:
    """A repo with provender's provider, loaded, behind `feast serve`'s application."""
    kind = "sqlite" if request.param == "hot" else request.param
    world = open_world(kind, tmp_path)
    made = Kitchen(tmp_path / "kitchen", project=world.project, snapshots=True)
    made.url = world.url if kind == "postgres" else ""
    if request.param == "hot":
        made.stores = OURS.replace('url: "{url}"', 'url: "{url}"\n  hot: hot')
    made.folder.mkdir()
    drawn = np.random.default_rng(3)
    vectors = {}
    for entity, keys in (("user", USERS), ("pin", PINS)):
        made.write(entity, [(key, hours(24), hours(24), (key, 0.5)) for key in keys], vectors=False)
        rows = drawn.standard_normal((len(keys), DIM)).astype(np.float32)
        vectors[entity] = {key: row.tolist() for key, row in zip(keys, rows, strict=True)}
    made.snapshot(Version(1), hours(24), vectors)
    made.store().materialize(hours(-1), NOW)
    settings = made.folder / "feature_store.yaml"
    provider = "provider: provender.plugin.provider.ProvenderProvider"
    settings.write_text(settings.read_text().replace("provider: local", provider))
    try:
        with TestClient(get_app(FeatureStore(repo_path=str(made.folder)))) as client:
            yield made, client
    finally:
        if kind == "postgres":
            world.tear_down()


def snapshot_rows(kitchen: Kitchen, view: str) -> dict[int, list[float]]:
    """What the snapshot's files hold, by key."""
    (snapshot,) = find_snapshots(kitchen.folder / "snapshots", view)
    keys, vectors = snapshot.read()
    return dict(zip(keys.to_pylist(), vectors.tolist(), strict=True))


def test_online_features_are_the_snapshots(served: tuple[Kitchen, TestClient]) -> None:
    kitchen, client = served
    for entity, keys in (("user", [3, 1, 1, 77]), ("pin", [39, 10, 500, 10])):
        view = f"{entity}_test_v1"
        answer = client.post(
            "/get-online-features",
            json={"features": [f"{view}:embedding"], "entities": {f"{entity}_id": keys}},
        )
        assert answer.status_code == 200, answer.text
        told = answer.json()
        column = told["metadata"]["feature_names"].index("embedding")
        stored = snapshot_rows(kitchen, view)
        assert told["results"][column]["values"] == [stored.get(key) for key in keys]
        statuses = told["results"][column]["statuses"]
        assert [each == "PRESENT" for each in statuses] == [key in stored for key in keys]


def test_a_service_of_embeddings_and_numbers(served: tuple[Kitchen, TestClient]) -> None:
    kitchen, client = served
    answer = client.post(
        "/get-online-features",
        json={
            "feature_service": "rich",
            "entities": {"user_id": [2, 2], "pin_id": [12, 30]},
            "full_feature_names": True,
        },
    ).json()
    names = answer["metadata"]["feature_names"]
    values = {name: each["values"] for name, each in zip(names, answer["results"], strict=True)}
    users, pins = (snapshot_rows(kitchen, f"{each}_test_v1") for each in ("user", "pin"))
    assert values["user_test_v1__embedding"] == [users[2], users[2]]
    assert values["pin_test_v1__embedding"] == [pins[12], pins[30]]
    assert values["pin_counters__clicks"] == [12, 30]


@pytest.mark.parametrize("end_point", ["/retrieve-online-documents", "/search"])
def test_documents_are_the_nearest_pins(served: tuple[Kitchen, TestClient], end_point: str) -> None:
    kitchen, client = served
    store = FeatureStore(repo_path=str(kitchen.folder))
    found = Retrieval.at(store, "test", 1, NOW, backfills=True).for_users([2], 6)
    pins = snapshot_rows(kitchen, "pin_test_v1")
    answer = client.post(
        end_point,
        json={
            "features": ["pin_test_v1:embedding"],
            "query": snapshot_rows(kitchen, "user_test_v1")[2],
            "top_k": 6,
            "distance_metric": "inner_product",
            "api_version": 2,
        },
    )
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    told = {
        name: each["values"] for name, each in zip(names, answer.json()["results"], strict=True)
    }
    assert [int(pin) for pin in told["pin_id"]] == found.pins[0]
    assert told["embedding"] == [pins[int(pin)] for pin in found.pins[0]]
    assert told["distance"] == pytest.approx(found.distances[0].tolist(), rel=1e-6)
