"""Landing pages by version, for worlds that have a section `linksage`."""

from datetime import timedelta

from entities import page, pin
from sources import SNAPSHOTS

from provender.plugin.embedding_view import embedding_view

# Landing pages and the pins that lead there, in one space, by what they show and their neighbours.
page_linksage_v1 = embedding_view(
    name="page_linksage",
    version=1,
    entity=page,
    dim=64,
    nested_dims=(16, 32),
    space="linksage_v1",
    producer="linksage",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Landing pages, refreshed daily: those that are new or have changed.",
)

pin_linksage_v1 = embedding_view(
    name="pin_linksage",
    version=1,
    entity=pin,
    dim=64,
    nested_dims=(16, 32),
    space="linksage_v1",
    producer="linksage",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Pins in the space of the pages.",
)
