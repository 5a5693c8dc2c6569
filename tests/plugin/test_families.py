from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from provender.plugin.errors import ReleaseError
from provender.plugin.families import (
    compatible,
    families_of,
    views_of,
    views_of_space,
    views_of_version,
)
from provender.plugin.spec import EmbeddingSpec


def spec(entity: str, version: int, **fields: Any) -> EmbeddingSpec:
    given: dict[str, Any] = {
        "name": f"{entity}_transra",
        "version": version,
        "entity": entity,
        "join_key": f"{entity}_id",
        "dim": 8,
        "space": f"transra_v{version}",
        "producer": "transra",
        "ttl": timedelta(days=1),
    }
    return EmbeddingSpec(**(given | fields))


SPECS = [
    spec("user", 10),
    spec("user", 2),
    spec("pin", 2),
    spec("page", 1, name="page_linksage", producer="linksage", space="pinsage"),
    spec("pin", 10),
]
BY_NAME = {each.view_name: each for each in SPECS}


def test_versions_ascend_by_number_and_views_by_name() -> None:
    found = families_of(SPECS)
    assert list(found) == ["linksage", "transra"]
    names = {v: [each.view_name for each in views] for v, views in found["transra"].items()}
    assert list(names.items()) == [
        (2, ["pin_transra_v2", "user_transra_v2"]),
        (10, ["pin_transra_v10", "user_transra_v10"]),
    ]


def test_a_family_and_a_version_are_found() -> None:
    assert list(views_of(BY_NAME, "transra")) == [2, 10]
    found = views_of_version(BY_NAME, "transra", 10)
    assert [each.view_name for each in found] == ["pin_transra_v10", "user_transra_v10"]


def test_unknown_families_and_versions_are_refused() -> None:
    with pytest.raises(ReleaseError) as family:
        views_of(BY_NAME, "transar")
    assert str(family.value) == (
        "family transar: found no embedding view of it in the registry; expected one of linksage, "
        "transra. Declare its views and run `feast apply`, or correct the name."
    )
    with pytest.raises(ReleaseError, match=r"one of \(the registry has none\)"):
        views_of({}, "transra")
    with pytest.raises(ReleaseError) as version:
        views_of_version(BY_NAME, "transra", 3)
    assert str(version.value) == (
        "version 3 of family transra: found no embedding view of it in the registry; expected one "
        "of the versions 2, 10. Declare its views and run `feast apply`, or correct the number."
    )


def test_the_views_of_a_space_are_those_that_may_be_compared() -> None:
    names = [each.view_name for each in views_of_space(BY_NAME, "transra_v2")]
    assert names == ["pin_transra_v2", "user_transra_v2"]
    assert views_of_space(BY_NAME, "transra_v3") == ()


@pytest.mark.parametrize(
    "other",
    [
        {"name": "user_other"},
        {"entity": "member"},
        {"join_key": "member_id"},
        {"dim": 9},
        {"space": "transra_v2"},
    ],
)
def test_views_that_differ_in_what_is_learned_are_not_compatible(other: dict[str, Any]) -> None:
    one = spec("user", 1)
    anchored = {"space": one.space, "anchored_to": 1, "dtype": "int8", "ttl": timedelta(days=9)}
    newer = spec("user", 2, **anchored)
    assert compatible(one, newer)
    assert not compatible(one, newer.model_copy(update=other))
