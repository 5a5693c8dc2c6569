"""`provender linksage settings`: every key of a world's section `linksage`, with its meaning."""

from __future__ import annotations

import click

from provender.plugin.options import FORMAT
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.settings_table import keys_of, print_keys


@click.command(epilog="Example: provender linksage settings")
@FORMAT
def settings(form: str) -> None:
    """List all keys of the section `linksage`, their defaults and what they mean.

    model.dim and model.nested_dims follow the embedding views.
    """
    print_keys(keys_of(LinkSageConfig()), form)
