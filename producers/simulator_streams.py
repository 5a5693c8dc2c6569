"""Random numbers addressed by what they are for, so that nothing depends on what ran before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream of random numbers is drawn for. The values are part of every world's bytes."""

    TOPICS = 1
    ADVERTISERS = 2
    ITEMS = 3
    PINS = 4
    USERS = 5
    DRIFT = 6
    SERVING = 7
    REACTION = 8
    ORGANIC = 9
    PILOT = 10


def generator(seed: int, stream: Stream, day: int = 0, block: int = 0) -> np.random.Generator:
    """The generator of one (seed, stream, day, block).

    Philox is counter-based (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011):
    each key is a stream of its own and costs nothing to open. `day` and `block` are below 2**28.
    """
    key = np.array([seed, stream << 56 | day << 28 | block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
