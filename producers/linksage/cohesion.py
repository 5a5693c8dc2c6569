"""Cohesion: how well a pin and the page that it leads to fit, as their contents' cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from provender.producers.linksage.features import Features

#: Pairs at a time.
BLOCK = 16_384


def cohesion(
    features: Features, pins: NDArray[np.int64], pages: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The mean of the texts' and of the mean images' cosine, of those that both ends have.

    Args:
        features: whose rows have norm 1, or are zero where there is nothing.
        pins: (p,) rows of pins.
        pages: (p,) rows of pages, in step.

    Returns float32 (p,), NaN where the two have nothing to compare.
    """
    sides = [(features.pins.text, features.pages.text)]
    sides.append((features.pins.mean_images(), features.pages.mean_images()))
    found = np.empty(len(pins), np.float32)
    for begin in range(0, len(pins), BLOCK):
        part = slice(begin, begin + BLOCK)
        total, modes = np.zeros(len(pins[part])), np.zeros(len(pins[part]))
        for of_pins, of_pages in sides:
            a, b = of_pins[pins[part]], of_pages[pages[part]]
            total += np.einsum("ij,ij->i", a, b, dtype=np.float64)
            modes += np.any(a != 0, axis=1) & np.any(b != 0, axis=1)
        found[part] = np.divide(total, modes, out=np.full_like(total, np.nan), where=modes > 0)
    return found
