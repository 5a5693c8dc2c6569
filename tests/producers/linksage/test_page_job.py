"""What makes a job of LinkSage, and what is refused before any work."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from provender.plugin.errors import ConfigError, MappingError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.linksage.page_job import PageJob

SECTION: dict[str, Any] = {
    "pages": {"table": "pages", "key": "page_id", "text": ["title"]},
    "pins": {"table": "pins", "key": "pin_id", "text": ["title"]},
    "pairs": {"links": {"table": "pins", "pin": "pin_id", "page": "page_id"}},
}


def world(**section: Any) -> World:
    content = {
        "tables": {"pages": {"path": "pages.parquet"}, "pins": {"path": "pins.parquet"}},
        "entities": {"page": "int64", "pin": "int64", "user": "int64"},
        "events": {"links": {"table": "pins"}},
        "linksage": {**SECTION, **section},
        "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
    }
    return World.model_validate(content)


def view(entity: str = "page", version: int = 1, **fields: Any) -> DeclaredView:
    declared = {
        "name": f"{entity}_linksage",
        "join_key": f"{entity}_id",
        "dim": 32,
        "nested_dims": (8, 16),
        "space": f"linksage_v{version}",
        "producer": "linksage",
        "ttl": timedelta(days=30),
    }
    spec = EmbeddingSpec.declare(entity=entity, version=version, **{**declared, **fields})
    return DeclaredView(spec, "int64")


def job(views: list[DeclaredView], of: World | None = None, **chosen: Any) -> PageJob:
    return PageJob.declare(of or world(), Path("data"), Home(Path("home")), views, "cpu", **chosen)


def test_dims_are_those_of_the_views() -> None:
    made = job([view(), view("pin"), view(version=2, dim=16, nested_dims=())])
    assert (made.version, made.config.model.dim, made.config.model.nested_dims) == (2, 16, ())
    first = job([view(), view("pin")], world(model={"layers": 1}))
    assert (first.config.model.dim, first.config.model.layers) == (32, 1)
    assert [spec.view_name for spec in first.specs] == ["page_linksage_v1", "pin_linksage_v1"]
    assert first.key_types == {"page": "int64", "pin": "int64"}


def test_what_shapes_the_vectors_shapes_the_hash() -> None:
    base = job([view()])
    assert job([view(ttl=timedelta(days=1))]).config_hash == base.config_hash
    minutes = {"training": {"checkpoint_minutes": 1}}
    for same in ({"walks": {"walker": "torch"}}, minutes):
        assert job([view()], world(**same)).config_hash == base.config_hash
    # DGL draws otherwise, and finds other neighbours.
    for other in (
        {"training": {"epochs": 3}},
        {"walks": {"walks": 7}},
        {"walks": {"walker": "dgl"}},
    ):
        assert job([view()], world(**other)).config_hash != base.config_hash
    pins = {**SECTION["pins"], "text": ["title", "title"]}
    assert job([view()], world(pins=pins)).config_hash != base.config_hash


def test_settings_of_one_version() -> None:
    of = world(training={"epochs": 3}, versions={2: {"training": {"epochs": 4}}})
    views = [view(), view(version=2)]
    assert job(views, of, version=1).config.training.epochs == 3
    assert job(views, of, version=2).config.training.epochs == 4


@pytest.mark.parametrize(
    ("views", "section", "line"),
    [
        ([view("user")], {}, "user_linksage_v1: found entity user; expected one of page, pin"),
        ([view(facet="click")], {}, "facet: found 'click'; expected none"),
        ([view(), view("pin", dim=64)], {}, "found dim 32, 64; expected one dim for all"),
        ([view(), view("pin", space="x")], {}, "found space linksage_v1, x; expected one space"),
        ([view()], {"model": {"dim": 8}}, "model.dim: found 8; expected nothing: it follows"),
        ([view()], {"model": {"width": 30}}, "model: found {'width': 30"),
        ([view()], {"training": {"epoch": 8}}, "training.epoch: found an unknown key"),
        ([view()], {"walks": 3}, "section linksage, walks: found 3; expected"),
        ([view()], {"families": {"x": {}}}, "linksage: families: found settings of family 'x'"),
        (
            [view()],
            {"incremental": {"full_after_days": 7}},
            "incremental.full_after_days: found 7; expected none: version 1 of family linksage",
        ),
        (
            [view(), view(version=2, anchored_to=1, space="linksage_v1")],
            {},
            "version 2 of family linksage, anchored_to: found 1; expected none",
        ),
    ],
)
def test_what_makes_no_job(views: list[DeclaredView], section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(views, world(**section))
    assert line in str(caught.value)


def test_a_space_of_given_vectors_can_be_kept() -> None:
    given = world(pins={**SECTION["pins"], "target": "vector"}, incremental={"full_after_days": 7})
    views = [view(space="pinsage"), view(version=2, anchored_to=1, space="pinsage")]
    assert [job(views, given, version=n).learns_space for n in (1, 2)] == [False, False]
    with pytest.raises(ConfigError, match="full_after_days: found 7; expected none"):
        job(
            views,
            given.model_copy(
                update={"linksage": {**given.linksage, "training": {"targets": "joint"}}}
            ),
        )


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"pages": {"table": "page", "key": "page_id"}}, "linksage.pages.table: found 'page'"),
        ({"pairs": {}}, "linksage: pairs: found {}"),
        ({"pins": {"table": "pins"}}, "linksage: pins.key: found nothing; expected Field required"),
    ],
)
def test_declarations_that_fit_no_table(section: dict[str, Any], line: str) -> None:
    with pytest.raises(MappingError) as caught:
        job([view()], world(**section))
    assert line in str(caught.value)
