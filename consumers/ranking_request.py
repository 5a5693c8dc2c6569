"""One ranking request: fetch what the ranker reads, score the candidates, sort them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from provender.consumers.distinct_rows import distinct_rows
from provender.consumers.features import RankerBatch
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker
from provender.consumers.served_versions import Assignment
from provender.consumers.user_history import Action


@dataclass(frozen=True)
class Scored:
    """The candidates of one request in the order of the request.

    Attributes:
        clicks: (n,) float32, p(click) of each.
        missing: view -> candidates without a vector.
        versions: family -> the version that was read.
        fetch_seconds, score_seconds: how long the two parts took.
        run_id: of the ranker; None of one without a stamp.
    """

    clicks: Tensor
    missing: dict[str, int]
    versions: dict[str, int]
    fetch_seconds: float
    score_seconds: float
    run_id: str | None = None


@dataclass(frozen=True)
class Ranked:
    """The answer to a request.

    Attributes:
        pins: the candidates, best first; equal scores keep the order of the request.
        scores: p(click) of each, in the same order.
        missing: view -> candidates without a vector.
        fetch_seconds, score_seconds: how long the two parts took.
        versions: family -> the version that was read; one for all vectors of the answer.
        run_id: of the ranker; None of one without a stamp.
    """

    pins: list[int | str]
    scores: list[float]
    missing: dict[str, int]
    fetch_seconds: float
    score_seconds: float
    versions: dict[str, int] = field(default_factory=dict)
    run_id: str | None = None


def rank(
    fetcher: OnlineFetcher,
    ranker: Ranker,
    user_id: int | str,
    pin_ids: Sequence[int | str],
    context: Mapping[str, Any] | None = None,
    history: Sequence[Action] = (),
) -> Ranked:
    """Rank candidates for a user by the probability of a click.

    An unknown user or pin is scored by what is known of the rest; no candidates give an empty
    answer; duplicates stay duplicates. What the user did is taken as :meth:`OnlineFetcher.fetch`
    takes it.
    """
    return in_order(score(fetcher, ranker, user_id, pin_ids, context, history), pin_ids)


def score(
    fetcher: OnlineFetcher,
    ranker: Ranker,
    user_id: int | str,
    pin_ids: Sequence[int | str],
    context: Mapping[str, Any] | None = None,
    history: Sequence[Action] = (),
    *,
    assignment: Assignment | None = None,
) -> Scored:
    """Score candidates without sorting them; of what is live, or as assigned.

    Candidates of which the ranker reads the same have the same score, to the bit.
    """
    started = time.perf_counter()
    batch = fetcher.fetch(user_id, pin_ids, context, history, assignment=assignment)
    fetched = time.perf_counter()
    return Scored(
        clicks=clicks_of(ranker, batch),
        missing={view: int((~mask).sum()) for view, mask in batch.present.items()},
        versions=batch.versions,
        fetch_seconds=fetched - started,
        score_seconds=time.perf_counter() - fetched,
        run_id=ranker.stamp.run_id if ranker.stamp else None,
    )


def clicks_of(ranker: Ranker, batch: RankerBatch) -> Tensor:
    """p(click) of each row of a request, (B,) float32; rows that are the same are scored once."""
    context = [column.name for column in ranker.preprocessing.context]
    distinct = distinct_rows(batch, context, [table.join_key for table in ranker.config.tables])
    if distinct is None:
        return ranker.score(batch).click
    clicks = ranker.score(batch.take(torch.from_numpy(distinct.firsts))).click
    return clicks[torch.from_numpy(distinct.places)]


def in_order(scored: Scored, pin_ids: Sequence[int | str]) -> Ranked:
    """Sort scored candidates, best first."""
    started = time.perf_counter()
    order = scored.clicks.argsort(descending=True, stable=True).tolist()
    pins = [pin_ids[place] for place in order]
    scores = scored.clicks[order].tolist() if order else []
    return Ranked(
        pins=pins,
        scores=scores,
        missing=scored.missing,
        fetch_seconds=scored.fetch_seconds,
        score_seconds=scored.score_seconds + time.perf_counter() - started,
        versions=scored.versions,
        run_id=scored.run_id,
    )
