"""The ordinary features of a ranker: counts of impressions, clicks and conversions."""

from datetime import timedelta

from entities import pin, user
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Int64
from sources import pin_counter_files, user_counter_files

COUNTERS = ("impressions", "clicks", "conversions")


def counters(entity: Entity, source: FileSource) -> FeatureView:
    """Return an entity's counts: of all time, and of the last seven days."""
    names = [name + period for name in COUNTERS for period in ("", "_7d")]
    return FeatureView(
        name=f"{entity.name}_counters",
        entities=[entity],
        schema=[Field(name=name, dtype=Int64) for name in names],
        source=source,
        ttl=timedelta(days=30),
    )


user_counters = counters(user, user_counter_files)
pin_counters = counters(pin, pin_counter_files)
