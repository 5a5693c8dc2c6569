"""One ranking request: fetch what the ranker reads, score the candidates, sort them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker


@dataclass(frozen=True)
class Ranked:
    """The answer to a request.

    Attributes:
        pins: the candidates, best first; equal scores keep the order of the request.
        scores: p(click) of each, in the same order.
        missing: view -> candidates without a vector.
        fetch_seconds, score_seconds: how long the two parts took.
    """

    pins: list[int | str]
    scores: list[float]
    missing: dict[str, int]
    fetch_seconds: float
    score_seconds: float


def rank(
    fetcher: OnlineFetcher,
    ranker: Ranker,
    user_id: int | str,
    pin_ids: Sequence[int | str],
    context: Mapping[str, Any] | None = None,
) -> Ranked:
    """Rank candidates for a user by the probability of a click.

    An unknown user or pin is scored by what is known of the rest; no candidates give an empty
    answer; duplicates stay duplicates.
    """
    started = time.perf_counter()
    batch = fetcher.fetch(user_id, pin_ids, context or {})
    fetched = time.perf_counter()
    scores = ranker.score(batch).click
    order = scores.argsort(descending=True, stable=True).tolist()
    scored = time.perf_counter()
    return Ranked(
        pins=[pin_ids[place] for place in order],
        scores=scores[order].tolist() if order else [],
        missing={view: int((~mask).sum()) for view, mask in batch.present.items()},
        fetch_seconds=fetched - started,
        score_seconds=scored - fetched,
    )
