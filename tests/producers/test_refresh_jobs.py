"""Which version a job is, what shapes its runs' ids, and what is refused before any work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.world import World
from provender.producers.declared_versions import families_of, versions_of
from provender.producers.job import Job
from provender.producers.version_job import run_id_of

SETTINGS = {"epochs": 2, "refresh_epochs": 1, "chunk_size": 64, "negatives": 16}


def world(**transra: Any) -> World:
    return World.model_validate(
        {
            "tables": {"clicks": {"path": "clicks.csv"}},
            "entities": {"user": "int64", "pin": "int64"},
            "events": {
                "click": {
                    "table": "clicks",
                    "head": {"user": "user_id"},
                    "tail": {"pin": "pin_id"},
                    "time": "time",
                }
            },
            "transra": {**SETTINGS, **transra},
            "dates": {"first_as_of": "2026-03-03", "refreshes": 2},
        }
    )


def view(entity: str, version: int = 1, **fields: Any) -> DeclaredView:
    declared = {
        "name": f"{entity}_transra",
        "version": version,
        "entity": entity,
        "join_key": f"{entity}_id",
        "dim": 8,
        "space": f"transra_v{version}",
        "producer": "transra",
        "ttl": timedelta(days=30),
    }
    return DeclaredView(EmbeddingSpec.declare(**{**declared, **fields}), "int64")


V1 = [view("user"), view("pin")]
V2 = [view("user", 2, dim=16), view("pin", 2, dim=16)]


def job(views: list[DeclaredView], of: World | None = None, **chosen: Any) -> Job:
    return Job.declare(of or world(), Path("data"), Home(Path("home")), views, "cpu", **chosen)


def test_ids_of_runs_are_what_they_were_before_there_were_versions() -> None:
    """They change with TransRAConfig's fields, and should with nothing else."""
    alone = job(V1)
    first = run_id_of(alone, datetime(2026, 3, 3, tzinfo=UTC), None)
    assert alone.config_hash == "feb9e97eda6fec063c9fab68db71c611ceca30ee762343b7eef41843fe398453"
    assert first == "transra-20260303T000000Z-24fd287119"


def test_a_new_version_beside_it_changes_nothing_of_the_old_one() -> None:
    alone = job(V1)
    for views in (V1 + V2, V2 + V1):
        for settings in ({}, {"versions": {2: {"epochs": 8, "negatives": 4}}}):
            old = job(views, world(**settings), version=1)
            assert (old.config_hash, old.specs) == (alone.config_hash, alone.specs)
            assert old.config == alone.config


def test_the_newest_version_is_the_default_and_has_its_own_dim() -> None:
    newest = job(V2 + V1)
    assert (newest.version, newest.family, newest.config.dim) == (2, "transra", 16)
    assert [spec.view_name for spec in newest.specs] == ["user_transra_v2", "pin_transra_v2"]
    assert newest.config_hash != job(V1).config_hash


def test_settings_of_one_version_stand_in_the_place_of_the_world_s() -> None:
    of = world(versions={2: {"epochs": 8}})
    assert job(V1 + V2, of).config == job(V2, world(epochs=8)).config
    assert job(V1 + V2, of).config.refresh_epochs == 1
    assert job(V1 + V2, of).config_hash == job(V2, world(epochs=8)).config_hash
    assert job(V1 + V2, of, version=1).config.epochs == 2


def test_an_anchor_and_a_family_shape_no_vector_by_themselves() -> None:
    anchored = [view(entity, 2, space="transra_v1", anchored_to=1) for entity in ("user", "pin")]
    plain = [view(entity, 2, space="transra_v1") for entity in ("user", "pin")]
    assert job(V1 + anchored).config_hash == job(plain).config_hash
    assert job(anchored).anchored_to == 1
    assert job(plain).anchored_to is None


def test_a_family_has_settings_and_a_dim_of_its_own() -> None:
    interest = [view("user", name="user_interest", family="interest", dim=16, space="interest")]
    settings = {"epochs": 7, "relations": {"click": 2.0}, "versions": {1: {"seed": 3}}}
    of = world(families={"interest": settings})
    found = job(V1 + interest, of, family="interest")
    assert (found.config.dim, found.config.epochs, found.config.seed) == (16, 7, 3)
    assert found.config.relations == {"click": 2.0}
    assert found.config.refresh_epochs == 1
    beside = job(V1 + interest, of, family="transra")
    assert (beside.config_hash, beside.config) == (job(V1).config_hash, job(V1).config)
    assert families_of([*V1, *interest, SAGE], "transra") == ["interest", "transra"]


