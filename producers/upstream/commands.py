"""`provender upstream`: what there is to do with upstream towers beside their refreshes."""

from __future__ import annotations

import click

from provender.producers.upstream.inputs_command import inputs
from provender.producers.upstream.settings_command import settings


@click.group(epilog="Example: provender upstream inputs --home demo")
def upstream() -> None:
    """User and pin towers trained on logs: what they learn from and see, all settings.

    Their refreshes are made by `provender produce` and `provender refresh`.
    """


for command in (inputs, settings):
    upstream.add_command(command)
