"""Hard negatives: tails that look right for a triple and are wrong, drawn for that triple alone.

Two kinds are declared by relation. `from`: tails that the head has under another relation, such as
impressions that were shown and not clicked. `shared`: tails that share a neighbour of the true
tail under a structure relation, such as pins of the same advertiser. Neither kind is ever a tail
that the head is known to have.

Legend of shapes: N entities, B triples, H hard negatives a triple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers.graph import TripleGraph
from provender.producers.neighbours import LinkSet, Neighbours
from provender.producers.transra_config import HardNegatives, TransRAConfig


class HardSource(Protocol):
    """Where the hard negatives of one relation come from."""

    def draw(self, head: Tensor, tail: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tails for triples (B,): ids int64 (B, H), and bool (B, H) which of them are missing.

        What is missing holds the true tail.
        """


@dataclass(frozen=True, eq=False)
class OtherTails:
    """Tails of the head under another relation; `tails` holds none that is true."""

    tails: Neighbours
    count: int

    def draw(self, head: Tensor, tail: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As HardSource."""
        drawn, missing = _some(self.tails, head, self.count, generator)
        return torch.where(missing, tail.unsqueeze(1), drawn), missing


@dataclass(frozen=True, eq=False)
class SharingTails:
    """Tails of a group that the true tail belongs to, of one at random if there are several."""

    groups: Neighbours
    members: Neighbours
    true: LinkSet
    count: int

    def draw(self, head: Tensor, tail: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As HardSource."""
        group, alone = _some(self.groups, tail, 1, generator)
        drawn, missing = _some(self.members, group.squeeze(1), self.count, generator)
        missing |= alone | self.true.contains(head.unsqueeze(1), drawn)
        return torch.where(missing, tail.unsqueeze(1), drawn), missing


def hard_sources(
    graph: TripleGraph, config: TransRAConfig, device: torch.device
) -> dict[int, HardSource]:
    """The declared sources by relation; one that has no links at all is left out.

    Raises ConfigError for a relation that there is not, or whose ends do not fit.
    """
    links = _Links(graph, device)
    found = {
        graph.index_of(relation): links.source(relation, declared)
        for relation, declared in config.hard_negatives.items()
    }
    return {relation: source for relation, source in found.items() if source is not None}


class _Links:
    """The links that sources are made of: with those that are read and not learned from."""

    def __init__(self, graph: TripleGraph, device: torch.device) -> None:
        self.graph, self.device = graph.aside or graph, device

    def source(self, relation: str, declared: HardNegatives) -> HardSource | None:
        head, tail = self._ends(relation)
        true = LinkSet.of(head, tail, self.graph.entities)
        if declared.shared is not None:
            groups = self._groups(relation, declared.shared)
            return SharingTails(*groups, true, declared.count) if len(groups[0].own) else None
        shown = self._shown(relation, declared.shown or "")
        wrong = ~true.contains(*shown)
        tails = Neighbours.of(*(ends[wrong] for ends in shown))
        return OtherTails(tails, declared.count) if len(tails.own) else None

    def _shown(self, relation: str, other: str) -> tuple[Tensor, Tensor]:
        names = [self._entities(each) for each in (relation, other)]
        if names[0] != names[1]:
            raise _misfit(relation, other, " to ".join(names[1]), " to ".join(names[0]))
        return self._ends(other)

    def _groups(self, relation: str, other: str) -> tuple[Neighbours, Neighbours]:
        """The groups of each tail, and the tails of each group."""
        tail, ends = self._entities(relation)[1], self._entities(other)
        if tail not in ends:
            raise _misfit(relation, other, " to ".join(ends), f"a relation of {tail}")
        links = self._ends(other)
        tails, groups = links if ends[0] == tail else (links[1], links[0])
        return Neighbours.of(tails, groups), Neighbours.of(groups, tails)

    def _ends(self, relation: str) -> tuple[Tensor, Tensor]:
        of = self.graph.edges_of(self.graph.index_of(relation))
        return self.graph.head[of].to(self.device), self.graph.tail[of].to(self.device)

    def _entities(self, relation: str) -> tuple[str, str]:
        one = self.graph.relations[self.graph.index_of(relation)]
        return one.head, one.tail


def _some(
    neighbours: Neighbours, own: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` neighbours of each entity (B,), none twice: ids (B, count) and which are missing.

    They are successive ones from a random place on, so that each comes as often as the others.
    """
    first, size = (each.unsqueeze(1) for each in neighbours.spans(own))
    uniform = torch.rand(len(own), 1, dtype=torch.float64, generator=generator).to(own.device)
    step = torch.arange(count, device=own.device)
    place = ((uniform * size).long() + step) % size.clamp_min(1)
    at = (first + place).clamp_(max=len(neighbours.other) - 1)
    return neighbours.other[at], step >= size


def _misfit(relation: str, other: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"hard_negatives of {relation!r}",
        found=f"{other!r} from {found}",
        expected=expected,
        remedy="Name another relation.",
    )
