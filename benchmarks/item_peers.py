"""What else recommends items: popularity, item-kNN, EASE, and ALS of the library `implicit`.

Each is judged as ours is, its settings chosen by Recall@20 on the validation links of some heads.
Legend of shapes: m users, n items, f factors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from peer_process import Peer
from torch import Tensor

from provender.producers.kg_data import LinkSets
from provender.producers.kg_evaluation import KS
from provender.producers.kg_judging import HeadJudge
from provender.producers.link_ranking import Scorer

BY_K = 20
BY = f"recall@{BY_K}"
NEIGHBOURS = (50, 100, 200, 500, 1000, 2000, 5000)
LAMBDAS = (50, 100, 200, 500, 1000, 2000)
#: Beyond so many items EASE, which inverts a matrix of all pairs, is left out.
EASE_ITEMS = 15_000
#: Tried in turn, one setting after another, the others at the best so far; the first ones first.
ALS = {
    "regularization": (10.0, 1.0, 0.1, 30.0, 100.0),
    "alpha": (10.0, 1.0, 3.0, 30.0, 100.0),
    "factors": (128, 32, 64, 256),
    "iterations": (15, 30),
}
Row = dict[str, Any]
Setting = Mapping[str, float]


@dataclass(frozen=True)
class Judges:
    """Of the validation links of some heads, and of everything that is reported."""

    some: HeadJudge
    reported: Mapping[str, HeadJudge]


def peer_rows(
    sets: LinkSets, judges: Judges, implicit_python: str | None
) -> Iterator[tuple[str, Row]]:
    """Each peer as its best setting on the validation links; no ALS without its own python."""
    popular = {part: judge.popularity(KS) for part, judge in judges.reported.items()}
    yield "popularity", {"config": "", "per_head": popular}
    bought = sp.csr_matrix(
        (np.ones(len(sets.train), np.float32), (sets.train.head.numpy(), sets.train.tail.numpy()))
    )
    bought.sum_duplicates()
    once = bought.copy()
    once.data[:] = 1.0
    gram = (once.T @ once).tocsc()
    nearest = _nearest(gram)
    yield (
        "item-kNN",
        _best(
            judges,
            [{"neighbours": count} for count in NEIGHBOURS],
            lambda setting: _by_items(once, nearest(int(setting["neighbours"]))),
        ),
    )
    if implicit_python is None:
        print("no ALS: --implicit-python is missing", flush=True)
    else:
        yield "ALS (implicit)", _als(judges, bought, implicit_python)
    if once.shape[1] <= EASE_ITEMS:
        dense = gram.toarray()
        yield (
            "EASE",
            _best(
                judges,
                [{"lambda": value} for value in LAMBDAS],
                lambda setting: _by_items(once, _ease(dense, setting["lambda"])),
            ),
        )


def _best(judges: Judges, settings: Iterable[Setting], scorer: Callable[[Setting], Scorer]) -> Row:
    """The figures of the setting that ranks some heads' validation links best."""
    started = time.process_time()
    tried = [(dict(each), _judged(judges, each, scorer(each))) for each in settings]
    chosen = max(tried, key=lambda each: each[1])[0]
    best = scorer(chosen)
    return {
        "config": _told(chosen),
        "tried": {_told(setting): figure for setting, figure in tried},
        "per_head": {part: judge.figures(best, KS) for part, judge in judges.reported.items()},
        "cpu_seconds": {"tuning and ranking": time.process_time() - started},
    }


def _judged(judges: Judges, setting: Setting, scorer: Scorer) -> float:
    figure = judges.some.figures(scorer, [BY_K])[BY]
    print(f"{_told(setting)}: {BY} {figure:.4f} on valid", flush=True)
    return figure


def _told(setting: Setting) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def _by_items(once: sp.csr_matrix, weights: np.ndarray | sp.csc_matrix) -> Scorer:
    """Scores of all items by a user's items (m, n) and weights between items (n, n)."""

    def scores(_: str, asked: Tensor) -> Tensor:
        found = once[asked.numpy()] @ weights
        return torch.from_numpy(found.toarray() if sp.issparse(found) else np.asarray(found))

    return lambda _: scores


def _nearest(gram: sp.csc_matrix) -> Callable[[int], sp.csc_matrix]:
    """Cosine similarities of an item's nearest ones, itself among them, the others zero."""
    shorter = sp.diags(1.0 / np.sqrt(gram.diagonal()).clip(min=1.0))
    cosine = (shorter @ gram @ shorter).tocsc().astype(np.float32)

    def nearest(count: int) -> sp.csc_matrix:
        least = np.zeros(cosine.shape[1], np.float32)
        for item, (start, end) in enumerate(zip(cosine.indptr, cosine.indptr[1:], strict=False)):
            if end - start > count:
                least[item] = -np.partition(-cosine.data[start:end], count - 1)[count - 1]
        kept = cosine.copy()
        kept.data[kept.data < np.repeat(least, np.diff(kept.indptr))] = 0.0
        kept.eliminate_zeros()
        return kept

    return nearest


def _ease(gram: np.ndarray, penalty: float) -> np.ndarray:
    """Steck 2019, eq. 8: B = I - P / diag(P), P the inverse of the penalised Gram matrix."""
    penalised = torch.from_numpy(gram + np.float32(penalty) * np.eye(len(gram), dtype=np.float32))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalised)).numpy()
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def _als(judges: Judges, counts: sp.csr_matrix, python: str) -> Row:
    """Line searches over the settings of `ALS`, each run in the library's own environment."""
    options = argparse.Namespace(peer_python=[("implicit", python)], core=None)
    tried: dict[str, float] = {}
    spent = 0.0
    with tempfile.TemporaryDirectory() as folder:
        job = {"counts": str(Path(folder) / "counts.npz"), "out": str(Path(folder) / "out.npz")}
        sp.save_npz(job["counts"], counts)

        def factors(setting: Setting) -> Scorer:
            nonlocal spent
            peer = Peer("ALS", "implicit", "implicit_als", {"settings": dict(setting)})
            told = peer.run(options, job)
            if "cpu_seconds" not in told:
                raise SystemExit(f"ALS: {told['error']}")
            spent += told["cpu_seconds"]
            with np.load(job["out"]) as found:
                users, items = (torch.from_numpy(found[name]) for name in ("users", "items"))
            return lambda _: lambda _, asked: users[asked] @ items.T

        best: dict[str, float] = {name: values[0] for name, values in ALS.items()}
        for name, values in ALS.items():
            for value in values:
                setting = {**best, name: value}
                if _told(setting) not in tried:
                    tried[_told(setting)] = _judged(judges, setting, factors(setting))
            best[name] = max(values, key=lambda value: tried[_told({**best, name: value})])
        scorer = factors(best)
    return {
        "config": _told(best),
        "tried": tried,
        "per_head": {part: judge.figures(scorer, KS) for part, judge in judges.reported.items()},
        "cpu_seconds": {"tuning": spent},
    }
