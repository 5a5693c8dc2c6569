"""Training TransRA: one visible loop over chunks of one relation.

Each epoch shuffles the edges within their relations, cuts chunks and shuffles the chunks. A chunk
gathers its rows once (heads, tails and the negatives of both sides, each entity once), makes one
product with M_r, scores all pairs by one GEMM a side, and updates those rows by row-wise Adagrad
and its relation by Adam. What a chunk costs does not depend on the number of entities.

Legend of shapes: N entities, R relations, d dims, B triples, K shared negatives, U gathered rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers.checkpoint import (
    Checkpoint,
    Position,
    load_checkpoint,
    save_checkpoint,
)
from provender.producers.chunks import (
    Chunk,
    ChunkSource,
    Loss,
    chunk_losses,
    cut_chunks,
    epoch_generator,
    pick_loss,
)
from provender.producers.graph import TripleGraph, check_relations
from provender.producers.optimizers import adagrad_rows, adam
from provender.producers.transra import TransRAParameters, principal_axes, rotate
from provender.producers.transra_config import TransRAConfig
from provender.producers.warm_start import (
    Parent,
    Reference,
    align,
    first_entities,
    first_relations,
)

#: (chunks done, chunks in all, mean loss of the last chunk's triples)
OnProgress = Callable[[int, int, float], None]


def train(
    graph: TripleGraph,
    config: TransRAConfig,
    *,
    device: str = "auto",
    checkpoint_dir: Path | None = None,
    parent: Parent | None = None,
    on_progress: OnProgress | None = None,
) -> TransRAParameters:
    """Train on a graph and return the parameters, on the CPU.

    Starts from `parent` where there is one, else at random. With a `checkpoint_dir` a run that was
    stopped goes on where its newest whole checkpoint stands, if the configuration, the graph and
    the parent are the same; on the CPU the result is bit for bit that of an uninterrupted run.

    Raises ConfigError (device, relation names, a parent that does not fit), TrainingError (no
    edges, a loss that is no number) and CheckpointError (every checkpoint is damaged).
    """
    place = pick_device(device)
    run = _Run.prepare(graph, config, place, parent)
    fingerprint = _fingerprint(graph, config, parent)
    with _threads(config.cpu_threads, place):
        state = _State.start(graph, config, place, parent)
        at = Position(0, 0, 0)
        if checkpoint_dir and (found := load_checkpoint(checkpoint_dir, fingerprint)):
            state, at = state.restored(found), found.position

        while at.epoch < run.epochs:
            generator = epoch_generator(config.seed, at.epoch)
            chunks = cut_chunks(graph, config.chunk_size, generator)
            if at.chunk:
                generator.set_state(state.generator)
            total = run.epochs * len(chunks)
            for index in range(at.chunk, len(chunks)):
                chunk = run.source.draw(chunks[index], generator)
                loss = _train_chunk(run, state, chunk)
                step = at.step + 1
                if not math.isfinite(loss):
                    raise _not_finite(graph, chunk, at, loss)
                at = Position(at.epoch, index + 1, step)
                if checkpoint_dir and step % config.checkpoint_every == 0 and step < total:
                    state.generator = generator.get_state()
                    save_checkpoint(checkpoint_dir, fingerprint, Checkpoint(at, state.tensors()))
                if on_progress:
                    on_progress(step, total, loss)
            at = Position(at.epoch + 1, 0, at.step)

        _check_finite(state, graph)
        if checkpoint_dir:
            save_checkpoint(checkpoint_dir, fingerprint, Checkpoint(at, state.tensors()))
        parameters = state.parameters.to("cpu")
        if parent is None and config.principal_axes:
            parameters = rotate(parameters, principal_axes(parameters, graph))
    return parameters


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; ConfigError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"a device of type {device.type}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r}",
            found=str(error).splitlines()[0],
            expected="auto, cpu or a CUDA device of this machine",
            remedy="Choose another device.",
        ) from None
    return device


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same during a training, on its device."""

    config: TransRAConfig
    source: ChunkSource
    anchor: int | None
    reference: Reference | None
    loss: Loss
    epochs: int
    rate: float

    @classmethod
    def prepare(
        cls, graph: TripleGraph, config: TransRAConfig, device: torch.device, parent: Parent | None
    ) -> _Run:
        _check_trainable(graph, config)
        reference = align(graph, config.dim, parent) if parent else None
        if reference:
            reference = Reference(reference.vectors.to(device), reference.known.to(device))
        return cls(
            config=config,
            source=ChunkSource.prepare(graph, config, device),
            anchor=_anchor(graph, config),
            reference=reference,
            loss=pick_loss(config),
            epochs=config.refresh_epochs if parent else config.epochs,
            rate=config.refresh_learning_rate if parent else config.learning_rate,
        )


