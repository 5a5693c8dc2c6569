"""What a world's section says of one version of one family: the closest word counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.errors import ConfigError
from provender.producers.settings import settings_of

DECLARED = {"transra": {1, 2}, "interest": {1, 3}}
SECTION: dict[str, Any] = {
    "epochs": 5,
    "seed": 0,
    "tether": 1.0,
    "versions": {2: {"epochs": 8}},
    "families": {"interest": {"epochs": 6, "seed": 1, "versions": {3: {"seed": 2}}}},
}


@pytest.mark.parametrize(
    ("family", "version", "where", "settings"),
    [
        ("transra", 1, "transra", {"epochs": 5, "seed": 0}),
        ("transra", 2, "transra: versions.2", {"epochs": 8, "seed": 0}),
        ("interest", 1, "transra: families.interest", {"epochs": 6, "seed": 1}),
        ("interest", 3, "transra: families.interest.versions.3", {"epochs": 6, "seed": 2}),
    ],
)
def test_the_closest_word_counts(
    family: str, version: int, where: str, settings: dict[str, Any]
) -> None:
    found = settings_of(SECTION, family, version, DECLARED)
    assert found == (where, {"tether": 1.0, **settings})


def test_versions_of_the_section_are_not_those_of_a_family_with_an_entry() -> None:
    section = {"epochs": 5, "versions": {1: {"epochs": 9}}, "families": {"interest": {"seed": 1}}}
    assert settings_of(section, "transra", 1, DECLARED)[1] == {"epochs": 9}
    assert settings_of(section, "interest", 1, DECLARED)[1] == {"epochs": 5, "seed": 1}


def test_families_without_an_entry_share_the_section_s_versions() -> None:
    section = {"epochs": 5, "versions": {1: {"epochs": 9}, 3: {"epochs": 1}}}
    assert settings_of(section, "transra", 1, DECLARED)[1] == {"epochs": 9}
    assert settings_of(section, "interest", 3, DECLARED)[1] == {"epochs": 1}


_values = st.dictionaries(st.sampled_from(["epochs", "seed", "tether"]), st.integers(1, 9))


@settings(deadline=None)
@given(section=_values, of_family=_values, of_version=_values)
def test_a_setting_is_the_first_that_is_said_from_the_closest_outwards(
    section: dict[str, Any], of_family: dict[str, Any], of_version: dict[str, Any]
) -> None:
    whole = {**section, "families": {"interest": {**of_family, "versions": {3: of_version}}}}
    _, found = settings_of(whole, "interest", 3, DECLARED)
    for name in ("epochs", "seed", "tether"):
        said = [each[name] for each in (of_version, of_family, section) if name in each]
        assert found.get(name) == (said[0] if said else None)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        (
            {"families": {"interests": {"epochs": 8}}},
            "transra: families: found settings of family 'interests'; "
            "expected families that the feature repo declares: interest, transra. "
            "Correct it, or declare the family's views in embedding_views.py.",
        ),
        ({"families": ["interest"]}, "transra: families: found ['interest']; expected settings by"),
        ({"families": {"interest": 8}}, "transra: families: found {'interest': 8}; expected"),
        (
            {"families": {"interest": {"versions": {2: {"epochs": 8}}}}},
            "transra: families.interest.versions: found settings of version 2; "
            "expected versions that the feature repo declares: 1, 3.",
        ),
        (
            {"families": {"interest": {"versions": 2}}},
            "transra: families.interest.versions: found 2; expected settings by version",
        ),
    ],
)
def test_what_is_not_declared_is_refused(section: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(section, "interest", 1, DECLARED)
    assert line in str(caught.value)
