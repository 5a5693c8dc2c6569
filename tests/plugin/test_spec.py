from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin.errors import SpecError, VersionError
from provender.plugin.spec import FIXED_BY_VERSION, EmbeddingSpec, check_unchanged

USER: dict[str, Any] = {
    "name": "user_transra",
    "version": 1,
    "entity": "user",
    "join_key": "user_id",
    "dim": 64,
    "nested_dims": (16, 32),
    "space": "transra_v1",
    "producer": "transra",
    "ttl": timedelta(days=3),
}


def test_the_version_shows_in_the_view_name() -> None:
    assert EmbeddingSpec.declare(**USER).view_name == "user_transra_v1"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", 0, "dim: found 0; expected a value greater than or equal to 1"),
        ("dim", -3, "found -3"),
        ("nested_dims", (32, 16), "expected nested dims that ascend"),
        ("nested_dims", (16, 16), "expected nested dims that ascend"),
        ("nested_dims", (0, 16), "ascend from 1 or more, not [0, 16]"),
        ("nested_dims", (16, 64), "expected nested dims below dim 64, not 64"),
        ("nested_dims", (128,), "expected nested dims below dim 64, not 128"),
        ("dtype", "float8", "found 'float8'; expected a value 'float32', 'float16' or 'int8'"),
        ("version", 0, "found 0"),
        ("name", "user_transra_v1", "a name without its version"),
        ("name", "User", "found 'User'"),
        ("space", "", "space: found ''"),
        ("producer", "", "producer: found ''"),
        ("ttl", timedelta(0), "a ttl above zero"),
        ("anchored_to", 1, "anchored_to: found 1; expected anchored_to below version 1"),
        ("family", "", "family: found ''"),
        ("facet", "", "facet: found ''; expected a relation such as 'buy', or one end of it"),
        ("facet", "buy/left", "facet: found 'buy/left'; expected a relation such as 'buy'"),
        ("facet", "add to cart", "facet: found 'add to cart'; expected a relation"),
        ("colour", "red", "found 'red'"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(field: str, value: object, message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        EmbeddingSpec.declare(**{**USER, field: value})
    line = str(refusal.value)
    assert message in line
    assert "\n" not in line
    assert "Correct " in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 128),
        ("nested_dims", (16,)),
        ("dtype", "float16"),
        ("space", "another"),
        ("producer", "linksage"),
        ("entity", "pin"),
        ("join_key", "uid"),
        ("family", "ads"),
        ("facet", "buy"),
    ],
)
def test_nothing_a_version_stands_for_may_change(field: str, value: object) -> None:
    old = EmbeddingSpec.declare(**USER)
    new = EmbeddingSpec.declare(**{**USER, field: value})
    with pytest.raises(VersionError) as refusal:
        check_unchanged(old, new)
    line = str(refusal.value)
    assert repr(getattr(old, field)) in line
    assert repr(getattr(new, field)) in line
    assert "Declare it as version 2" in line


def test_every_field_is_either_fixed_by_the_version_or_free() -> None:
    free = {"name", "version", "ttl"}
    assert set(EmbeddingSpec.model_fields) == free | set(FIXED_BY_VERSION)


def test_a_view_is_of_its_producer_s_family_unless_it_says_otherwise() -> None:
    assert EmbeddingSpec.declare(**USER).family == "transra"
    assert EmbeddingSpec.declare(**USER, family="ads").family == "ads"


@pytest.mark.parametrize(
    ("facet", "relation", "end"),
    [
        (None, None, None),
        ("buy", "buy", None),
        ("buy/head", "buy", "head"),
        ("B_1/tail", "B_1", "tail"),
    ],
)
def test_a_facet_is_of_a_relation_and_perhaps_of_an_end(
    facet: str | None, relation: str | None, end: str | None
) -> None:
    spec = EmbeddingSpec.declare(**USER, facet=facet)
    assert (spec.relation, spec.end) == (relation, end)


def test_a_declaration_from_before_there_were_families_is_read() -> None:
    spec = EmbeddingSpec.declare(**USER)
    old = json.loads(spec.to_tags()["provender.spec"])
    del old["family"], old["anchored_to"], old["facet"]
    assert EmbeddingSpec.from_tags({"provender.spec": json.dumps(old)}) == spec


def test_feast_s_own_ui_shows_what_a_view_is() -> None:
    tags = EmbeddingSpec.declare(**USER | {"version": 2}, anchored_to=1, facet="buy").to_tags()
    del tags["provender.spec"]
    assert tags == {
        "provender.version": "2",
        "provender.dim": "64",
        "provender.nested_dims": "16, 32",
        "provender.dtype": "float32",
        "provender.space": "transra_v1",
        "provender.producer": "transra",
        "provender.family": "transra",
        "provender.anchored_to": "1",
        "provender.facet": "buy",
    }


def test_freshness_may_change_under_a_version() -> None:
    old = EmbeddingSpec.declare(**USER)
    check_unchanged(old, EmbeddingSpec.declare(**{**USER, "ttl": timedelta(days=9)}))


@given(
    dims=st.sets(st.integers(1, 4096), min_size=1, max_size=6).map(sorted),
    space=st.text(min_size=1, max_size=30),
    producer=st.text(min_size=1, max_size=30),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    ttl=st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=3650)),
)
def test_tags_keep_the_whole_declaration(
    dims: list[int], space: str, producer: str, dtype: str, ttl: timedelta
) -> None:
    fields = {**USER, "space": space, "producer": producer, "dtype": dtype, "ttl": ttl}
    spec = EmbeddingSpec.declare(**{**fields, "dim": dims[-1], "nested_dims": tuple(dims[:-1])})
    assert EmbeddingSpec.from_tags(spec.to_tags()) == spec


@pytest.mark.parametrize("tags", [{}, {"provender.spec": "{"}, {"provender.spec": '{"dim": 3}'}])
def test_other_tags_are_no_declaration(tags: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        EmbeddingSpec.from_tags(tags)
