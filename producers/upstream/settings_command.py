"""`provender upstream settings`: every key of a world's section `upstream`, with its meaning."""

from __future__ import annotations

from itertools import chain

import click

from provender.plugin.options import FORMAT
from provender.producers.settings_table import declared_keys, keys_of, print_keys
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.declarations import TowerSources


@click.command(epilog="Example: provender upstream settings")
@FORMAT
def settings(form: str) -> None:
    """List all keys of the section `upstream`, their defaults and what they mean.

    NAME stands for a name of your own. model.dim and model.nested_dims follow the embedding views.
    """
    print_keys(chain(declared_keys(TowerSources), keys_of(UpstreamConfig())), form)
