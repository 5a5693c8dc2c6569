"""`provender linksage`: what there is to do with LinkSage beside its refreshes."""

from __future__ import annotations

import click

from provender.producers.linksage.graph_command import graph
from provender.producers.linksage.settings_command import settings
from provender.producers.linksage.stream_command import stream


@click.group(epilog="Example: provender linksage stream --home demo --stream pages")
def linksage() -> None:
    """Landing pages in the space of pins: their graph, crawled pages at once, all settings.

    Its refreshes are made by `provender produce` and `provender refresh`.
    """


for command in (graph, stream, settings):
    linksage.add_command(command)
