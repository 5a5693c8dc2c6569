"""Training of TransRA: chunks of one relation, by the loop of all producers.

Each epoch shuffles the edges within their relations, cuts chunks and shuffles the chunks. A chunk
gathers its rows once (heads, tails and the negatives of both sides, each entity once), makes one
product with M_r, scores all pairs by one GEMM a side, and updates those rows by row-wise Adagrad
and its relation by Adam. What a chunk costs does not depend on the number of entities.

Legend of shapes: N entities, R relations, d dims, B triples, U unique rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.plugin.row_adagrad import adagrad_rows
from provender.producers import ranks
from provender.producers.checkpoint import Position
from provender.producers.chunks import Chunk, ChunkSource, EpochPlan
from provender.producers.devices import pick_device
from provender.producers.gradients import Objective, chunk_gradients
from provender.producers.graph import TripleGraph, check_relations
from provender.producers.losses import pick_loss
from provender.producers.memory import keep_freed_memory
from provender.producers.optimizers import adam
from provender.producers.parameters import Parameters, principal_axes, rotate
from provender.producers.scores import SCORES, brain_float, single
from provender.producers.sharded_training import Leader
from provender.producers.training_loop import START, Checkpoints, Done, OnProgress, train_from
from provender.producers.training_state import TrainingState, anchor_of, fingerprint
from provender.producers.transra_config import TransRAConfig
from provender.producers.validation import Validation
from provender.producers.warm_start import Parent, Reference, align
from provender.producers.workers import Workers


def train(
    graph: TripleGraph,
    config: TransRAConfig,
    *,
    device: str = "auto",
    checkpoint_dir: Path | None = None,
    parent: Parent | None = None,
    validation: Validation | None = None,
    on_progress: OnProgress | None = None,
) -> Parameters:
    """Train on a graph and return the parameters, on the CPU.

    Starts from `parent` where there is one, else at random. With a `checkpoint_dir` a run that was
    stopped goes on where its newest whole checkpoint stands, if the configuration, the graph and
    the parent are the same; on the CPU with one thread the result is bit for bit that of an
    uninterrupted run. With a `validation` the parameters are those of its best epoch.

    Raises ConfigError (device, relation names, a parent that does not fit), TrainingError (no
    edges, a loss that is no number) and CheckpointError (every checkpoint is damaged).
    """
    _check_in_memory(config)
    run = Run.prepare(graph, config, pick_device(device), parent)
    state = TrainingState.start(graph, config, run.source.device, parent, run.reference)
    mark = fingerprint(graph, config, parent)
    checkpoints = Checkpoints(checkpoint_dir, mark, config.checkpoint_minutes)
    at = START
    if found := checkpoints.newest():
        state, at = state.restored(found), found.position
    state.in_huge_pages()
    keep_freed_memory()
    with _crew(run, state) as workers:
        training = _GraphTraining(run, state, workers, validation)
        train_from(at, training, checkpoints, on_progress=on_progress)
        workers.settle()
    state.check_finite(graph)
    parameters = state.best().to("cpu")
    if parent is None and config.principal_axes and "translation" in parameters.relation:
        parameters = rotate(parameters, principal_axes(parameters, graph))
    return parameters


@dataclass(frozen=True, eq=False)
class Run:
    """What stays the same during a training, on its device."""

    config: TransRAConfig
    source: ChunkSource
    objective: Objective
    anchor: int | None
    reference: Reference | None
    epochs: int
    rate: float

    @classmethod
    def prepare(
        cls, graph: TripleGraph, config: TransRAConfig, device: torch.device, parent: Parent | None
    ) -> Run:
        """Check that there is something to train on, and put it on the device."""
        check_trainable([one.name for one in graph.relations], graph.edges, config)
        reference = align(graph, config.dim, parent) if parent else None
        source = ChunkSource.prepare(graph, config, device)
        return cls.over(source, config, reference.to(device) if reference else None)

    @classmethod
    def over(cls, source: ChunkSource, config: TransRAConfig, reference: Reference | None) -> Run:
        """Over the chunks of a source; a refresh where there is a reference."""
        return cls(
            config=config,
            source=source,
            objective=Objective(
                score=SCORES[config.model],
                loss=pick_loss(config.loss, config.margin, config.adversarial_temperature),
                scale=config.score_scale,
                product=brain_float if config.precision == "bfloat16" else single,
            ),
            anchor=anchor_of(source.graph, config),
            reference=reference,
            epochs=config.refresh_epochs if reference else config.epochs,
            rate=config.refresh_learning_rate if reference else config.learning_rate,
        )

    def step(self, state: TrainingState, plan: EpochPlan, index: int) -> tuple[int, float]:
        """Train on one chunk; returns its triples and their mean loss.

        Raises TrainingError, and changes nothing, if the loss is no finite number.
        """
        chunk = self.source.draw(plan, index)
        rows = state.parameters.entity.index_select(0, chunk.rows)
        loss, of_rows, of_relation = self.gradients(state, chunk, rows)
        if not math.isfinite(loss):
            raise self.not_finite(plan, index, loss)
        ids, of_rows = self.pulled(chunk.rows, rows, of_rows)
        adagrad_rows(state.parameters.entity, state.squares, ids, of_rows, rate=self.rate)
        self.update_relation(state, chunk.relation, len(chunk.weight), of_relation)
        return len(chunk.weight), loss

    def gradients(
        self, state: TrainingState, chunk: Chunk, rows: Tensor
    ) -> tuple[float, Tensor, dict[str, Tensor]]:
        """The mean loss of a chunk's triples, and the gradients of its rows and its relation."""
        learned = self.learned(chunk.relation, state.parameters)
        relation = {name: state.parameters.relation[name][chunk.relation] for name in learned}
        losses, of_rows, of_relation = chunk_gradients(rows, relation, chunk, self.objective)
        return float(losses @ chunk.weight) / len(losses), of_rows, of_relation

    def learned(self, relation: int, parameters: Parameters) -> list[str]:
        """The parameters of a relation; the anchor's projection stays the identity."""
        fixed = "deviation" if relation == self.anchor else None
        return [name for name in parameters.relation if name != fixed]

    def pulled(self, ids: Tensor, values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and gradients with the anchors' pull, or without the rows that are held fast."""
        if self.config.shrinkage:
            gradient = gradient.add_(values, alpha=2 * self.config.shrinkage)
        if self.reference is not None:
            known = self.reference.known.index_select(0, ids)
            if self.config.anchor_entities == "frozen":
                ids, gradient = ids[~known], gradient[~known]
            elif self.config.anchor_entities == "tether":
                away = values - self.reference.vectors.index_select(0, ids)
                pull = 2 * self.config.tether * away
                gradient = gradient + torch.where(known.unsqueeze(1), pull, 0.0)
        return ids, gradient

    def update_relation(
        self, state: TrainingState, relation: int, triples: int, gradients: dict[str, Tensor]
    ) -> None:
        """One step of Adam by the gradients of so many triples, which it may write into."""
        config = self.config
        state.steps[relation] += 1
        step = int(state.steps[relation])
        for name, gradient in gradients.items():
            value = state.parameters.relation[name][relation]
            if name == "deviation" and config.deviation_shrinkage:
                gradient.add_(value, alpha=2 * config.deviation_shrinkage * triples)
            moments = state.moments[name][relation]
            adam(value, moments, gradient, step, rate=config.relation_learning_rate)

    def not_finite(self, plan: EpochPlan, index: int, loss: float) -> TrainingError:
        """What to raise where a chunk's loss is no finite number."""
        graph = self.source.graph
        relation = graph.relations[int(graph.relation[plan.chunks[index][0]])].name
        return TrainingError(
            f"epoch {plan.epoch}, batch {index}, relation {relation!r}",
            found=f"a loss of {loss}",
            expected="a finite loss",
            remedy="Lower learning_rate or score_scale.",
        )


@dataclass(frozen=True, eq=False)
class _GraphTraining:
    """What the loop trains: chunks that workers take, some at a time."""

    run: Run
    state: TrainingState
    workers: Workers | Leader
    validation: Validation | None

    def goes_on(self, epoch: int) -> bool:
        over = self.validation is not None and self.validation.over(self.state.curve)
        return epoch < self.run.epochs and not over

    def epoch(self, at: Position) -> tuple[int, Iterator[Done]]:
        config = self.run.config
        plan = EpochPlan.cut(self.run.source.graph, config.chunk_size, config.seed, at.epoch)
        return self.run.epochs * len(plan.chunks), self._trained(plan, at.chunk)

    def _trained(self, plan: EpochPlan, start: int) -> Iterator[Done]:
        chunks = range(start, len(plan.chunks))
        for first in range(0, len(chunks), self.workers.block):
            block = chunks[first : first + self.workers.block]
            yield Done.together(self.workers.train(plan, block))

    def judge(self, epoch: int) -> float | None:
        if self.validation is None or not self.validation.due(epoch, self.run.epochs):
            return None
        self.workers.settle()
        self.state.judged(self.validation.judge(self.state.parameters))
        return self.state.curve[-1]

    def tensors(self) -> dict[str, Tensor]:
        self.workers.settle()
        # A run would go on from what are no numbers.
        self.state.check_finite(self.run.source.graph)
        return self.state.tensors()


def _crew(run: Run, state: TrainingState) -> Workers | Leader:
    """Who trains: all ranks where this process leads several, else threads of its own."""
    if here := ranks.current():
        if run.source.graph.aside is not None:
            raise ConfigError(
                "hard_negatives",
                found=f"a training over {here.count} processes",
                expected="one process: only one has the links that they are made of",
                remedy="Leave hard_negatives out, or train in one process.",
            )
        return Leader(here, run, state)
    return Workers(run.config.cpu_threads, run.source.device, partial(run.step, state))


def check_trainable(relations: Sequence[str], edges: int, config: TransRAConfig) -> None:
    """Raise ConfigError or TrainingError for what can't be trained."""
    check_relations(list(config.relations or {}), relations)
    if config.model in ("rotate", "complex") and config.dim % 2:
        raise ConfigError(
            f"dim of {config.model}",
            found=str(config.dim),
            expected="an even number: half of it are real parts, half imaginary",
            remedy="Choose an even dim.",
        )
    if not edges:
        raise TrainingError(
            "graph",
            found="no edges",
            expected="at least one event before the as-of date",
            remedy="Check the as-of date and the events' `where` in the world file.",
        )


def _check_in_memory(config: TransRAConfig) -> None:
    if config.partitions > 1:
        raise ConfigError(
            "partitions",
            found=str(config.partitions),
            expected="1 where a table is trained in memory: `produce` and `refresh` train larger "
            "ones from disk",
            remedy="Leave it out, or call producers.disk_training.train_on_disk.",
        )
