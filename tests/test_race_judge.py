"""The judge of the race between peers, beside nested loops."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"
HEADS, TAILS, RELATIONS, DIM = 7, 9, 2, 3


@pytest.mark.parametrize("similarity", ["dot", "distance"])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_races_judge_equals_loops_over_all_candidates(
    similarity: str, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PEERS))
    judge = importlib.import_module("filtered_mrr")
    random = np.random.default_rng(0)
    drawn = random.normal(size=(RELATIONS, HEADS + TAILS, DIM)).astype(np.float32)
    vectors = torch.from_numpy(drawn.round() if rounded else drawn)  # Rounded ones make ties.
    cells = random.permutation(RELATIONS * HEADS * TAILS)[:60]
    relation, pair = np.divmod(cells, HEADS * TAILS)
    triples = np.stack([pair // TAILS, relation, HEADS + pair % TAILS], axis=1)
    known, asked = triples, triples[:25]

    def score(h: int, r: int, t: int) -> float:
        left, right = vectors[r, h].double(), vectors[r, t].double()
        return float(left @ right if similarity == "dot" else -(left - right).square().sum())

    true, found = set(map(tuple, known.tolist())), []
    for h, r, t in asked.tolist():
        own = score(h, r, t)
        by_tail = [score(h, r, c) for c in range(HEADS, HEADS + TAILS) if (h, r, c) not in true]
        by_head = [score(c, r, t) for c in range(HEADS) if (c, r, t) not in true]
        for others in (by_tail, by_head):
            level = sum(abs(other - own) < 1e-5 for other in others)
            above = sum(other - own >= 1e-5 for other in others)
            found.append(1 / (1 + above + level / 2))
    sides = judge.Sides(lambda r, ids: vectors[r][ids], lambda r, ids: vectors[r][ids], similarity)
    mrr = judge.filtered_mrr(sides, asked, [triples[:40], triples[40:]], HEADS, TAILS, batch=4)
    assert mrr == pytest.approx(np.mean(found), rel=1e-6)
