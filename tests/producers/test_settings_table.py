"""The table of a section's keys: all there are, each with what it means."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

from click.testing import CliRunner
from pydantic import BaseModel, Field

from provender.producers.settings_table import declared_keys, keys_of
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.declarations import TowerSources
from provender.producers.upstream.settings_command import settings


class Inner(BaseModel):
    """Of a section."""

    size: int = Field(3, description="how large")
    names: tuple[str, ...] = ()


class Outer(BaseModel):
    """A section."""

    table: str = Field(description="one of the tables")
    inner: Inner = Inner()
    some: dict[str, Inner] = Field(default_factory=dict, description="by name")
    either: dict[str, Inner | typing.Literal["all"]] = Field(min_length=1)
    perhaps: Inner | None = Field(None, description="if at all")
    plain: dict[str, str] = Field(default_factory=dict, description="text by name")


def test_keys_of_a_declaration() -> None:
    assert list(declared_keys(Outer)) == [
        ("table", "(needed)", "one of the tables"),
        ("inner.size", 3, "how large"),
        ("inner.names", (), ""),
        ("some.NAME", {}, "by name"),
        ("some.NAME.size", 3, "how large"),
        ("some.NAME.names", (), ""),
        ("either.NAME.size", 3, "how large"),
        ("either.NAME.names", (), ""),
        ("perhaps", None, "if at all"),
        ("perhaps.size", 3, "how large"),
        ("perhaps.names", (), ""),
        ("plain", {}, "text by name"),
    ]


def test_keys_of_settings() -> None:
    outer = Outer(table="x", inner=Inner(size=4), either={"a": "all"}, perhaps=Inner(names=("a",)))
    assert list(keys_of(outer)) == [
        ("table", "x", "one of the tables"),
        ("inner.size", 4, "how large"),
        ("inner.names", [], ""),
        ("some", {}, "by name"),
        ("either", {"a": "all"}, ""),
        ("perhaps.size", 3, "how large"),
        ("perhaps.names", ["a"], ""),
        ("plain", {}, "text by name"),
    ]


def paths(schema: dict[str, Any], at: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key with a value of its own, from the model's JSON schema instead of its fields."""
    for name, one in at.get("properties", {}).items():
        yield from inner_paths(schema, one, f"{prefix}{name}")


def inner_paths(schema: dict[str, Any], one: dict[str, Any], key: str) -> Iterator[str]:
    if "$ref" in one:
        yield from paths(schema, schema["$defs"][one["$ref"].rpartition("/")[2]], f"{key}.")
        return
    named = list(one.get("patternProperties", {}).values())
    if isinstance(one.get("additionalProperties"), dict):
        named.append(one["additionalProperties"])
    found = [path for each in named for path in inner_paths(schema, each, f"{key}.NAME")]
    found += [path for each in one.get("anyOf", []) for path in inner_paths(schema, each, key)]
    deeper = [path for path in found if path.startswith(f"{key}.") and path != f"{key}.NAME"]
    yield from deeper or [key]


def test_towers_are_told_whole() -> None:
    schema = TowerSources.model_json_schema()
    wanted = set(paths(schema, schema))
    assert "features.user.counts.NAME.days" in wanted
    assert "sources.NAME.labels.NAME.within" in wanted
    found = [key for key, _, _ in declared_keys(TowerSources)]
    assert wanted <= set(found)
    assert len(found) == len(set(found))
    sections = {key for key in set(found) - wanted if not key.endswith(".NAME")}
    assert all(any(key.startswith(f"{one}.") for key in wanted) for one in sections)


def test_every_setting_of_towers_has_a_meaning() -> None:
    told = {key: help for key, _, help in keys_of(UpstreamConfig())}
    assert "training.contrastive.temperature" in told
    assert [key for key, help in told.items() if not help] == []


def test_the_command_lists_them() -> None:
    shown = CliRunner().invoke(settings, ["--format", "json"])
    assert shown.exit_code == 0
    told = {one["key"]: one for one in json.loads(shown.output)}
    assert told["sources.NAME.negatives"]["default"] == 0
    assert told["sources.NAME.table"]["default"] == "(needed)"
    assert told["model.width"]["default"] == 32
    assert told["features.pin.as_of"]["default"] == "day"
    assert told["features.user.as_of"]["default"] == "instant"
    text = CliRunner().invoke(settings)
    assert text.exit_code == 0
    assert "sources.NAME.labels.NAME.within" in text.output
