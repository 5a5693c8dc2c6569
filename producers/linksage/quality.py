"""How good vectors of pages are: what the article measures, on pairs that were held out.

Recall@k by prefix of the vectors, scores of positives and negatives, kurtosis of the pages' own
cosines, and whether a page is near to its own pin in the pins' space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from provender.plugin.errors import TrainingError
from provender.producers.linksage.same_space import SameSpace, same_space
from provender.producers.linksage.score_figures import (
    THRESHOLD,
    Distribution,
    drawn_negatives,
    paired_cosines,
    pairs_among,
)
from provender.producers.pin_ranking import (
    Floats,
    Ints,
    Pairs,
    Ranks,
    Scorer,
    as_matrix,
    cosines,
    rank,
)

KS = (10, 100)
#: Baseline whose recall a release is held against.
POPULARITY = "popularity"
_FORMAT = 1


@dataclass(frozen=True)
class Quality:
    """Figures of one set of vectors.

    `recall` is by dim and k; `baselines` by name and k. `positives`, `negatives` and `pairwise`
    are of the full vectors, `negatives_below` and `kurtosis` by dim.
    """

    pairs: int
    pages: int
    candidates: int
    dims: tuple[int, ...]
    recall: Mapping[int, Mapping[int, float]]
    baselines: Mapping[str, Mapping[int, float]]
    positives: Distribution
    negatives: Distribution | None
    pairwise: Distribution | None
    negatives_below: Mapping[int, float | None]
    kurtosis: Mapping[int, float | None]
    same_space: SameSpace
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ks(self) -> tuple[int, ...]:
        """Of recall@k."""
        return tuple(self.recall[self.dims[-1]])

    def loss(self, dim: int, k: int) -> float | None:
        """What is lost of recall@k with only the first `dim` of the dims, as a share of it."""
        full = self.recall[self.dims[-1]][k]
        return 1 - self.recall[dim][k] / full if full else None

    def metrics(self) -> dict[str, float | None]:
        """What a manifest carries and release gates read; `quality` is the last recall@k."""
        full, k = self.dims[-1], self.ks[-1]
        found: dict[str, float | None] = {"quality": self.recall[full][k]}
        if POPULARITY in self.baselines:
            found["quality_popularity"] = self.baselines[POPULARITY][k]
        for each in self.ks:
            found |= {f"recall@{each}_{dim}": self.recall[dim][each] for dim in self.dims}
        found[f"negatives_below_{THRESHOLD}"] = self.negatives_below[full]
        found["kurtosis"] = self.kurtosis[full]
        found["own_pin_cosine"] = self.same_space.own
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, with string keys and no NaN."""
        by_dim = {
            str(dim): {
                **{f"recall@{k}": self.recall[dim][k] for k in self.ks},
                **{f"loss@{k}": self.loss(dim, k) for k in self.ks},
                f"negatives_below_{THRESHOLD}": self.negatives_below[dim],
                "kurtosis": self.kurtosis[dim],
            }
            for dim in self.dims
        }
        told = {"positives": self.positives, "negatives": self.negatives, "pages": self.pairwise}
        return {
            "format": _FORMAT,
            "metrics": self.metrics(),
            "test": {"pairs": self.pairs, "pages": self.pages, "candidates": self.candidates},
            "dims": by_dim,
            "baselines": {
                name: {f"recall@{k}": value for k, value in by_k.items()}
                for name, by_k in self.baselines.items()
            },
            "scores": {name: one.to_json() if one else None for name, one in told.items()},
            "kurtosis": "Pearson's, 3 of a normal distribution; excess kurtosis is 3 less",
            "same_space": asdict(self.same_space),
            "notes": dict(self.notes),
        }


