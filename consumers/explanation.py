"""What carried a score: each facet and each past action hidden in turn, and where attention lay.

Attention says what was looked at, not what it was worth; so each part's contribution is the score
less the score without it, exactly. Parts share what they say, so contributions need not sum up.

Legend of shapes: V variants of one row, B rows, L past actions, H attention heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from provender.consumers.features import RankerBatch
from provender.consumers.history_tokens import compact
from provender.consumers.ranker import Places, Ranker
from provender.consumers.user_history import History

VIEW, TABLE, PAST, FEATURES = "view", "table", "past", "features"


class Part(BaseModel):
    """One thing that a score was made of.

    Attributes:
        name: of the view or table; `past`.
        kind: view, table, past or features.
        present: whether there was anything to hide.
        attention: weights of the attention's heads on it; empty where it is not looked at so.
        contribution: the logit of a click less that without the part.
        score_without: p(click) without it, calibrated as the score is.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    present: bool
    attention: list[float]
    contribution: float
    score_without: float

    @property
    def looked(self) -> float | None:
        """The mean weight of the heads."""
        return sum(self.attention) / len(self.attention) if self.attention else None


class PastAction(BaseModel):
    """One action of the user, as a part of a score; the latest is the first."""

    model_config = ConfigDict(frozen=True)

    pin: int | str
    kind: str
    age_seconds: float
    attention: list[float]
    contribution: float

    @property
    def looked(self) -> float | None:
        """The mean weight of the heads."""
        return sum(self.attention) / len(self.attention) if self.attention else None


class Explanation(BaseModel):
    """What carried the score of one candidate.

    Attributes:
        score: p(click), calibrated where the ranker is.
        logit: of a click, before calibration; contributions are in its unit.
        nothing: weights of the heads on the token that stands for nothing, among the facets.
        nothing_past: likewise among the actions.
        facets, actions: the parts.
    """

    model_config = ConfigDict(frozen=True)

    score: float
    logit: float
    nothing: list[float]
    nothing_past: list[float]
    facets: list[Part]
    actions: list[PastAction]


@dataclass(frozen=True)
class _Hidden:
    """A part and what is hidden for it."""

    name: str
    kind: str
    present: bool
    view: str | None = None
    table: str | None = None
    dense: tuple[int, ...] = ()
    action: int | None = None
    past: bool = False


@torch.no_grad()
def explain(ranker: Ranker, row: RankerBatch) -> Explanation:
    """Explain a batch of one row.

    All variants of the row, each with another part hidden, are scored as one batch.
    """
    was_training = ranker.training
    ranker.eval()
    try:
        hidden = list(_parts(ranker, row))
        logits = _click_logits(ranker, row, hidden)
        facets, actions = _attention(ranker, row)
    finally:
        ranker.train(was_training)
    scores = _calibrated(ranker, logits)
    whole = float(logits[0])
    parts, past = [], []
    for place, one in enumerate(hidden, start=1):
        contribution = whole - float(logits[place])
        if one.action is not None:
            past.append(_past_action(ranker, row, one.action, actions, contribution))
            continue
        looked = facets.get(one.view or one.table or "", [])
        parts.append(
            Part(
                name=one.name,
                kind=one.kind,
                present=one.present,
                attention=looked,
                contribution=contribution,
                score_without=float(scores[place]),
            )
        )
    return Explanation(
        score=float(scores[0]),
        logit=whole,
        nothing=facets.get(_NOTHING, []),
        nothing_past=actions[-1].tolist() if len(actions) else [],
        facets=parts,
        actions=past,
    )


_NOTHING = "(nothing)"


