"""What each ranker reads, offline and online: the same features under one name."""

from counters import pin_counters, user_counters
from embedding_views import pin_transra_v1, user_transra_v1
from feast import FeatureService

ranker_baseline = FeatureService(name="ranker_baseline", features=[user_counters, pin_counters])

ranker_transra = FeatureService(
    name="ranker_transra",
    features=[user_counters, pin_counters, user_transra_v1, pin_transra_v1],
)
