"""Whether pages lie where their pins do: cosines across the two, set against other pins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from provender.producers.linksage.score_figures import paired_cosines
from provender.producers.pin_ranking import Floats, Pairs


@dataclass(frozen=True)
class SameSpace:
    """Whether pages lie among pins.

    Attributes:
        own: mean cosine of a page and its own pin, held out.
        known: the same of known pairs; None without any.
        others: mean cosine of a page and any other pin.
        nearer: how likely a page is nearer to its own pin than to any other (AUC by page).
        gap: distance of the mean page from the mean pin, both of unit vectors: 0 to 2.
    """

    own: float
    known: float | None
    others: float | None
    nearer: float | None
    gap: float


def same_space(
    pages: Floats,
    pins: Floats,
    asked: Pairs,
    own: Floats,
    known: Pairs,
    positives: csr_array,
    sample: int,
    seed: int,
) -> SameSpace:
    """Compare pages with their own pins and with others.

    Each held-out pair `asked`, whose cosine is `own`, is set against one other pin of its page, no
    cell of `positives`; of the `known` pairs at most `sample` are looked at.
    """
    rng = np.random.default_rng(seed)
    drawn = Pairs(asked.rows, rng.integers(0, len(pins), len(asked.rows)))
    real = ~np.asarray(positives[drawn.rows, drawn.pins], bool).ravel()
    others = paired_cosines(pages, pins, Pairs(drawn.rows[real], drawn.pins[real]))
    wins = (own[real] > others) + (own[real] == others) / 2
    some = rng.permutation(len(known.rows))[:sample]
    learned = paired_cosines(pages, pins, Pairs(known.rows[some], known.pins[some]))
    return SameSpace(
        own=float(own.mean(dtype=np.float64)),
        known=float(learned.mean(dtype=np.float64)) if len(learned) else None,
        others=float(others.mean(dtype=np.float64)) if len(others) else None,
        nearer=float(wins.mean()) if len(wins) else None,
        gap=float(np.linalg.norm(_centre(pages) - _centre(pins))),
    )


def _centre(vectors: Floats) -> Any:
    norms = np.linalg.norm(vectors, axis=1)
    weights = 1 / np.where(norms > 0, norms, 1)
    return weights.astype(np.float64) @ vectors / len(vectors)
