"""Users and pins by upstream towers, for worlds that have a section `upstream`."""

from datetime import timedelta

from entities import pin, user
from sources import SNAPSHOTS

from provender.plugin.embedding_view import embedding_view

# Towers trained on all logs together; the inner product of a user and a pin says how well they fit.
user_upstream_v1 = embedding_view(
    name="user_upstream",
    version=1,
    entity=user,
    dim=64,
    nested_dims=(16, 32),
    space="upstream_v1",
    producer="upstream",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Users by what they did, refreshed daily; who did nothing keeps the last vector.",
)

pin_upstream_v1 = embedding_view(
    name="pin_upstream",
    version=1,
    entity=pin,
    dim=64,
    nested_dims=(16, 32),
    space="upstream_v1",
    producer="upstream",
    ttl=timedelta(days=30),
    snapshots=SNAPSHOTS,
    description="Pins in the space of the users.",
)
