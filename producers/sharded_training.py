"""Training over several ranks: the entities' rows are spread over them, the relations on each.

At each step every rank takes a chunk of its own, so W chunks are trained as one synchronous step:
entities move by the sum of the chunks' gradients (row_shards.py), and so does each relation, by one
step of Adam that all ranks make alike. Where the chunks of an epoch do not divide by W, the last
step has ranks without a chunk: they only serve rows. Rank 0 leads: it keeps checkpoints, judges and
shows progress, and the rows come home to it whenever it needs them all.

Legend of shapes: N entities, W ranks, S rows of a shard, d dims, U rows of a chunk, P values of a
relation's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.producers import ranks
from provender.producers.chunks import EpochPlan
from provender.producers.parameters import Parameters
from provender.producers.ranks import Ranks
from provender.producers.row_shards import RowShards, collect, scatter
from provender.producers.training_state import TrainingState
from provender.producers.warm_start import Reference

if TYPE_CHECKING:
    from provender.producers.trainer import Run

#: Steps that one order of rank 0 is for.
_STEPS = 8
_NO_ROWS = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class ShardedTraining:
    """One rank's part: the rows of its shard, and all relations.

    In `state` the entities (S, d) and their squares (S,) are those of the shard; so is the
    reference in `run`.
    """

    here: Ranks
    run: Run
    state: TrainingState
    shards: RowShards

    @classmethod
    def of(cls, here: Ranks, run: Run, state: TrainingState) -> ShardedTraining:
        """Train the rows of a shard."""
        state.in_huge_pages()
        capacity = 2 * (run.config.chunk_size + run.config.negatives)
        shards = RowShards(state.parameters.entity, state.squares, capacity)
        return cls(here, run, state, shards)

    def train(self, plan: EpochPlan, chunks: range) -> list[tuple[int, float]]:
        """Train chunks in steps of W; returns each one's triples and mean loss, as `Run.step`.

        Ends early where a loss is no finite number, before that step changes anything.
        """
        done: list[tuple[int, float]] = []
        for first in range(chunks.start, chunks.stop, self.here.count):
            done += self._step(plan, chunks[first - chunks.start :][: self.here.count])
            if not all(math.isfinite(loss) for _, loss in done[-self.here.count :]):
                break
        return done

    def _step(self, plan: EpochPlan, group: range) -> list[tuple[int, float]]:
        """Train one chunk a rank, as long as there are chunks in the group."""
        own = group[self.here.rank] if self.here.rank < len(group) else None
        chunk = None if own is None else self.run.source.draw(plan, own)
        exchange = self.shards.ask(
            torch.zeros(0, dtype=torch.int64) if chunk is None else chunk.rows
        )
        of_rows = rows = self.shards.gather(exchange)
        news = News(-1, 0, 0.0, {})
        if chunk is not None:
            chunk = replace(chunk, place=exchange.place.index_select(0, chunk.place))
            loss, of_rows, of_relation = self.run.gradients(self.state, chunk, rows)
            news = News(chunk.relation, len(chunk.weight), loss, of_relation)
        told = News.shared(news, self.state.parameters)[: len(group)]
        if all(math.isfinite(each.loss) for each in told):
            got = self.shards.give_back(exchange, of_rows)
            here, values = exchange.here, self.shards.values.index_select(0, exchange.here)
            self.shards.update(*self.run.pulled(here, values, got), rate=self.run.rate)
            self._update_relations(told)
        return [(each.triples, each.loss) for each in told]

    def _update_relations(self, told: Sequence[News]) -> None:
        for relation in sorted({each.relation for each in told}):
            same = [each for each in told if each.relation == relation]
            triples = sum(each.triples for each in same)
            names = self.run.learned(relation, self.state.parameters)
            gradients = {name: _sum(each.gradients[name] for each in same) for name in names}
            self.run.update_relation(self.state, relation, triples, gradients)


class News(NamedTuple):
    """What a rank tells the others of its chunk; of no chunk: a relation of -1, no triples."""

    relation: int
    triples: int
    loss: float
    gradients: dict[str, Tensor]

    @classmethod
    def shared(cls, own: News, parameters: Parameters) -> list[News]:
        """Exchange it with all ranks, in one message (3 + P,) each; what is missing is zero."""
        shapes = {name: values.shape[1:] for name, values in sorted(parameters.relation.items())}
        parts = [
            own.gradients[name].flatten() if name in own.gradients else torch.zeros(shape.numel())
            for name, shape in shapes.items()
        ]
        first = torch.tensor([own.relation, own.triples, own.loss], dtype=torch.float32)
        messages = ranks.all_gather(torch.cat([first, *parts]))
        return [cls._read(message, shapes) for message in messages]

    @classmethod
    def _read(cls, message: Tensor, shapes: dict[str, torch.Size]) -> News:
        relation, triples, loss = message[:3].tolist()
        flat = message[3:].split([shape.numel() for shape in shapes.values()])
        gradients = {
            name: values.view(shape)
            for (name, shape), values in zip(shapes.items(), flat, strict=True)
        }
        return cls(int(relation), int(triples), loss, gradients)


class Leader:
    """Rank 0's crew of all ranks, in the place of threads (workers.py)."""

    def __init__(self, here: Ranks, run: Run, state: TrainingState) -> None:
        if run.source.device.type != "cpu":
            raise ConfigError(
                f"device {run.source.device} on {here.count} ranks",
                found="a GPU",
                expected="the CPU: several processes train on CPUs only",
                remedy="Use --device cpu, or one process.",
            )
        self._here, self._run, self._whole = here, run, state
        #: Chunks to hand over at once.
        self.block = _STEPS * here.count

    def __enter__(self) -> Leader:
        self._former = torch.get_num_threads()
        torch.set_num_threads(1)
        self._training = hand_out(self._here, self._run, self._whole)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch.set_num_threads(self._former)

    def train(self, plan: EpochPlan, chunks: range) -> list[tuple[int, float]]:
        """Have all ranks train these chunks; returns each one's triples and mean loss.

        Raises TrainingError if a loss is no finite number, and where a rank is gone.
        """
        self._here.post(do="train", epoch=plan.epoch, start=chunks.start, stop=chunks.stop)
        done = self._training.train(plan, chunks)
        for index, (_, loss) in zip(chunks, done, strict=False):
            if not math.isfinite(loss):
                raise self._run.not_finite(plan, index, loss)
        return done

    def settle(self) -> None:
        """Bring all rows home into the state that training started from."""
        self._here.post(do="settle")
        own = self._training.state
        collect(self._whole.parameters.entity, own.parameters.entity)
        collect(self._whole.squares, own.squares)


