"""How often the pins that users come to like are among the first of all pins for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.producers.pin_ranking import Pairs, Ranks, as_matrix, cosines, popularity, rank
from provender.producers.upstream.task_scores import Scored
from provender.producers.upstream.tower_quality import KS, POPULARITY, RANDOM
from provender.producers.upstream.tower_set import TowerSet
from provender.producers.vectors import Vectors

Ints = NDArray[np.int64]
#: Pairs that are judged, drawn where there are more.
MOST = 20_000


@dataclass(frozen=True)
class PairRecall:
    """Recall@k by who ranks, of so many pairs, each pin among so many candidates."""

    recall: Mapping[str, Mapping[int, float]]
    pairs: int
    candidates: int


def recall_of(
    vectors: Mapping[str, Vectors],
    learned: TowerSet,
    later: TowerSet,
    scored: Scored,
    liked: Sequence[str],
    nested_dims: Sequence[int] = (),
) -> PairRecall:
    """Rank all pins with a vector for users with one, and look for what they like later.

    A user's pins that were learned from as positives, and his other pairs to find, are no
    candidates; pairs of users or pins without a vector can't be found and are passed over.

    Args:
        vectors: of `user` and `pin`, as of the cut.
        learned: what was learned from.
        later, scored: what followed, and its labels.
        liked: the tasks whose positives count.
        nested_dims: prefixes to judge too.
    """
    users, pins = vectors["user"], vectors["pin"]
    shape = (len(users.keys), len(pins.keys))
    known = _placed(vectors, learned, *_positives(learned, liked))
    columns = [scored.tasks.index(task) for task in liked]
    positive = (scored.labels[:, columns] > 0).any(axis=1)
    found = _placed(vectors, later, scored.user[positive], scored.pin[positive])
    left_out = as_matrix(known, *shape)
    new = as_matrix(found, *shape) > left_out
    asked = Pairs(*(each.astype(np.int64) for each in new.nonzero()))
    if not len(asked.rows):
        return PairRecall({}, 0, shape[1])
    if len(asked.rows) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(len(asked.rows), MOST, replace=False))
        asked = Pairs(asked.rows[chosen], asked.pins[chosen])
    dims = (users.dim, *sorted(nested_dims, reverse=True))
    recall = {
        f"{dim} dims": _recall(rank(cosines(users.vectors, pins.vectors, dim), asked, left_out))
        for dim in dims
    }
    recall[POPULARITY] = _recall(rank(popularity(known, shape[1]), asked, left_out))
    level = np.full(len(asked.rows), shape[1], np.int64)
    recall[RANDOM] = _recall(Ranks(np.zeros_like(level), level))
    return PairRecall(recall, len(asked.rows), shape[1])


def _recall(ranks: Ranks) -> dict[int, float]:
    return {k: float(ranks.hits(k).mean()) for k in KS}


def _positives(rows: TowerSet, liked: Sequence[str]) -> tuple[Ints, Ints]:
    """Users and pins, by number, of the rows with a positive of one of some tasks."""
    labels = [f"label_{task}" for task in liked]
    table = pq.read_table(rows.examples, columns=["user", "pin", *labels])
    positive = np.zeros(len(table), np.bool_)
    for name in labels:
        positive |= pc.fill_null(table[name], 0).to_numpy() > 0
    users, pins = (table[name].to_numpy()[positive].astype(np.int64) for name in ("user", "pin"))
    return users, pins


def _placed(vectors: Mapping[str, Vectors], rows: TowerSet, users: Ints, pins: Ints) -> Pairs:
    """Pairs by number in a tower set as rows of vectors, those that have both, each once."""
    places = []
    for entity, numbers in (("user", users), ("pin", pins)):
        found = pc.index_in(rows.keys(entity), value_set=vectors[entity].keys)
        places.append(np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)[numbers])
    both = (places[0] >= 0) & (places[1] >= 0)
    pairs = np.unique(np.stack([each[both] for each in places]), axis=1)
    return Pairs(*pairs)
