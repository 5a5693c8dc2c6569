"""Users of the simulated world: who they are, and their interests as they drift."""

from __future__ import annotations

import numpy as np

from provender.producers.simulator_config import SimulatorConfig
from provender.producers.simulator_streams import Stream, generator
from provender.producers.simulator_topics import Doubles, Floats, Ints, Topics

USER_BLOCK = 1_024
"""Users drawn together: the unit of randomness and of memory, fixed so that no option moves it."""
FOCUS = 3.0
"""Spread of the log interests: a user's first topic holds about half of the interest."""
ACTIVITY_SD = 0.5
PROPENSITY_SD = 0.4


class Users:
    """The state of all users: interests (n, K), activity, propensity to click, creation (us).

    Log interests walk randomly in topic space, held to their spread (an Ornstein-Uhlenbeck walk):
    x <- rho x + sqrt(1 - rho^2) FOCUS e, with rho = 1 - drift, once a day.
    """

    def __init__(self, config: SimulatorConfig, topics: Topics) -> None:
        self._config = config
        self._topics = topics
        capacity = config.size(config.users, config.user_growth, config.days)
        self.walk = np.empty((capacity, len(topics)), np.float32)
        self.activity = np.empty(capacity, np.float32)
        self.propensity = np.empty(capacity, np.float32)
        self.created = np.empty(capacity, np.int64)
        self.count = 0

    def arrive(self, cohort: int, earliest: int, latest: int) -> None:
        """The users of a cohort, created between two times (us since 1970), in order of time."""
        config = self._config
        last = config.size(config.users, config.user_growth, cohort)
        for first in range(self.count, last, USER_BLOCK):
            rows = slice(first, min(first + USER_BLOCK, last))
            size = rows.stop - rows.start
            rng = generator(config.seed, Stream.USERS, cohort, (first - self.count) // USER_BLOCK)
            self.walk[rows] = rng.standard_normal((size, len(self._topics)), dtype=np.float32)
            self.walk[rows] *= FOCUS
            # Mean 1, so that impressions_per_user is the mean; capped for bounded days.
            activity = np.exp(rng.normal(-(ACTIVITY_SD**2) / 2, ACTIVITY_SD, size))
            self.activity[rows] = np.minimum(activity, 5.0)
            self.propensity[rows] = rng.normal(0.0, PROPENSITY_SD, size)
            self.created[rows] = rng.integers(earliest, latest, size)
        self.created[self.count : last].sort()
        self.count = last

    def drift(self, day: int) -> None:
        """One day's step of everybody's interests."""
        rho = 1 - self._config.drift
        step = np.float32(np.sqrt(1 - rho**2) * FOCUS)
        for block in range(self.blocks):
            rows = self.block(block)
            rng = generator(self._config.seed, Stream.DRIFT, day, block)
            noise = rng.standard_normal(self.walk[rows].shape, dtype=np.float32)
            self.walk[rows] = self.walk[rows] * np.float32(rho) + noise * step

    @property
    def blocks(self) -> int:
        """Blocks that hold all users who exist."""
        return -(-self.count // USER_BLOCK)

    def block(self, block: int) -> slice:
        """Positions of the users of a block."""
        return slice(block * USER_BLOCK, min((block + 1) * USER_BLOCK, self.count))

    def interests(self, rows: slice) -> Floats:
        """Interests (n, K) of these users: positive weights that sum to 1."""
        logits = self.walk[rows] + self._topics.log_demand
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        interests: Floats = weights / weights.sum(axis=1, keepdims=True)
        return interests


def draw_topic(interests: Floats, user: Ints, uniform: Doubles) -> Ints:
    """For each draw, a topic by the interests (n, K) of its `user` (a row of them)."""
    rows, topics = interests.shape
    # All rows in one ascending array: row i covers (i, i + 1], so one binary search serves all.
    cumulative = np.cumsum(interests, axis=1, dtype=np.float64)
    cumulative = (cumulative / cumulative[:, -1:] + np.arange(rows)[:, None]).ravel()
    found = np.searchsorted(cumulative, user + uniform, side="right") - user * topics
    topic: Ints = np.clip(found, 0, topics - 1)
    return topic
