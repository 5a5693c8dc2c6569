"""The keys of a producer's section as a table: their defaults and what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape
from rich.table import Table

from provender.plugin.console import console, print_table

#: A key, its default and its meaning.
Row = tuple[str, Any, str]


def print_keys(rows: Iterable[Row], form: Literal["text", "json"] | str) -> None:
    """Print keys as a table, or as JSON."""
    if form == "json":
        told = [{"key": key, "default": value, "meaning": help} for key, value, help in rows]
        console.print_json(json.dumps(told))
        return
    table = Table("key", "default", "meaning", show_edge=False)
    for key, value, help in rows:
        table.add_row(escape(key), escape(_shown(value)), escape(help))
    print_table(table)


def keys_of(config: BaseModel, prefix: str = "") -> Iterator[Row]:
    """Key, default and help of every field, with its section before a dot."""
    shown = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", shown[name], field.description or ""


def declared_keys(model: type[BaseModel], prefix: str = "") -> Iterator[Row]:
    """The same of a declaration, whose mappings by name have a section a name: `sources.NAME.`."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner, named = _inner(field.annotation)
        if field.description or inner is None:
            yield key + (".NAME" if named else ""), _default(field), field.description or ""
        if inner is not None:
            yield from declared_keys(inner, f"{key}.{'NAME.' if named else ''}")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model in an annotation, and whether there is one a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    mapping = get_origin(annotation) is dict
    for each in get_args(annotation):
        found, named = _inner(each)
        if found is not None:
            return found, named or mapping
    return None, False


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "(needed)"
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _shown(value: Any) -> str:
    return value if value == "(needed)" else json.dumps(value, default=str)
