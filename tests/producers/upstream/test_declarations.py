"""Declarations that can't be, or that a world does not fit, are named with their place."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from provender.plugin.errors import MappingError
from provender.plugin.world import World
from provender.producers.upstream.declarations import (
    IdDeclaration,
    TowerSources,
    check_declared,
    default_features,
)
from tests.producers.upstream.reading_world import world_of

DEED = {"head": {"user": "user"}, "tail": {"pin": "pin"}, "time": "at"}
EVENTS: dict[str, Any] = {
    "click": {"table": "log", **DEED},
    "visit": {"table": "log", **DEED, "tail": {"item": "item"}},
    "follows": {"table": "log", **DEED, "time": None},
    "made": {"table": "log", **DEED, "head": {"pin": "pin"}, "tail": {"item": "item"}},
}
DECLARED: dict[str, Any] = {
    "sources": {
        "shown": {
            "table": "log", "id": "id", "user": "user", "pin": "pin", "time": "at",
            "labels": {
                "click": {"table": "log", "match": {"id": "id"}, "time": "at", "within": "90m"},
                "hide": {"table": "log", "match": {"id": "id"}, "time": "at", "within": "1w",
                         "liked": False},
            },
        },
        "saved": {"table": "log", "user": "user", "pin": "pin", "time": "at",
                  "labels": {"save": "always", "click": "always"}, "negatives": 2},
    },
    "features": {
        "user": {
            "counts": {"clicks": {"events": ["click", "visit"], "days": 7}},
            "sequence": {"events": ["click"]},
            "numbers": {"age": {"table": "people", "key": "user", "column": "age"}},
        },
        "pin": {"recency": {"click": {"events": ["click"]}}},
        "pair": {"counts": {"clicks": {"events": ["click"]}}},
    },
    "pins": {"table": "people", "key": "pin"},
}  # fmt: skip
WORLD = world_of(["log", "people"], EVENTS)


def changed(place: str, value: Any) -> dict[str, Any]:
    declared = copy.deepcopy(DECLARED)
    *path, last = place.split(".")
    section = declared
    for name in path:
        section = section[name]
    section[last] = value
    return declared


def test_a_declaration_that_fits_is_taken() -> None:
    sources = TowerSources.model_validate(DECLARED)
    check_declared(sources, WORLD)
    assert sources.tasks == ("click", "hide", "save")
    assert sources.liked == ("click", "save")
    click: Any = sources.sources["shown"].labels["click"]
    assert click.within == timedelta(minutes=90)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("sources.shown.table", "logs", r"upstream.sources.shown.table: found 'logs'.*log, people"),
        ("sources.shown.labels.click.table", "x", r"upstream.sources.shown.labels.click.table"),
        ("sources.shown.time_zone", "Mars/Base", r"upstream.sources.shown.time_zone: found 'Mars"),
        ("features.user.numbers.age.table", "x", r"upstream.features.user.numbers.age.table"),
        ("features.user.counts.clicks.events", ["x"],
         r"upstream.features.user.counts.clicks.events: found 'x'.*click, follows"),
        ("features.user.counts.clicks.events", ["follows"], r"follows, which has no time"),
        ("features.user.counts.clicks.events", ["made"], r"found made of pin and item"),
        ("features.user.sequence.events", ["visit"],
         r"upstream.features.user.sequence.events: found visit of user and item"),
        ("features.pin.recency.click.events", ["visit"], r"upstream.features.pin.recency.click"),
        ("features.pair.counts.clicks.events", ["visit"], r"upstream.features.pair.counts.clicks"),
        ("pins.table", "x", r"upstream.pins.table"),
    ],
)  # fmt: skip
def test_what_a_world_does_not_declare_is_named(place: str, value: Any, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        check_declared(TowerSources.model_validate(changed(place, value)), WORLD)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("sources.saved.negatives", 0, "`negatives` above 0 where a label is `always`"),
        ("sources.shown.negatives", 1, "and only there"),
        ("sources.shown.id", None, "`id`, as label click is matched by it"),
        ("sources.shown.labels.click.within", "0h", "should be greater than"),
        ("sources.shown.labels.click.match", {"session": "id"}, "'id', 'user' or 'pin'"),
        ("sources.shown.rates", 1, "Extra inputs"),
        ("features.user.ids", {"view": "user_transra_v1", "buckets": 9}, "no `view` and not"),
    ],
)
def test_what_can_not_be_is_refused(place: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TowerSources.model_validate(changed(place, value))


def test_a_world_without_users_or_pins_is_refused() -> None:
    world = World.model_validate(
        {
            "tables": {"log": {"path": "log.parquet"}},
            "entities": {"user": "int64", "item": "int64"},
            "events": {"buy": {"table": "log"}},
            "dates": {"first_as_of": "2026-03-02", "refreshes": 1},
        }
    )
    with pytest.raises(MappingError, match=r"upstream: found entities user, item"):
        check_declared(TowerSources.model_validate(DECLARED), world)


def test_by_default_towers_see_counts_recencies_deeds_and_who_it_is() -> None:
    ends = {
        "Impressions": ("user", "pin"),
        "view_impression": ("user", "pin"),
        "click": ("user", "pin"),
        "visit": ("user", "item"),
        "made": ("pin", "item"),
    }
    features = default_features(ends)
    user, pin, pair = features.user, features.pin, features.pair
    assert list(user.recency) == ["Impressions", "view_impression", "click", "visit"]
    assert list(pin.recency) == list(pair.recency) == ["Impressions", "view_impression", "click"]
    clicks = {name: count.days for name, count in pin.counts.items() if count.events == ("click",)}
    assert clicks == {"click_1d": 1, "click_7d": 7, "click_30d": 30, "click_all": None}
    assert len(user.counts) == 16 and len(pin.counts) == len(pair.counts) == 12
    assert user.sequence is not None
    assert (user.sequence.events, user.sequence.length) == (("click",), 50)
    assert user.ids == pin.ids == IdDeclaration(dim=64, pretrained=True)
    world = world_of(["log"], {
        name: {"table": "log", "head": {head: "a"}, "tail": {tail: "b"}, "time": "at"}
        for name, (head, tail) in ends.items()
    })  # fmt: skip
    sources = {"sources": {"saved": {**DECLARED["sources"]["saved"]}}, "features": features}
    check_declared(TowerSources.model_validate(sources), world)


def test_where_all_is_shown_the_sequence_has_it_and_without_pins_there_is_none() -> None:
    shown = default_features({"impression": ("user", "pin")}).user.sequence
    assert shown is not None and shown.events == ("impression",)
    assert default_features({"visit": ("user", "item")}).user.sequence is None
