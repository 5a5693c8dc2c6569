"""Training a table that is larger than memory: partitions on disk, edges in buckets.

An epoch visits all pairs of partitions (bucket_order). At each visit a few partitions are in memory
as one small table, and the edges among them are trained on it by the same steps as a whole graph;
meanwhile the next partition is read and the last one written. Negatives come from the partitions in
memory, corrected for being drawn among those only. With one partition the result is bit for bit
that of `train`, with a parent (disk_parent) and without.

Every few minutes what has changed is written, and a checkpoint says which files belong together: a
run that was killed goes on there and ends, on the CPU with one thread, with the very same bits.
What has ended leaves the finished table alone.

In memory are, for N entities of d dims, E edges, P partitions of which c are held:

    (min(P, c + 1)) / P * N * 4 (d + 1)    the table, one partition of it being read ahead,
                                           and as much again of a parent's vectors
    + the edges of a visit * 60            about (2 c - 1) E / P^2 of them
    + (c + 1) / P * N * 50                 samplers, while they are made

bytes, whatever N is; on disk 4 N (d + 1), with a parent three times that, and 16 E; at the end
4 N d more for the finished table. An epoch reads and writes the table about P / (2 (c - 1)) times.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.producers import ranks
from provender.producers.bucket_order import Visit, renamed, visits
from provender.producers.buckets import EdgeBuckets, bucket_edges
from provender.producers.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from provender.producers.chunks import EpochPlan, generator_of
from provender.producers.devices import pick_device
from provender.producers.disk_parent import Former, FormerPartitions
from provender.producers.edge_streams import EdgeStream
from provender.producers.finished_table import FinishedTable
from provender.producers.graph import TripleGraph
from provender.producers.held_partitions import HeldPartitions
from provender.producers.memory import in_huge_pages, keep_freed_memory
from provender.producers.optimizer_state import first_moments
from provender.producers.parameters import Parameters
from provender.producers.partitions import Layout, PartitionFiles, Partitioning
from provender.producers.trainer import Run, check_trainable
from provender.producers.training_loop import START, Done, OnProgress, Stopwatch
from provender.producers.training_state import TrainingState, anchor_of
from provender.producers.transra_config import TransRAConfig
from provender.producers.visit_sources import VisitSources
from provender.producers.warm_start import Reference, first_relations
from provender.producers.workers import Workers

#: Rows drawn at once: a multiple of what torch draws at once, so that blocks add up to one draw.
_DRAWN = 2**14
#: Entity types of fewer entities are not dealt out.
WHOLE_BELOW = 10_000
#: Settings that a training from disk can't follow, and what it lacks for them.
_IN_MEMORY = {
    "filter_negatives": "all links at hand",
    "hard_negatives": "all links at hand",
    "end_share": "all links at hand",
    "early_stopping": "a table that is judged after each epoch",
    "state_decay": "the optimizers' state of the parent",
}
_EDGES, _PARTITIONS, _PARENT, _CHECKPOINTS = "edges", "partitions", "parent", "checkpoints"
#: Folders that a training is done with once its table is finished.
_WORKING = (_EDGES, _PARTITIONS, _PARENT, _CHECKPOINTS)
_RELATION, _MOMENTS = "relation/", "moments/"


def train_on_disk(
    edges: EdgeStream,
    config: TransRAConfig,
    folder: Path,
    *,
    former: Former | None = None,
    device: str = "auto",
    whole_below: int = WHOLE_BELOW,
    on_progress: OnProgress | None = None,
) -> Parameters:
    """Train on a stream of edges, with the table in `folder`; go on where a killed run stopped.

    Starts from the `former` refresh where there is one, else at random. Returns the parameters on
    the CPU, like `train`; their entities (N, d), by global id, are mapped from a file in the folder
    and not in memory. A folder in which this training has ended returns them at once.

    Raises ConfigError (also for a parent that does not fit), TrainingError (no or bad edges, a loss
    that is no number) and CheckpointError (files that are not there as they were written).
    """
    check_on_disk(config)
    mark = _fingerprint(edges, config, former, whole_below)
    finished = FinishedTable(folder, mark, sum(edges.counts.values()), config)
    if not finished.exists():
        deal = Partitioning.of(edges.counts, config.partitions, whole_below)
        buckets = bucket_edges(folder / _EDGES, edges, deal)
        check_trainable([one.name for one in edges.relations], buckets.edges, config)
        run = DiskRun(buckets, config, folder, mark, pick_device(device), former)
        whole, relation = run.train(on_progress)
        finished.write(run.files, whole, relation, first=former is None)
        for name in _WORKING:
            shutil.rmtree(folder / name, ignore_errors=True)
    return finished.read()


def check_on_disk(config: TransRAConfig) -> None:
    """Raise ConfigError for what only a training in memory can do."""
    for field, lacking in _IN_MEMORY.items():
        if getattr(config, field):
            raise ConfigError(
                field,
                found="a training from disk",
                expected=f"one in memory: only there is {lacking}",
                remedy="Leave it out, or set `partitions: 1`.",
            )
    if here := ranks.current():
        raise ConfigError(
            "partitions",
            found=f"{config.partitions} in a command over {here.count} processes",
            expected="one process, where the table is trained from disk",
            remedy="Run the command without torchrun, or set `partitions: 1`.",
        )


class VisitRun(Run):
    """A run over the edges of one visit: the plan's epoch counts the visits of all epochs."""

    def not_finite(self, plan: EpochPlan, index: int, loss: float) -> TrainingError:
        """As in memory, and in which visit of the epoch."""
        order = visits(self.config.partitions, self.config.partitions_held)
        epoch, visit = divmod(plan.epoch, len(order))
        error = super().not_finite(replace(plan, epoch=epoch), index, loss)
        return TrainingError(
            f"visit {visit} of {error.thing}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        )


class DiskRun:
    """One training: the partitions in memory, and what is trained on them."""

    def __init__(
        self,
        buckets: EdgeBuckets,
        config: TransRAConfig,
        folder: Path,
        mark: str,
        device: torch.device,
        former: Former | None,
    ) -> None:
        self.buckets, self.config, self.mark, self.device = buckets, config, mark, device
        deal = buckets.partitioning
        self.files = PartitionFiles(folder / _PARTITIONS, deal, config.dim)
        self.checkpoints = folder / _CHECKPOINTS
        self.layout = Layout(deal, min(deal.partitions, config.partitions_held + 1))
        self.sources = VisitSources(buckets, config, self.layout, device)
        self.order = visits(deal.partitions, config.partitions_held)
        self.epochs = config.refresh_epochs if former else config.epochs
        self.held = HeldPartitions(self.files, self.layout, device, self._first)
        self.former: FormerPartitions | None = None
        self.anchors: HeldPartitions | None = None
        if former:
            place = folder / _PARENT
            self.former = FormerPartitions(place, former, self.sources, self.order, mark)
            self.anchors = self.former.held(device)
        self.state = self._start(former)

    def train(self, on_progress: OnProgress | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Train to the end; returns the rows of the whole types, and the relations' parameters."""
        at = self._resume()
        for table in self._tables():
            in_huge_pages(table.entity)
        keep_freed_memory()
        total, saved, watch = self._chunks(), time.monotonic(), Stopwatch(at.step)
        with ExitStack() as stack:
            for table in self._tables():
                stack.enter_context(table)
            workers = stack.enter_context(Workers(self.config.cpu_threads, self.device, self._step))
            while at.epoch < self.epochs:
                turn = at.epoch * len(self.order) + at.chunk
                self._hold(turn)
                step = at.step
                for done in self._train_visit(turn, workers):
                    step += len(done)
                    if on_progress:
                        on_progress(watch.after(replace(at, step=step), total, Done.together(done)))
                epoch, chunk = divmod(turn + 1, len(self.order))
                at = Position(epoch, chunk, step)
                minutes = (time.monotonic() - saved) / 60
                if minutes >= self.config.checkpoint_minutes or epoch == self.epochs:
                    self.held.flush(version=turn + 1)
                    self.files.sync()
                    save_checkpoint(self.checkpoints, self.mark, Checkpoint(at, self._tensors()))
                    self.files.commit()
                    saved = time.monotonic()
        counts = self.buckets.partitioning.counts
        whole = [entity for entity in counts if entity in self.buckets.partitioning.whole]
        rows = [self.state.parameters.entity[at].cpu() for at in self.layout.whole()]
        relation = {name: one.cpu() for name, one in self.state.parameters.relation.items()}
        return dict(zip(whole, rows, strict=True)), relation

    def _tables(self) -> list[HeldPartitions]:
        """What lies in the same places: the table, and the anchors where there are any."""
        return [self.held, self.anchors] if self.anchors else [self.held]

    def _hold(self, turn: int) -> None:
        """Have a turn's partitions in memory, and begin to read those of the next."""
        self.held.hold(self._visit(turn).held, version=turn)
        if self.anchors:
            self.anchors.hold(self._visit(turn).held, version=None)
        for table in self._tables():
            table.read_ahead(self._visit(turn + 1).held)

    def _visit(self, turn: int) -> Visit:
        """The visit of a turn, counted over all epochs; each epoch names the partitions anew."""
        epoch, index = divmod(turn, len(self.order))
        if epoch == self.epochs:
            return Visit((), ())
        deal = self.buckets.partitioning.partitions
        names = torch.randperm(deal, generator=generator_of(self.config.seed, epoch, -1))
        return renamed([self.order[index]], names.tolist())[0]

    def _train_visit(self, turn: int, workers: Workers) -> Iterator[list[tuple[int, float]]]:
        """Train on the edges of a visit; yields the triples and mean losses of blocks of chunks."""
        visit = self._visit(turn)
        source, reference = self.sources.source(visit, self.held.slot), None
        if self.anchors:
            reference = Reference(self.anchors.entity, self.anchors.squares > 0)
        self.run = VisitRun.over(source, self.config, reference)
        plan = EpochPlan.cut(source.graph, self.config.chunk_size, self.config.seed, turn)
        for start in range(0, len(plan.chunks), workers.block):
            block = range(start, min(start + workers.block, len(plan.chunks)))
            yield workers.train(plan, block)

    def _step(self, plan: EpochPlan, index: int) -> tuple[int, float]:
        return self.run.step(self.state, plan, index)

    def _chunks(self) -> int:
        """The chunks of all epochs."""
        turns = range(self.epochs * len(self.order))
        edges = (
            sum(self.buckets.counts[bucket] for bucket in self._visit(turn).buckets)
            for turn in turns
        )  # (R,) each
        return int(sum(np.ceil(each / self.config.chunk_size).sum() for each in edges))

    def _first(self, partition: int, parts: Sequence[Tensor]) -> None:
        """Begin with the former vectors of a partition, or with random ones."""
        self._draw(partition, parts)
        if self.former:
            self.former.start(partition, parts)

    def _draw(self, partition: int, parts: Sequence[Tensor]) -> None:
        """Draw first vectors, as `random_entities` does."""
        generator = generator_of(self.config.seed, -1 - partition)
        size = self.config.init_norm / self.config.dim**0.5
        for part in parts:
            for block in part.split(_DRAWN):
                block.copy_(torch.randn(block.shape, generator=generator) * size)

    def _start(self, former: Former | None) -> TrainingState:
        nothing = torch.zeros(0, dtype=torch.int64)
        shape = TripleGraph(
            tuple(self.buckets.relations), {}, nothing, nothing, nothing, nothing.float()
        )
        parent = former.parent if former else None
        relation = first_relations(shape, self.config.model, self.config.dim, parent)
        if (anchor := anchor_of(shape, self.config)) is not None:
            relation["deviation"][anchor] = 0.0
        moments, steps = first_moments(shape, relation, None)
        whole = [self.held.entity[at] for at in self.layout.whole()]
        self._draw(self.config.partitions, whole)
        if self.former:
            self.former.start_whole(whole)
        return TrainingState(
            parameters=Parameters(self.config.model, self.held.entity, _to(relation, self.device)),
            squares=self.held.squares,
            moments=_to(moments, self.device),
            steps=steps,
        )

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds beside the partitions' files, and which of those it means."""
        state = self.state
        held = {_RELATION + name: one for name, one in state.parameters.relation.items()}
        held |= {_MOMENTS + name: one for name, one in state.moments.items()}
        for index, at in enumerate(self.layout.whole()):
            held |= {f"whole/{index}": self.held.entity[at], f"sums/{index}": self.held.squares[at]}
        return held | {
            "steps": state.steps,
            "slot": self.held.slot,
            "versions": self.files.versions,
        }

    def _resume(self) -> Position:
        """Go back to the newest checkpoint, if there is one."""
        found = load_checkpoint(self.checkpoints, self.mark)
        if found is None:
            self.files.commit()
            return START
        for name, values in self._tensors().items():
            if name not in ("slot", "versions"):
                values.copy_(found.tensors[name])
        self.files.restore(found.tensors["versions"])
        for table in self._tables():
            table.restore(found.tensors["slot"])
        return found.position


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: values.to(device) for name, values in tensors.items()}


def _fingerprint(
    edges: EdgeStream, config: TransRAConfig, former: Former | None, whole_below: int
) -> str:
    """A SHA-256 of what a training starts from."""
    text = f"{edges.fingerprint}/{config.hash}/{whole_below}"
    if former:
        text += f"/{former.parent.fingerprint}"
    return hashlib.sha256(text.encode()).hexdigest()
