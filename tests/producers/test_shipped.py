"""Which producer a family has, and what is said where a command is another one's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from provender.plugin.errors import ConfigError
from provender.plugin.repo import DeclaredView
from provender.plugin.spec import EmbeddingSpec
from provender.producers.shipped import check_transra, producer_of


def view(name: str, producer: str, family: str) -> DeclaredView:
    spec = EmbeddingSpec.declare(
        name=name,
        version=1,
        entity="pin",
        join_key="pin_id",
        dim=8,
        space=family,
        producer=producer,
        family=family,
        ttl=timedelta(days=1),
    )
    return DeclaredView(spec, "int64")


VIEWS = [
    view("pin_transra", "transra", "ads"),
    view("pin_linksage", "linksage", "landing"),
    view("pin_sage", "pinsage", "sage"),
]


def test_a_command_of_transra_says_what_to_do_with_pages() -> None:
    with pytest.raises(ConfigError) as caught:
        check_transra(VIEWS, "landing", {"linksage": "Do that."})
    assert str(caught.value) == (
        "family landing: found views that linksage makes; expected a family of transra, which this "
        "command is for. Do that."
    )
    for other in ("ads", "sage", "none", None):
        check_transra(VIEWS, other, {"linksage": "Do that."})


def test_the_producer_of_a_family() -> None:
    assert [producer_of(VIEWS, each) for each in ("ads", "landing")] == ["transra", "linksage"]
    with pytest.raises(ConfigError, match="'pinsage'; expected one that provender ships"):
        producer_of(VIEWS, "sage")
