"""The configuration refuses what it does not know, in one line."""

from __future__ import annotations

import pytest

from provender.plugin.errors import ConfigError
from provender.producers.transra_config import TransRAConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dims": 3}, r"transra: dims: found 3; expected .*not permitted\. The fields are .*dim,"),
        ({"dim": 0}, "transra: dim: found 0; expected .*greater than or equal to 1"),
        ({"loss": "hinge"}, "transra: loss: found 'hinge'"),
        ({"relations": {}}, "at least one relation"),
        ({"relations": {"click": 0}}, "weights above zero"),
        ({"tether": -1}, "transra: tether: found -1"),
        ({"learning_rate": float("nan")}, "transra: learning_rate: found nan"),
        ({"init_norm": float("inf")}, "transra: init_norm: found inf"),
        ({"uniform_share": 0}, "transra: uniform_share"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TransRAConfig.parse(values)
    assert "\n" not in str(caught.value)


def test_every_field_has_help() -> None:
    assert all(field.description for field in TransRAConfig.model_fields.values())


def test_the_hash_follows_the_values() -> None:
    assert TransRAConfig().hash == TransRAConfig.parse({"dim": 64}).hash
    assert TransRAConfig().hash != TransRAConfig(seed=1).hash


def test_relation_weights() -> None:
    config = TransRAConfig(relations={"click": 2.0})
    assert (config.relation_weight("click"), config.relation_weight("hide")) == (2.0, 0.0)
    assert TransRAConfig().relation_weight("hide") == 1.0
