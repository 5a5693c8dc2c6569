"""Where training starts: random rows, or a parent's vectors by key, which then are the anchors.

The parent is the last refresh, so that refreshes stay in one space, or another model's vectors for
some entity types (PinSage's for pins), so that the spaces fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from provender.plugin.errors import CheckpointError, ConfigError
from provender.producers.graph import TripleGraph
from provender.producers.mapped_rows import BLOCK
from provender.producers.optimizer_state import OptimizerState
from provender.producers.parameters import Parameters
from provender.producers.scores import first_values
from provender.producers.vanished import Vanished
from provender.producers.vectors import Vectors


@dataclass(frozen=True, eq=False)
class Parent:
    """The last refresh: vectors by entity type, and parameters by relation where known.

    `state` is that of its optimizers, the squares in the order of `vectors`; None begins afresh.
    `vanished` are entities that it has kept aside: no vector of theirs is among `vectors`.
    """

    vectors: Mapping[str, Vectors]
    relations: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    state: OptimizerState | None = None
    vanished: Mapping[str, Vanished] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: Parameters, graph: TripleGraph) -> Parent:
        """What a finished training hands to the next."""
        return cls(
            {entity: parameters.vectors(graph, entity) for entity in graph.keys},
            parameters.by_name(graph),
        )

    def parameters(self, graph: TripleGraph, model: str) -> Parameters:
        """The parameters again, for the graph that they were learned from.

        Raises CheckpointError where they are those of another graph, or not all of them.
        """
        for entity, keys in graph.keys.items():
            if entity not in self.vectors or not self.vectors[entity].keys.equals(keys):
                raise CheckpointError(
                    f"vectors of {entity!r} from the parent",
                    found="other keys" if entity in self.vectors else "none",
                    expected="a vector for each entity of its events",
                    remedy="Remove the run's folder; its refresh is then computed again.",
                )
        entities = [torch.from_numpy(np.array(self.vectors[each].vectors)) for each in graph.keys]
        dim = entities[0].shape[1]
        return Parameters(model, torch.cat(entities), first_relations(graph, model, dim, self))

    def known(self) -> list[tuple[str, Vectors]]:
        """The vectors by entity type, of those kept aside as well, each key once."""
        aside = [(entity, gone.vectors) for entity, gone in sorted(self.vanished.items())]
        return sorted(self.vectors.items()) + aside

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over everything that training looks at."""
        digest = hashlib.sha256()
        for entity, vectors in self.known():
            digest.update(f"{entity}\0{vectors.vectors.shape}\0".encode())
            digest.update(pa.record_batch([vectors.keys], names=["key"]).serialize())
            digest.update(np.ascontiguousarray(vectors.vectors, dtype=np.float32).data)
        for name, tensors in sorted(self.relations.items()):
            digest.update(f"{name}\0".encode())
            for part, tensor in sorted(tensors.items()):
                digest.update(f"{part}\0".encode())
                digest.update(tensor.contiguous().numpy().data)
        for name, tensor in self.state.tensors() if self.state else ():
            digest.update(f"{name}\0".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Reference:
    """The anchor entities: `vectors` float32 (N, d), meaningful where `known` bool (N,) is."""

    vectors: Tensor
    known: Tensor

    def to(self, device: torch.device | str) -> Reference:
        """The same on another device."""
        return Reference(self.vectors.to(device), self.known.to(device))


def align(graph: TripleGraph, dim: int, parent: Parent | None) -> Reference:
    """Look up every entity of the graph in the parent, by key; ConfigError if they do not fit."""
    vectors = torch.zeros(graph.entities, dim)
    known = torch.zeros(graph.entities, dtype=torch.bool)
    for entity, former in parent.known() if parent else ():
        if entity not in graph.keys or not len(former.keys):
            continue
        _check_fit(entity, former, graph.keys[entity].type, dim)
        found, rows = _places(graph.keys[entity], former)
        here = graph.span(entity)
        for at in found.nonzero()[:, 0].split(BLOCK):
            values = former.vectors[rows[at].numpy()].astype(np.float32, copy=False)
            vectors[here][at] = torch.from_numpy(values)
        known[here] |= found
    return Reference(vectors, known)


def random_entities(count: int, dim: int, norm: float, generator: torch.Generator) -> Tensor:
    """Random rows (N, d) whose expected length is `norm`."""
    return torch.randn(count, dim, generator=generator).mul_(norm / dim**0.5)


def first_entities(
    graph: TripleGraph, reference: Reference, norm: float, generator: torch.Generator
) -> Tensor:
    """The first rows (N, d): the parent's, else the mean of known neighbours, else random.

    A new entity also gets a tenth of the random vector, so that twins can part.
    """
    count, dim = reference.vectors.shape
    rows = random_entities(count, dim, norm, generator)
    new, mean = _neighbour_means(graph, reference)
    rows[new] = mean.add_(rows[new], alpha=0.1)
    blocks = (each.split(BLOCK) for each in (rows, reference.vectors, reference.known))
    for own, former, known in zip(*blocks, strict=True):
        own[known] = former[known]
    return rows


def first_squares(graph: TripleGraph, parent: Parent | None, kept: float) -> Tensor:
    """Row-wise Adagrad's first sums (N,): so much of the parent's, zero for who is new."""
    squares = torch.zeros(graph.entities)
    for entity, former in (parent.state.squares if parent and parent.state else {}).items():
        if entity in graph.keys and parent and len(former):
            found, rows = _places(graph.keys[entity], parent.vectors[entity])
            squares[graph.span(entity)] = torch.where(found, kept * former[rows], 0.0)
    return squares


def first_relations(
    graph: TripleGraph, model: str, dim: int, parent: Parent | None
) -> dict[str, Tensor]:
    """The first parameters (R, ...) of the relations: the parent's, else as they start."""
    first = first_values(model, len(graph.relations), dim)
    for index, one in enumerate(graph.relations):
        for name, known in (parent.relations.get(one.name, {}) if parent else {}).items():
            if name not in first:
                continue  # Of another model.
            if known.shape != first[name][index].shape:
                found = f"{name} of shape {tuple(known.shape)}"
                raise _misfit(f"relation {one.name!r} of the parent", found, dim)
            first[name][index] = known
    return first


def save_relations(path: Path, parameters: Parameters, graph: TripleGraph) -> None:
    """Write what snapshots do not hold, the parameters of every relation, as safetensors."""
    tensors = {
        f"{relation}/{name}": values.clone()
        for relation, own in parameters.by_name(graph).items()
        for name, values in own.items()
    }
    beside = path.with_name(f".{path.name}.part")
    save_file(tensors, beside)
    beside.replace(path)


def load_relations(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read what `save_relations` wrote; raises CheckpointError."""
    found: dict[str, dict[str, Tensor]] = {}
    try:
        for key, values in sorted(load_file(path).items()):
            relation, _, name = key.rpartition("/")
            found.setdefault(relation, {})[name] = values
        return found
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(path),
            found=str(error),
            expected="the relations of a finished run",
            remedy="Delete the file; the next run then learns the relations anew.",
        ) from None


def _places(keys: Any, former: Vectors) -> tuple[Tensor, Tensor]:
    """Which keys (n,) the former vectors have, and at which rows (0 where they don't)."""
    position = pc.index_in(keys, value_set=former.keys)
    found = torch.from_numpy(np.array(position.is_valid()))
    return found, torch.from_numpy(position.fill_null(0).to_numpy().astype(np.int64))


def _neighbour_means(graph: TripleGraph, reference: Reference) -> tuple[Tensor, Tensor]:
    """Unknown entities (n,) that have known neighbours, and those neighbours' weighted means."""
    ends = (graph.head, graph.tail), (graph.tail, graph.head)
    edges = [(reference.known[old] & ~reference.known[new]).nonzero()[:, 0] for new, old in ends]
    near = torch.cat([new[edge] for (new, _), edge in zip(ends, edges, strict=True)])
    entities, place = near.unique(return_inverse=True)
    total = torch.zeros(len(entities), reference.vectors.shape[1])
    weight = torch.zeros(len(entities))
    places = place.split([len(edge) for edge in edges])
    for (_, old), edge, at in zip(ends, edges, places, strict=True):
        for some, row in zip(edge.split(BLOCK), at.split(BLOCK), strict=True):
            own = graph.weight[some]
            vectors = reference.vectors.index_select(0, old[some]).mul_(own.unsqueeze(1))
            total.index_add_(0, row, vectors)
            weight.index_add_(0, row, own)
    met = weight > 0  # Edges may weigh nothing.
    return entities[met], total[met].div_(weight[met].unsqueeze(1))


def _check_fit(entity: str, former: Vectors, key_type: Any, dim: int) -> None:
    if former.dim != dim:
        raise _misfit(f"vectors of {entity!r} from the parent", f"dim {former.dim}", dim)
    if former.keys.type != key_type:
        raise ConfigError(
            f"keys of {entity!r} from the parent",
            found=str(former.keys.type),
            expected=str(key_type),
            remedy="Declare the entity's key type as it was, or start a new version.",
        )


def _misfit(thing: str, found: str, dim: int) -> ConfigError:
    remedy = "Set `dim` as it was, or start a new version without a parent."
    return ConfigError(thing, found=found, expected=f"dim {dim}", remedy=remedy)
