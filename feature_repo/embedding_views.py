"""Embeddings by version. A new version stands beside the old one; `feast apply` finds it."""

from datetime import timedelta

from entities import page, pin, user
from sources import SNAPSHOTS

from provender.plugin.embedding_view import embedding_view

# Users and pins of one version share a space: their dot product says how well they fit.
user_transra_v1 = embedding_view(
    name="user_transra",
    version=1,
    entity=user,
    dim=64,
    nested_dims=(16, 32),
    space="transra_v1",
    producer="transra",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Users in the onsite-offsite graph, refreshed daily.",
)

pin_transra_v1 = embedding_view(
    name="pin_transra",
    version=1,
    entity=pin,
    dim=64,
    nested_dims=(16, 32),
    space="transra_v1",
    producer="transra",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Pins in the onsite-offsite graph, refreshed daily.",
)

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
