"""What makes a job of upstream towers, and what is refused before any work."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provender.plugin.errors import ConfigError, MappingError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import KeyType, World
from provender.producers.upstream.tower_job import TowerJob

SOURCE: dict[str, Any] = {
    "table": "buys", "user": "user_id", "pin": "pin_id", "time": "ts",
    "labels": {"buy": "always"}, "negatives": 4,
}  # fmt: skip
EVENT: dict[str, Any] = {
    "table": "buys", "time": "ts", "head": {"user": "user_id"}, "tail": {"pin": "pin_id"},
}  # fmt: skip


def world(changed: dict[str, Any] | None = None, **section: Any) -> World:
    content = {
        "tables": {"buys": {"path": "buys.parquet"}, "pins": {"path": "pins.parquet"}},
        "entities": {"user": "int64", "pin": "int64", "page": "int64"},
        "events": {"buy": EVENT},
        "upstream": {"sources": {"bought": SOURCE}, **section},
        "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
        **(changed or {}),
    }
    return World.model_validate(content)


def view(
    entity: str = "user", version: int = 1, key_type: KeyType = "int64", **fields: Any
) -> DeclaredView:
    declared = {
        "name": f"{entity}_upstream",
        "join_key": f"{entity}_id",
        "dim": 32,
        "nested_dims": (8, 16),
        "space": f"upstream_v{version}",
        "producer": "upstream",
        "ttl": timedelta(days=30),
    }
    spec = EmbeddingSpec.declare(entity=entity, version=version, **{**declared, **fields})
    return DeclaredView(spec, key_type)


def job(views: list[DeclaredView], of: World | None = None, **chosen: Any) -> TowerJob:
    return TowerJob.declare(of or world(), Path("data"), Home(Path("home")), views, "cpu", **chosen)


def test_dims_are_those_of_the_views() -> None:
    made = job([view(), view("pin"), view(version=2, dim=16, nested_dims=())])
    assert (made.version, made.config.model.dim, made.config.model.nested_dims) == (2, 16, ())
    first = job([view(), view("pin")], world(model={"width": 48}))
    assert (first.config.model.dim, first.config.model.nested_dims) == (32, (8, 16))
    assert first.config.model.width == 48
    assert [spec.view_name for spec in first.specs] == ["user_upstream_v1", "pin_upstream_v1"]


def test_what_is_declared_and_what_is_set() -> None:
    made = job([view()], world(training={"epochs": 4}, backfills=False))
    assert made.sources.tasks == ("buy",)
    assert not made.sources.backfills
    assert made.config.training.epochs == 4


def test_features_that_are_not_declared_are_of_the_events() -> None:
    features = job([view()]).sources.features
    assert features is not None
    assert {one.events for one in features.user.counts.values()} == {("buy",)}
    given: dict[str, Any] = {"user": {"ids": {}}, "pin": {"counts": {"n": {"events": ["buy"]}}}}
    declared = job([view()], world(features=given)).sources.features
    assert declared is not None
    assert (dict(declared.user.counts), list(declared.pin.counts)) == ({}, ["n"])
    assert declared.user.sequence is None


def test_what_shapes_the_vectors_shapes_the_hash() -> None:
    base = job([view()]).config_hash
    assert job([view(ttl=timedelta(days=1))]).config_hash == base
    assert job([view()], world(training={"checkpoint_minutes": 1})).config_hash == base
    assert job([view()], world(training={"epochs": 1})).config_hash == base  # That of the default.
    assert job([view()], world({"entities": {"user": "int64", "pin": "int64"}})).config_hash == base
    others = [
        world(training={"epochs": 4}),
        world(model={"width": 48}),
        world(embedding={"active_days": 3}),
        world(sources={"bought": {**SOURCE, "negatives": 3}}),
        world(sources={"shopped": SOURCE}),
        world(backfills=False),
        world(pins={"table": "pins", "key": "pin_id"}),
        world(features={"user": {"ids": {}}, "pin": {"ids": {}}}),
        world({"tables": {"buys": {"path": "other.parquet"}}}),
        world({"events": {"buy": EVENT | {"where": "price > 0"}}}),
        world({"events": {"buy": EVENT, "bought": EVENT}}),
    ]
    hashes = [base, *(job([view()], other).config_hash for other in others)]
    hashes += [job([view(dim=64)]).config_hash, job([view(), view("pin")]).config_hash]
    hashes.append(job([view(nested_dims=(8,))]).config_hash)
    assert len(set(hashes)) == len(hashes)


def test_settings_and_declarations_of_one_version() -> None:
    of = world(
        training={"epochs": 4},
        versions={2: {"training": {"epochs": 5}, "sources": {"shopped": SOURCE}}},
    )
    views = [view(), view(version=2)]
    first, second = (job(views, of, version=number) for number in (1, 2))
    assert (first.config.training.epochs, list(first.sources.sources)) == (4, ["bought"])
    assert (second.config.training.epochs, list(second.sources.sources)) == (5, ["shopped"])


@pytest.mark.parametrize(
    ("views", "section", "line"),
    [
        ([view("page")], {}, "page_upstream_v1: found entity page; expected one of user, pin"),
        ([view(facet="click")], {}, "user_upstream_v1, facet: found 'click'; expected none"),
        (
            [view(), view(version=2, anchored_to=1, space="upstream_v1")],
            {},
            "user_upstream_v2, anchored_to: found 1; expected none",
        ),
        ([view(), view("pin", dim=64)], {}, "found dim 32, 64; expected one dim for all"),
        (
            [view(), view("pin", nested_dims=(8,))],
            {},
            "found nested_dims (8, 16), (8,); expected one nested_dims for all",
        ),
        ([view(), view("pin", space="x")], {}, "found space upstream_v1, x; expected one space"),
        ([view(key_type="string")], {}, "found string keys in the feature repo; expected int64"),
        ([view()], {"model": {"dim": 8}}, "model.dim: found 8; expected nothing: it follows"),
        ([view()], {"model": {"nested_dims": [8]}}, "model.nested_dims: found [8]; expected"),
        ([view()], {"model": {"width": 30}}, "section upstream, model: found {'width': 30"),
        ([view()], {"training": {"epoch": 8}}, "training.epoch: found an unknown key"),
        ([view()], {"sauces": {}}, "section upstream, sauces: found an unknown key"),
        ([view()], {"families": {"x": {}}}, "upstream: families: found settings of family 'x'"),
        ([], {}, "producer upstream"),
    ],
)
def test_what_makes_no_job(views: list[DeclaredView], section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(views, world(**section))
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "section", "line"),
    [
        ({}, {"sources": {}}, "world: upstream: sources: found {}"),
        ({}, {"sources": {"bought": {**SOURCE, "table": "bys"}}}, "bought.table: found 'bys'"),
        ({}, {"sources": {"bought": {**SOURCE, "negatives": 0}}}, "`negatives` above 0 where"),
        ({}, {"pins": {"table": "pin", "key": "id"}}, "upstream.pins.table: found 'pin'"),
        (
            {},
            {"features": {"user": {"counts": {"n": {"events": ["by"]}}}, "pin": {}}},
            "counts.n.events: found 'by'; expected one of buy",
        ),
        ({"entities": {"user": "int64", "item": "int64"}}, {}, "events.buy"),
        ({"events": {"buy": {"table": "buys"}}}, {}, "events.buy"),
    ],
)
def test_declarations_that_do_not_fit(
    changed: dict[str, Any], section: dict[str, Any], line: str
) -> None:
    with pytest.raises((MappingError, ConfigError)) as caught:
        job([view()], world(changed, **section))
    assert line in str(caught.value)
