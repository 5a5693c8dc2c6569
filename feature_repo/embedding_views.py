"""Embeddings by version. A new version stands beside the old one; `feast apply` finds it."""

from datetime import timedelta

from entities import pin, user
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