def hand_out(here: Ranks, run: Run, state: TrainingState) -> ShardedTraining:
    """Rank 0 sends each rank the graph, its rows and the relations, and keeps its own part.

    Relations and their moments stay the tensors of `state`.
    """
    graph, reference = run.source.graph, run.reference
    here.post(
        do="start",
        config=run.config.model_dump(mode="json"),
        relations=[[one.name, one.head, one.tail] for one in graph.relations],
        counts=graph.counts,
        edges=graph.edges,
        refresh=reference is not None,
    )
    for tensor in (graph.relation, graph.head, graph.tail, graph.weight, *replicated(state)):
        ranks.broadcast(tensor)
    shard = replace(
        state,
        parameters=replace(state.parameters, entity=scatter(state.parameters.entity)),
        squares=scatter(state.squares),
    )
    if reference is not None:
        run = replace(
            run, reference=Reference(scatter(reference.vectors), scatter(reference.known))
        )
    return ShardedTraining.of(here, run, shard)


def replicated(state: TrainingState) -> list[Tensor]:
    """What all ranks have alike, in the same order: relations' parameters, moments and steps."""
    names = sorted(state.moments)  # a checkpoint has an order of its own
    values = [state.parameters.relation[name] for name in names]
    return [*values, *(state.moments[name] for name in names), state.steps]


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    """In the order of ranks, so that all of them come to the same bits."""
    first, *others = tensors
    total = first.clone()
    for each in others:
        total += each
    return total