def _parts(ranker: Ranker, row: RankerBatch) -> Iterator[_Hidden]:
    """All that can be hidden, whether it is there or not."""
    config, layout = ranker.config, ranker.layout
    if config.reads != "none":
        for spec in layout.embeddings:
            view = spec.view_name
            yield _Hidden(view, VIEW, bool(row.present[view][0]), view=view)
    places = ranker.places(row)
    for table in config.tables:
        there = bool((ranker.table(table.name)(places.rows[table.name]) != 0).any())
        yield _Hidden(table.name, TABLE, there, table=table.name)
    for view in dict.fromkeys(feature.view for feature in layout.dense):
        dense = tuple(n for n, feature in enumerate(layout.dense) if feature.view == view)
        there = bool(row.dense_present[0, list(dense)].any())
        yield _Hidden(view, FEATURES, there, dense=dense)
    if config.history is not None and row.history is not None:
        shown: list[bool] = (row.history.items[0] >= 0).tolist()
        yield _Hidden(PAST, PAST, any(shown), past=True)
        for place, known in enumerate(shown):
            if known:
                yield _Hidden(f"action {place}", PAST, True, action=place)


def _click_logits(ranker: Ranker, row: RankerBatch, hidden: list[_Hidden]) -> Tensor:
    """The logits of a click: of the row as it is, then with each part hidden: (V,)."""
    batch = row.take(torch.zeros(len(hidden) + 1, dtype=torch.int64))
    places = ranker.places(batch)
    rows = {name: each.clone() for name, each in places.rows.items()}
    items = dict(places.items)
    if batch.history is not None:
        batch = replace(batch, history=replace(batch.history, items=batch.history.items.clone()))
    for place, one in enumerate(hidden, start=1):
        _hide(batch, rows, place, one)
    logits = ranker.logits(ranker.preprocessing(batch), batch, Places(rows, items))
    return logits[:, 0].double()


def _hide(batch: RankerBatch, rows: dict[str, Tensor], place: int, part: _Hidden) -> None:
    """Hide a part in one row of a batch, whose tensors are its own."""
    if part.view is not None:
        batch.present[part.view][place] = False
        batch.vectors[part.view][place] = 0
    if part.table is not None:
        rows[part.table][place] = -1
    if part.dense:
        batch.dense[place, list(part.dense)] = 0
        batch.dense_present[place, list(part.dense)] = False
    if batch.history is not None and (part.past or part.action is not None):
        items = batch.history.items
        items[place, slice(None) if part.action is None else part.action] = -1


def _attention(ranker: Ranker, row: RankerBatch) -> tuple[dict[str, list[float]], Tensor]:
    """Weights of the heads by facet, and of the past's actions (L + 1, H) with nothing last."""
    head = ranker.head
    if head is None:
        return {}, torch.zeros(0, 0)
    places = ranker.places(row)
    rows = {name: ranker.table(name)(each) for name, each in places.rows.items()}
    items = {name: ranker.table(name)(each) for name, each in places.items.items()}
    seen = head.look(row.vectors, row.present, rows, row.history, items)
    weights = {
        facet: seen.facets[0, place].tolist()
        for place, facet in enumerate((*head.facets, _NOTHING))
    }
    return weights, torch.zeros(0, 0) if seen.actions is None else seen.actions[0]


def _past_action(
    ranker: Ranker, row: RankerBatch, place: int, weights: Tensor, contribution: float
) -> PastAction:
    history, spec = row.history, ranker.config.history
    assert history is not None, "there is an action"
    assert spec is not None, "there is an action"
    return PastAction(
        pin=history.keys[int(history.items[0, place])].as_py(),
        kind=spec.kinds[int(history.kinds[0, place])],
        age_seconds=float(history.age_seconds[0, place]),
        attention=weights[place].tolist() if len(weights) else [],
        contribution=contribution,
    )


def _calibrated(ranker: Ranker, logits: Tensor) -> Tensor:
    scores = logits.float().sigmoid()
    curve = ranker.calibration.get("click")
    return scores if curve is None else curve(scores)


def one_row(batch: RankerBatch, place: int) -> RankerBatch:
    """A row of a batch with the items of its own past alone."""
    row = batch.take(torch.tensor([place]))
    history: History | None = row.history
    return row if history is None else replace(row, history=compact(history)[0])
