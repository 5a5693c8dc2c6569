"""What `evaluate kg` trains with where nobody says anything."""

from __future__ import annotations

import pytest

from provender.producers.kg_defaults import GraphSizes, defaults
from provender.producers.scores import SCORES
from provender.producers.transra_config import TransRAConfig


@pytest.mark.parametrize("model", list(SCORES))
@pytest.mark.parametrize("kind", ["kg", "interactions"])
def test_they_are_settings(model: str, kind: str) -> None:
    sizes = GraphSizes(100, 3, 1000, "likes")
    config = TransRAConfig.parse(defaults(model, sizes, kind))  # type: ignore[arg-type]
    assert config.model == model
    assert config.anchor_relation == ("likes" if model == "transra" else None)


def test_where_little_is_known_of_each_more_is_shrunk() -> None:
    few, many = GraphSizes(1000, 3, 2_400, "a"), GraphSizes(1000, 3, 2_600, "a")
    assert defaults("transr", few, "kg")["shrinkage"] > defaults("transr", many, "kg")["shrinkage"]


def test_no_more_negatives_than_entities_but_some() -> None:
    found = [
        defaults("transr", GraphSizes(n, 1, 9, "a"), "kg")["negatives"] for n in (5, 500, 9999)
    ]
    assert found == [64, 500, 1024]