def judge(
    pages: Floats,
    pins: Floats,
    test: tuple[Ints, Ints],
    known: tuple[Ints, Ints],
    dims: Sequence[int],
    seed: int = 0,
    *,
    ks: Sequence[int] = KS,
    baselines: Mapping[str, Scorer] | None = None,
    most: int = 10_000,
    sample: int = 1_000_000,
) -> Quality:
    """Judge vectors by held-out pairs of pages and pins.

    Each test pair asks where its pin is among all pins but those that the page is known to go with
    and its other held-out ones. Recall@k is the share of pairs whose pin is among the first k;
    pins of equal scores are in any order, and the expectation over these orders counts.

    Args:
        pages: (n, d) float32.
        pins: (q, d) float32, all of them candidates.
        test: rows of pages and of pins of the held-out pairs; those that are known too are passed
            over.
        known: the same of the pairs that were learned from.
        dims: prefixes to judge, ascending; d is added.
        seed: of all that is drawn.
        ks: of recall@k, ascending.
        baselines: further rankings of the same pins (pin_ranking.py), by name. `random`, the
            expectation of any order, is added.
        most: test pairs that are judged, drawn where there are more.
        sample: pairs of pages, and negatives, that the distributions are of.

    Raises TrainingError without test pairs, for vectors that are not finite, or of two lengths.
    """
    _check(pages, pins)
    held, learned = (Pairs(*(np.asarray(rows, np.int64) for rows in one)) for one in (test, known))
    left_out = as_matrix(learned, len(pages), len(pins))
    asked, notes = _asked(held, left_out, most, seed)
    positives = (left_out + as_matrix(held, *left_out.shape)).tocsr()
    negatives = drawn_negatives(asked.rows, positives, sample, seed)
    among = pairs_among(len(pages), sample, seed)
    full = pages.shape[1]
    lengths = tuple(sorted({*(dim for dim in dims if dim < full), full}))
    recall, below, peaked = {}, {}, {}
    for dim in lengths:
        ranks = rank(cosines(pages, pins, dim), asked, left_out)
        recall[dim] = _recall(ranks, ks)
        apart = Distribution.of(paired_cosines(pages[:, :dim], pins[:, :dim], negatives))
        pairwise = Distribution.of(paired_cosines(pages[:, :dim], pages[:, :dim], among))
        below[dim] = apart.below if apart else None
        peaked[dim] = pairwise.kurtosis if pairwise else None
    own = paired_cosines(pages, pins, asked)
    spread = Distribution.of(own)
    if spread is None:
        raise AssertionError("there are test pairs")
    return Quality(
        pairs=len(asked.rows),
        pages=len(np.unique(asked.rows)),
        candidates=len(pins),
        dims=lengths,
        recall=recall,
        baselines=_baselines(baselines or {}, asked, left_out, positives, ks),
        positives=spread,
        negatives=apart,
        pairwise=pairwise,
        negatives_below=below,
        kurtosis=peaked,
        same_space=same_space(pages, pins, asked, own, learned, positives, sample, seed),
        notes=notes,
    )


def _asked(test: Pairs, left_out: csr_array, most: int, seed: int) -> tuple[Pairs, dict[str, Any]]:
    """The test pairs to judge, each once, and how many were passed over."""
    held = as_matrix(test, *left_out.shape)
    new = held > left_out
    pages, pins = (rows.astype(np.int64) for rows in new.nonzero())
    if not len(pages):
        raise TrainingError(
            "held-out pairs of pages and pins",
            found=f"{len(test.rows):,}, all of them known",
            expected="at least one that was not learned from",
            remedy="Hold more out, or take a longer time.",
        )
    notes: dict[str, Any] = {"test_pairs": len(pages), "known_too": held.nnz - len(pages)}
    if len(pages) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(pages), most, replace=False))
        pages, pins = pages[chosen], pins[chosen]
    return Pairs(pages, pins), notes


def _recall(ranks: Ranks, ks: Sequence[int]) -> dict[int, float]:
    return {k: float(ranks.hits(k).mean()) for k in ks}


def _baselines(
    scorers: Mapping[str, Scorer],
    asked: Pairs,
    left_out: csr_array,
    positives: csr_array,
    ks: Sequence[int],
) -> dict[str, dict[int, float]]:
    found = {name: _recall(rank(one, asked, left_out), ks) for name, one in scorers.items()}
    others = positives.sum(axis=1)[asked.rows] - 1
    level = left_out.shape[1] - np.asarray(others, np.int64)
    return {**found, "random": _recall(Ranks(np.zeros_like(level), level), ks)}


def _check(pages: Floats, pins: Floats) -> None:
    for name, vectors in (("pages", pages), ("pins", pins)):
        if not np.isfinite(vectors).all():
            raise TrainingError(
                f"vectors of {name}",
                found="some that are not finite",
                expected="numbers",
                remedy="Train anew with a lower learning rate.",
            )
    if pages.shape[1] != pins.shape[1]:
        raise TrainingError(
            "vectors of pages and pins",
            found=f"lengths {pages.shape[1]} and {pins.shape[1]}",
            expected="one length",
            remedy="Set model.dim to the length of the pins' given vectors.",
        )