@dataclass(eq=False)
class _State:
    """What training changes, and a checkpoint holds."""

    parameters: TransRAParameters
    squares: Tensor  # (N,) of Adagrad
    translation_moments: Tensor  # (R, 2, d) of Adam
    deviation_moments: Tensor  # (R, 2, d, d)
    steps: Tensor  # (R,) int64, on the CPU
    generator: Tensor  # its state, uint8

    @classmethod
    def start(
        cls, graph: TripleGraph, config: TransRAConfig, device: torch.device, parent: Parent | None
    ) -> _State:
        generator = epoch_generator(config.seed, -1)
        reference = align(graph, config.dim, parent)
        entity = first_entities(graph, reference, config.init_norm, generator)
        translation, deviation = first_relations(graph, config.dim, _anchor(graph, config), parent)
        relations, dim = translation.shape
        return cls(
            parameters=TransRAParameters(entity, translation, deviation).to(device),
            squares=torch.zeros(len(entity), device=device),
            translation_moments=torch.zeros(relations, 2, dim, device=device),
            deviation_moments=torch.zeros(relations, 2, dim, dim, device=device),
            steps=torch.zeros(relations, dtype=torch.int64),
            generator=generator.get_state(),
        )

    def tensors(self) -> dict[str, Tensor]:
        return {
            "entity": self.parameters.entity,
            "translation": self.parameters.translation,
            "deviation": self.parameters.deviation,
            "squares": self.squares,
            "translation_moments": self.translation_moments,
            "deviation_moments": self.deviation_moments,
            "steps": self.steps,
            "generator": self.generator,
        }

    def restored(self, checkpoint: Checkpoint) -> _State:
        """The checkpoint's state, each tensor on the device where its namesake is."""
        held = {
            name: checkpoint.tensors[name].to(tensor.device)
            for name, tensor in self.tensors().items()
        }
        parameters = TransRAParameters(
            held.pop("entity"), held.pop("translation"), held.pop("deviation")
        )
        return _State(parameters, **held)


def _train_chunk(run: _Run, state: _State, chunk: Chunk) -> float:
    """One step; returns the mean loss of the chunk's triples, and changes nothing if it is bad."""
    config, relation = run.config, chunk.relation
    rows = state.parameters.entity.index_select(0, chunk.rows).requires_grad_()
    r = state.parameters.translation[relation].clone().requires_grad_()
    D = None
    if relation != run.anchor:
        D = state.parameters.deviation[relation].clone().requires_grad_()
    triple_losses = chunk_losses(rows, r, D, chunk, run.loss, config.score_scale)
    total = (chunk.weight * triple_losses).sum()
    mean = total.item() / len(chunk.weight)
    if not math.isfinite(mean):
        return mean
    if D is not None and config.deviation_shrinkage:
        total = total + config.deviation_shrinkage * len(chunk.weight) * D.square().sum()
    gradients = torch.autograd.grad(total, [rows, r] if D is None else [rows, r, D])
    _update_entities(run, state, chunk.rows, rows.detach(), gradients[0])
    state.steps[relation] += 1
    step, rate = int(state.steps[relation]), config.relation_learning_rate
    changed = [(state.parameters.translation, state.translation_moments)]
    changed += [(state.parameters.deviation, state.deviation_moments)]
    for (value, moments), gradient in zip(changed, gradients[1:], strict=False):
        adam(value[relation], moments[relation], gradient, step, rate=rate)
    return mean


def _update_entities(
    run: _Run, state: _State, ids: Tensor, values: Tensor, gradient: Tensor
) -> None:
    """Adagrad on the rows of a chunk, with the anchors' pull or without the rows held fast."""
    gradient = gradient + 2 * run.config.shrinkage * values
    if run.reference is not None:
        known = run.reference.known.index_select(0, ids)
        if run.config.anchor_entities == "frozen":
            ids, gradient = ids[~known], gradient[~known]
        elif run.config.anchor_entities == "tether":
            away = values - run.reference.vectors.index_select(0, ids)
            pull = 2 * run.config.tether * away
            gradient = gradient + torch.where(known.unsqueeze(1), pull, 0.0)
    adagrad_rows(state.parameters.entity, state.squares, ids, gradient, rate=run.rate)


def _anchor(graph: TripleGraph, config: TransRAConfig) -> int | None:
    return None if config.anchor_relation is None else graph.index_of(config.anchor_relation)


def _check_trainable(graph: TripleGraph, config: TransRAConfig) -> None:
    check_relations(list(config.relations or {}), [one.name for one in graph.relations])
    if not graph.edges:
        raise TrainingError(
            "graph",
            found="no edges",
            expected="at least one event before the as-of date",
            remedy="Check the as-of date and the events' `where` in the world file.",
        )


def _not_finite(graph: TripleGraph, chunk: Chunk, at: Position, loss: float) -> TrainingError:
    return TrainingError(
        f"epoch {at.epoch}, batch {at.chunk}, relation {graph.relations[chunk.relation].name!r}",
        found=f"a loss of {loss}",
        expected="a finite loss",
        remedy="Lower learning_rate or score_scale.",
    )


def _check_finite(state: _State, graph: TripleGraph) -> None:
    """The last update of a row may spoil it after its loss was fine."""
    for name, tensor in state.tensors().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"the end of training on {graph.edges} edges",
                found=f"{name} with values that are no finite numbers",
                expected="finite numbers",
                remedy="Lower learning_rate or score_scale.",
            )


def _fingerprint(graph: TripleGraph, config: TransRAConfig, parent: Parent | None) -> str:
    parts = [graph.fingerprint, config.hash, parent.fingerprint if parent else ""]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


@contextmanager
def _threads(count: int, device: torch.device) -> Iterator[None]:
    """The number of threads decides the last bits of sums: keep it, whatever else runs."""
    former = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)
