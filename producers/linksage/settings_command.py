"""`provender linksage settings`: every key of a world's section `linksage`, with its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from provender.plugin.console import console, print_table
from provender.plugin.options import FORMAT
from provender.producers.linksage.config import LinkSageConfig


@click.command(epilog="Example: provender linksage settings")
@FORMAT
def settings(form: str) -> None:
    """List all keys of the section `linksage`, their defaults and what they mean.

    model.dim and model.nested_dims follow the embedding views.
    """
    rows = list(keys_of(LinkSageConfig()))
    if form == "json":
        told = [{"key": key, "default": value, "meaning": help} for key, value, help in rows]
        console.print_json(json.dumps(told))
        return
    table = Table("key", "default", "meaning", show_edge=False)
    for key, value, help in rows:
        table.add_row(key, escape(json.dumps(value)), escape(help))
    print_table(table)


def keys_of(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Key, default and help of every field, with its section before a dot."""
    shown = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", shown[name], field.description or ""
