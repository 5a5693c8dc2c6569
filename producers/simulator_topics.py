"""Topics: what is in demand, how content shows them, and drawing something by its topic."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from provender.producers.simulator_config import SimulatorConfig
from provender.producers.simulator_streams import Stream, generator

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

VECTOR_DIM = 32
DEMAND_SD = 0.3
NOISE = 0.35
"""Length of the noise on a text or image vector, whose signal has length about 1."""


class Topics:
    """The planted topics of a world: log demand (K,), and their image and text axes (K, 32)."""

    def __init__(self, config: SimulatorConfig) -> None:
        rng = generator(config.seed, Stream.TOPICS)
        self.log_demand = rng.normal(0.0, DEMAND_SD, config.topics).astype(np.float32)
        scale = 1 / np.sqrt(VECTOR_DIM)
        self.image_axes = rng.normal(0.0, scale, (config.topics, VECTOR_DIM)).astype(np.float32)
        self.text_axes = rng.normal(0.0, scale, (config.topics, VECTOR_DIM)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.log_demand)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Ints:
        """Topics in proportion to their demand."""
        cumulative = np.cumsum(np.exp(self.log_demand, dtype=np.float64))
        drawn = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1], side="right")
        topic: Ints = np.minimum(drawn, len(self) - 1)
        return topic

    def show(self, rng: np.random.Generator, axes: Floats, topic: Ints, mix: Floats) -> Floats:
        """Noisy projections (n, 32) on `axes` (K, 32) of contents that mix two topics (n, 2)."""
        signal = axes[topic[:, 0]] * mix[:, :1] + axes[topic[:, 1]] * mix[:, 1:]
        noise = rng.standard_normal(signal.shape, dtype=np.float32)
        vectors: Floats = signal + noise * np.float32(NOISE / np.sqrt(VECTOR_DIM))
        return vectors


def mix_of(rng: np.random.Generator, topic: Ints, most: float) -> Floats:
    """Weights (n, 2) on a first and a second topic (n, 2), of length 1 in topic space.

    The angle to the first topic is in [0, most) radians; where both are the same topic it is 0.
    """
    angle = rng.uniform(0.0, most, len(topic))
    angle[topic[:, 0] == topic[:, 1]] = 0.0
    return np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


class TopicIndex:
    """Draws positions in proportion to their weight, from everything or from one topic."""

    def __init__(self, topic: Ints, weight: Floats, topics: int) -> None:
        self._order = np.argsort(topic, kind="stable")
        self._cumulative = np.cumsum(weight[self._order], dtype=np.float64)
        self._bounds = np.searchsorted(topic[self._order], np.arange(topics + 1))

    def draw(self, uniform: Doubles) -> Ints:
        """A position for each uniform number in [0, 1)."""
        return self._at(uniform * self._cumulative[-1], 0, len(self._order) - 1)

    def draw_in(self, topic: Ints, uniform: Doubles) -> Ints:
        """A position of the given topic each; of any topic where the topic has none."""
        first, last = self._bounds[topic], self._bounds[topic + 1] - 1
        low = np.where(first > 0, self._cumulative[first - 1], 0.0)
        drawn = self._at(low + uniform * (self._cumulative[last] - low), first, last)
        return np.where(first <= last, drawn, self.draw(uniform))

    def _at(self, mass: Doubles, first: Ints | int, last: Ints | int) -> Ints:
        rank = np.searchsorted(self._cumulative, mass, side="right")
        # Rounding may step over a topic's edge; the bounds win (and an empty topic's are unused).
        inside = np.maximum(np.minimum(rank, last), first)
        return self._order[np.minimum(inside, len(self._order) - 1)]