def test_a_facet_shapes_what_its_view_holds() -> None:
    raw, seen = view("user"), view("user", name="user_seen", space="seen", facet="click")
    assert job([raw, seen]).config_hash != job([raw]).config_hash
    other = view("user", name="user_seen", space="seen", facet="click/head")
    assert job([raw, other]).config_hash != job([raw, seen]).config_hash


@pytest.mark.parametrize(
    ("facet", "line"),
    [
        ("buy", "found 'buy'; expected a relation that is learned from: click. Correct facet in"),
        ("save", "found 'save'; expected a relation that is learned from: click."),
        ("click/tail", "and click leads from user to pin; expected user at tail of it."),
    ],
)
def test_facets_that_are_refused_before_any_work(facet: str, line: str) -> None:
    of = world(relations={"click": 1.0})
    of = of.model_copy(update={"events": {**of.events, "save": of.events["click"]}})
    job(V1, of)
    with pytest.raises(ConfigError, match=r"embedding view user_seen_v1, facet: ") as caught:
        job([*V1, view("user", name="user_seen", space="seen", facet=facet)], of)
    assert line in str(caught.value)


def test_the_versions_of_a_family() -> None:
    other = view("pin", 1, name="pin_other", family="other")
    pinsage = view("pin", 1, name="pin_sage", producer="pinsage", family="sage")
    views = [*V2, *V1, other, pinsage]
    found = {number: len(of) for number, of in versions_of(views, "transra", "transra").items()}
    assert found == {1: 2, 2: 2}
    assert list(versions_of([*V1, pinsage], "transra")) == [1]
    assert job(views, family="other").specs == (other.spec,)


OTHER = view("pin", 1, name="pin_other", family="other")
SAGE = view("pin", 1, name="pin_sage", producer="pinsage", family="sage")


@pytest.mark.parametrize(
    ("views", "chosen", "line"),
    [
        ([], {}, "embedding views of producer transra: found none in the feature repo"),
        (
            [*V1, OTHER],
            {},
            "producer transra: found the families other, transra; expected one family at a time. "
            "Name it with --family.",
        ),
        (
            [*V1, SAGE],
            {"family": "pages"},
            "family pages: found no embedding view of it in the feature repo; "
            "expected one of sage, transra.",
        ),
        (
            [*V1, SAGE],
            {"family": "sage"},
            "producer of pin_sage_v1, family sage: found 'pinsage'; expected transra. "
            "Compute its snapshots with its own producer",
        ),
        (
            V1 + V2,
            {"version": 3},
            "version 3 of family transra: found no embedding view of it in the feature repo; "
            "expected one of the versions 1, 2.",
        ),
        (
            [*V1, V2[0], view("pin", 2, dim=32)],
            {},
            "embedding views of version 2 of family transra: found dim 16, 32; "
            "expected one dim for all",
        ),
        (
            [*V1, view("user", 2, space="transra_v1", anchored_to=1), view("pin", 2)],
            {},
            "version 2 of family transra: found anchored_to 1, None; "
            "expected one anchored_to for all",
        ),
    ],
)
def test_views_that_make_no_job(
    views: list[DeclaredView], chosen: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        job(views, **chosen)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"versions": {3: {"epochs": 2}}}, "found settings of version 3; expected versions that"),
        ({"versions": {"2": {"epochs": 2}}}, "found settings of version '2'; expected versions"),
        ({"versions": {2: 8}}, "transra: versions: found {2: 8}; expected settings by version"),
        (
            {"families": {"sage": {}}},
            "transra: families: found settings of family 'sage'; expected",
        ),
        ({"versions": [8]}, "transra: versions: found [8]; expected settings by version"),
        ({"versions": {2: {"epoch": 8}}}, "transra: versions.2: epoch: found 8; expected"),
        ({"versions": {2: {"dim": 8}}}, "section transra: versions.2, dim: found 8; expected 16"),
        ({"dim": 8}, "section transra, dim: found 8; expected 16, as the embedding views declare"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(V1 + V2, world(**settings))
    assert line in str(caught.value)


def test_what_is_not_held_is_not_anchored() -> None:
    anchored = [view(entity, 2, space="transra_v1", anchored_to=1) for entity in ("user", "pin")]
    with pytest.raises(
        ConfigError, match=r"anchor_entities, for version 2 .*: found off; expected"
    ):
        job(V1 + anchored, world(anchor_entities="off"))
    job(V1 + anchored, world(anchor_entities="off"), version=1)
