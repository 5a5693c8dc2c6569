"""What has features and embeddings."""

from feast import Entity, ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
pin = Entity(
    name="pin",
    join_keys=["pin_id"],
    value_type=ValueType.INT64,
    description="An ad's creative.",
)
page = Entity(
    name="page",
    join_keys=["page_id"],
    value_type=ValueType.INT64,
    description="A landing page behind pins.",
)
