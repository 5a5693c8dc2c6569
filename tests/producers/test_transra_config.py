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
        ({"model": "transh"}, "transra: model: found 'transh'; expected .*'transra'.*'complex'"),
        ({"precision": "float16"}, "transra: precision: found 'float16'"),
        ({"hard_negatives": {"click": {}}}, "hard_negatives.click: .*one of `from` and `shared`"),
        (
            {"hard_negatives": {"click": {"from": "shown", "shared": "sold_by"}}},
            "hard_negatives.click: .*one of `from` and `shared`",
        ),
        ({"hard_negatives": {"click": {"form": "shown"}}}, "hard_negatives.click.form"),
        ({"cpu_threads": 0}, "transra: cpu_threads: found 0"),
        ({"checkpoint_minutes": -1}, "transra: checkpoint_minutes: found -1"),
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
    assert TransRAConfig().hash == TransRAConfig(checkpoint_minutes=0).hash


def test_what_hard_negatives_are_made_of_is_set_aside() -> None:
    config = TransRAConfig.parse(
        {"hard_negatives": {"click": {"from": "shown"}, "save": {"shared": "sold_by", "count": 2}}}
    )
    assert config.aside == {"click", "shown", "save", "sold_by"}
    assert TransRAConfig().aside == set()
    # Whoever is told the values of another's configuration reads the same.
    again = TransRAConfig.parse(config.model_dump(mode="json"))
    assert again == config
    assert again.hash == config.hash != TransRAConfig().hash


def test_relation_weights() -> None:
    config = TransRAConfig(relations={"click": 2.0})
    assert (config.relation_weight("click"), config.relation_weight("hide")) == (2.0, 0.0)
    assert TransRAConfig().relation_weight("hide") == 1.0
