"""The typed triples of one as-of date: merged, decayed, capped, with one id space for all types.

Entities of all types share one range of *global* ids, so that a model keeps one matrix of rows:
global id = offset of the entity's type + id within its type. Edges lie sorted by
(relation, head, tail), which makes everything built from them repeatable.

Shapes: E edges, N entities of all types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError

_DAY_US = 86_400_000_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class RelationType(Protocol):
    """What a graph needs to know of a relation: its name and the entity types at its ends."""

    @property
    def name(self) -> str:
        """The event's name in the mapping, such as `click`."""

    @property
    def head(self) -> str:
        """The entity type of heads."""

    @property
    def tail(self) -> str:
        """The entity type of tails."""


@dataclass(frozen=True, eq=False)
class TripleGraph:
    """Merged triples: `head`, `tail`, `relation` int64 (E,) and `weight` float32 (E,) > 0.

    `relation` is the position in `relations`, the same as in the events that the graph was built
    from; a relation that was not chosen simply has no edges. `keys` gives, by entity type, the
    user's key of each id. `aside` has edges that are read and not learned from.
    """

    relations: tuple[RelationType, ...]
    keys: Mapping[str, pa.Array[Any]]
    head: Tensor
    tail: Tensor
    relation: Tensor
    weight: Tensor
    aside: TripleGraph | None = None

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of entities of each type."""
        return {entity: len(keys) for entity, keys in self.keys.items()}

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The first global id of each entity type."""
        return _offsets(self.counts)

    @property
    def entities(self) -> int:
        """N, the number of entities of all types."""
        return sum(self.counts.values())

    @property
    def edges(self) -> int:
        """E, the number of merged edges."""
        return len(self.head)

    def span(self, entity: str) -> slice:
        """The global ids of one entity type."""
        start = self.offsets[entity]
        return slice(start, start + self.counts[entity])

    def edges_of(self, relation: int) -> slice:
        """Where the edges of one relation lie."""
        ends = torch.searchsorted(self.relation, torch.tensor([relation, relation + 1]))
        return slice(int(ends[0]), int(ends[1]))

    def index_of(self, relation: str) -> int:
        """The position of a relation by its name; ConfigError if there is none."""
        names = [one.name for one in self.relations]
        check_relations([relation], names)
        return names.index(relation)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over everything: two graphs that share it train to the same vectors."""
        digest = hashlib.sha256()
        for one in self.relations:
            digest.update(f"{one.name}\0{one.head}\0{one.tail}\0".encode())
        for entity, keys in self.keys.items():
            digest.update(f"{entity}\0{len(keys)}\0".encode())
            digest.update(pa.record_batch([keys], names=["key"]).serialize())
        for tensor in (self.relation, self.head, self.tail, self.weight):
            digest.update(tensor.contiguous().numpy().data)
        if self.aside is not None:
            digest.update(self.aside.fingerprint.encode())
        return digest.hexdigest()


def build_graph(
    triples: pa.Table,
    relations: Sequence[RelationType],
    keys: Mapping[str, pa.Array[Any]],
    *,
    as_of: datetime,
    half_life_days: float | None = None,
    degree_cap: int | None = None,
    chosen: Collection[str] | None = None,
    aside: Collection[str] = (),
) -> TripleGraph:
    """Merge the triples of an event set into a graph as of `as_of`.

    `triples` has the columns relation, head, tail (ids within their type), time (null for
    structure) and weight. Events decay by 0.5 ** (age / half life); structure does not. The
    weights of the same (relation, head, tail) are summed. Then each (relation, head) keeps its
    `degree_cap` heaviest edges, and each (relation, tail) its heaviest of those left; ties go to
    the smaller id. `chosen` names the relations to keep (None: all). Those that `aside` names are
    kept, without a cap, in the graph's `aside`.

    Raises ConfigError for an unknown name in `chosen` or `aside`, TrainingError for a weight that
    is negative or no number and for a time at or after `as_of`.
    """
    relation, head, tail = (_ints(triples, name) for name in ("relation", "head", "tail"))
    weight = _decayed(triples, relations, as_of, half_life_days)
    names = [one.name for one in relations]

    def merged(chosen: Collection[str] | None) -> _Edges:
        keep = weight > 0
        if chosen is not None:
            check_relations(chosen, names)
            keep &= np.isin(relation, [names.index(name) for name in chosen])
        return _merged(relation[keep], head[keep], tail[keep], weight[keep])

    edges = merged(chosen)
    if degree_cap is not None:
        edges = _capped(edges, by_head=True, cap=degree_cap)
        edges = _capped(edges, by_head=False, cap=degree_cap)
    graph = _as_graph(edges, relations, keys)
    return replace(graph, aside=_as_graph(merged(aside), relations, keys)) if aside else graph


def degrees(graph: TripleGraph) -> Tensor:
    """The number of edges at each entity, as head or as tail: int64 (N,)."""
    both = torch.cat([graph.head, graph.tail])
    return torch.bincount(both, minlength=graph.entities)


def check_relations(names: Collection[str], known: Sequence[str]) -> None:
    """Raise ConfigError for a relation that the events do not have."""
    for name in names:
        if name not in known:
            raise ConfigError(
                "relation",
                found=repr(name),
                expected=f"one of {', '.join(known)}",
                remedy="Correct the name, or declare the event in the world file.",
            )


_Edges = tuple[Ints, Ints, Ints, Floats]


def _offsets(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))


def _ints(triples: pa.Table, name: str) -> Ints:
    return np.asarray(triples.column(name).to_numpy(), dtype=np.int64)


def _decayed(
    triples: pa.Table,
    relations: Sequence[RelationType],
    as_of: datetime,
    half_life_days: float | None,
) -> Floats:
    weight: Floats = np.asarray(triples.column("weight").to_numpy(), dtype=np.float64)
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        first = int(bad.argmax())
        raise TrainingError(
            f"relation {relations[triples.column('relation')[first].as_py()].name!r}",
            found=f"weight {weight[first]} ({int(bad.sum())} such rows)",
            expected="finite weights of zero or more",
            remedy="Correct the event's `weight` in the world file.",
        )
    time = triples.column("time")
    structure = np.asarray(time.is_null())
    stamps = time.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).fill_null(0).to_numpy()
    age = np.where(structure, 0, round(as_of.timestamp() * 1e6) - stamps)
    if (~structure & (age <= 0)).any():
        raise TrainingError(
            "graph",
            found=f"{int((~structure & (age <= 0)).sum())} events at or after {as_of.isoformat()}",
            expected="events before the as-of date only",
            remedy="Build the graph from the event set that was read as of the same date.",
        )
    if half_life_days is None:
        return weight
    return np.asarray(weight * 0.5 ** (age / (half_life_days * _DAY_US)), dtype=np.float64)


def _merged(relation: Ints, head: Ints, tail: Ints, weight: Floats) -> _Edges:
    order = np.lexsort((tail, head, relation))
    relation, head, tail, weight = relation[order], head[order], tail[order], weight[order]
    first = _starts(relation, head, tail)
    sums = np.add.reduceat(weight, first) if len(first) else weight
    return relation[first], head[first], tail[first], sums


def _capped(edges: _Edges, *, by_head: bool, cap: int) -> _Edges:
    """At most `cap` heaviest edges per (relation, head or tail), in the order they came."""
    relation, head, tail, weight = edges
    group, other = (head, tail) if by_head else (tail, head)
    order = np.lexsort((other, -weight, group, relation))
    starts = _starts(relation[order], group[order])
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    kept = np.sort(order[rank < cap])
    return relation[kept], head[kept], tail[kept], weight[kept]


def _starts(*columns: Ints) -> Ints:
    """Where a run of equal rows begins, in sorted columns."""
    if not len(columns[0]):
        return np.zeros(0, dtype=np.int64)
    changed = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(np.concatenate([[True], changed]))


def _as_graph(
    edges: _Edges, relations: Sequence[RelationType], keys: Mapping[str, pa.Array[Any]]
) -> TripleGraph:
    relation, head, tail, weight = edges
    offsets = _offsets({entity: len(values) for entity, values in keys.items()})
    heads = np.array([offsets[one.head] for one in relations], dtype=np.int64)
    tails = np.array([offsets[one.tail] for one in relations], dtype=np.int64)
    single = weight.astype(np.float32)
    whole = single > 0  # a decayed weight may vanish in float32
    relation = relation[whole]
    return TripleGraph(
        relations=tuple(relations),
        keys=dict(keys),
        head=torch.from_numpy(head[whole] + heads[relation]),
        tail=torch.from_numpy(tail[whole] + tails[relation]),
        relation=torch.from_numpy(relation),
        weight=torch.from_numpy(single[whole]),
    )
