"""The configuration refuses what it does not know, in one line."""

from __future__ import annotations

from pathlib import Path

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


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "transra.yaml"
    path.write_text("dim: 8\nanchor_relation: null\n")
    assert TransRAConfig.load(path) == TransRAConfig(dim=8, anchor_relation=None)
    path.write_text("")
    assert TransRAConfig.load(path) == TransRAConfig()


@pytest.mark.parametrize("content", [b"- dim", b"dim: [", b"\xff\xfe", b"dim: x"])
def test_broken_yaml_is_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "transra.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"transra\.yaml"):
        TransRAConfig.load(path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        TransRAConfig.load(tmp_path / "none.yaml")
