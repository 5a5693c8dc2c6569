"""The filtered MRR of any model that scores by similarity(left(h, r), right(t, r)), alike for all.

Each triple's tail is ranked among all tails and its head among all heads; other true ones of any
split don't count. Of equal scores the mean rank counts, so nothing is won by scoring all alike.

Legend of shapes: B queries, n candidates, k dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
#: (relation, entities (n,)) -> their vectors (n, k) on that side of the relation
Side = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Sides:
    """A model's vectors as heads and as tails; scores are their dot product or -|a - b|^2."""

    left: Side
    right: Side
    similarity: Literal["dot", "distance"]

    def score(self, left: Tensor, right: Tensor) -> Tensor:
        """The scores of all pairs: (B, k) and (n, k) to (B, n)."""
        products = left @ right.T
        if self.similarity == "dot":
            return products
        return 2 * products - left.square().sum(1, keepdim=True) - right.square().sum(1)

    def check(self, triples: Ints, scores: Tensor) -> None:
        """Stop where the model's own scores (B,) of triples (B, 3) rise with others than these."""
        ours = torch.cat(
            [
                self.score(self.left(int(r), _ids(h, h + 1)), self.right(int(r), _ids(t, t + 1)))[0]
                for h, r, t in triples
            ]
        )
        if not torch.equal(ours.double().argsort(), scores.double().argsort()):
            fit = torch.corrcoef(torch.stack([ours, scores]))[0, 1]
            if fit < 0.99999:
                raise SystemExit(f"the evaluator's scores aren't the model's: {ours} {scores}")


@torch.no_grad()
def filtered_mrr(
    sides: Sides, triples: Ints, known: list[Ints], heads: int, tails: int, batch: int = 256
) -> float:
    """The mean of 1 / rank over both sides of the triples (E, 3); `known` are all true ones."""
    everything = np.concatenate(known)
    reciprocal = []
    for relation in np.unique(triples[:, 1]).tolist():
        asked = triples[triples[:, 1] == relation][:, [0, 2]]
        true = everything[everything[:, 1] == relation][:, [0, 2]]
        left = sides.left(relation, _ids(0, heads))
        right = sides.right(relation, _ids(heads, heads + tails))
        pairs, truth = asked - [0, heads], true - [0, heads]
        for rows, columns, query, answer in ((left, right, 0, 1), (right, left, 1, 0)):
            others = _by_query(truth[:, query], truth[:, answer], len(rows))
            for part in np.split(pairs, range(batch, len(pairs), batch)):
                scores = sides.score(rows[part[:, query]], columns)
                found = [others[q] for q in part[:, query]]
                reciprocal.append(1 / _ranks(scores, torch.from_numpy(part[:, answer]), found))
    return float(torch.cat(reciprocal).mean())


def _ranks(scores: Tensor, answer: Tensor, others: list[Ints]) -> Tensor:
    """The rank of each row's answer (B,) among scores (B, n), less the other true ones."""
    own = scores.gather(1, answer[:, None])
    row = torch.from_numpy(np.repeat(np.arange(len(others)), [len(one) for one in others]))
    scores[row, torch.from_numpy(np.concatenate(others))] = -torch.inf
    above, level = (scores > own).sum(1), (scores == own).sum(1)
    return 1 + above + level / 2.0


def _by_query(queries: Ints, answers: Ints, count: int) -> list[Ints]:
    order = np.argsort(queries, kind="stable")
    ends = np.bincount(queries, minlength=count).cumsum()
    return np.split(answers[order], ends[:-1])


def _ids(start: int, end: int) -> Tensor:
    return torch.arange(int(start), int(end))
