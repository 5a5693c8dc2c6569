"""Training a table that is larger than memory: partitions on disk, edges in buckets.

An epoch visits all pairs of partitions (bucket_order). At each visit a few partitions are in memory
as one small table, and the edges among them are trained on it by the same steps as a whole graph;
meanwhile the next partition is read and the last one written. Negatives come from the partitions in
memory, corrected for being drawn among those only. With one partition the result is bit for bit
that of `train`.

Every few minutes what has changed is written, and a checkpoint says which files belong together: a
run that was killed goes on there and ends, on the CPU with one thread, with the very same bits.

In memory are, for N entities of d dims, E edges, P partitions of which c are held:

    (min(P, c + 1)) / P * N * 4 (d + 1)    the table, one partition of it being read ahead
    + the edges of a visit * 60            about (2 c - 1) E / P^2 of them
    + (c + 1) / P * N * 50                 samplers, while they are made

bytes, whatever N is; on disk 4 N (d + 1) and 16 E, and 4 N d more for the finished table. An epoch
reads and writes the table about P / (2 (c - 1)) times.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from provender.plugin.errors import ConfigError, TrainingError
from provender.plugin.files import whole_file, write_whole
from provender.producers.bucket_order import Visit, renamed, visits
from provender.producers.buckets import EdgeBuckets, bucket_edges
from provender.producers.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint
from provender.producers.chunks import ChunkSource, EpochPlan, generator_of
from provender.producers.devices import pick_device
from provender.producers.edge_streams import EdgeStream
from provender.producers.graph import TripleGraph
from provender.producers.held_partitions import HeldPartitions
from provender.producers.memory import in_huge_pages, keep_freed_memory
from provender.producers.negatives import NegativeSampler, build_sampler
from provender.producers.parameters import Parameters, axes_of, covariance_of, rotate
from provender.producers.partitions import Layout, PartitionFiles, Partitioning, write_rows
from provender.producers.scores import identity
from provender.producers.trainer import OnProgress, Progress, Run, check_trainable
from provender.producers.training_state import TrainingState, anchor_of
from provender.producers.transra_config import TransRAConfig
from provender.producers.workers import Workers

#: Rows drawn at once: a multiple of what torch draws at once, so that blocks add up to one draw.
_DRAWN = 2**14
#: Entity types of fewer entities are not dealt out.
WHOLE_BELOW = 10_000
#: Linux's MAP_NORESERVE, which Python 3.11 does not name: a mapping may be larger than all memory.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
_RELATION, _MOMENTS = "relation/", "moments/"


def train_on_disk(
    edges: EdgeStream,
    config: TransRAConfig,
    folder: Path,
    *,
    device: str = "auto",
    whole_below: int = WHOLE_BELOW,
    on_progress: OnProgress | None = None,
) -> Parameters:
    """Train on a stream of edges, with the table in `folder`; go on where a killed run stopped.

    Returns the parameters on the CPU, like `train`; their entities (N, d), by global id, are mapped
    from a file in the folder and not in memory. A folder in which this training has ended returns
    them at once. There is no parent and no validation yet.

    Raises ConfigError, TrainingError (no or bad edges, a loss that is no number) and
    CheckpointError (files that are not there as they were written).
    """
    names = [one.name for one in edges.relations]
    mark = _fingerprint(edges, config, whole_below)
    finished = FinishedTable(folder, mark, sum(edges.counts.values()), config)
    if not finished.exists():
        deal = Partitioning.of(edges.counts, config.partitions, whole_below)
        buckets = bucket_edges(folder / "edges", edges, deal)
        check_trainable(names, buckets.edges, config)
        _check_negatives(config)
        files = PartitionFiles(folder / "partitions", deal, config.dim)
        trained = DiskRun(buckets, config, files, mark, pick_device(device))
        finished.write(files, *trained.train(folder / "checkpoints", on_progress))
    return finished.read()


def _check_negatives(config: TransRAConfig) -> None:
    """Raise ConfigError for negatives that take links which are not in memory."""
    if config.filter_negatives or config.hard_negatives:
        raise ConfigError(
            "filter_negatives" if config.filter_negatives else "hard_negatives",
            found="a training from disk",
            expected="one in memory: only there are all links at hand",
            remedy="Leave it out, or set `partitions: 1`.",
        )


class DiskRun:
    """One training: the partitions in memory, and what is trained on them."""

    def __init__(
        self,
        buckets: EdgeBuckets,
        config: TransRAConfig,
        files: PartitionFiles,
        mark: str,
        device: torch.device,
    ) -> None:
        self.buckets, self.config, self.files = buckets, config, files
        self.mark, self.device = mark, device
        deal = buckets.partitioning
        self.layout = Layout(deal, min(deal.partitions, config.partitions_held + 1))
        self.sizes = self.layout.sizes
        self.held = HeldPartitions(files, self.layout, device, self._first)
        self.state = self._start()
        means = torch.from_numpy(buckets.mean_weight)
        own = [config.relation_weight(one.name) for one in buckets.relations]
        self.loss_weight = (torch.tensor(own, dtype=torch.float64) / means).float()
        self.order = visits(deal.partitions, config.partitions_held)

    def train(
        self, checkpoints: Path, on_progress: OnProgress | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Train to the end; returns the rows of the whole types, and the relations' parameters."""
        at = self._resume(checkpoints)
        in_huge_pages(self.held.entity)
        keep_freed_memory()
        total, saved = self.config.epochs * self._chunks(), time.monotonic()
        with (
            self.held as held,
            Workers(self.config.cpu_threads, self.device, self._step) as workers,
        ):
            while at.epoch < self.config.epochs:
                turn = at.epoch * len(self.order) + at.chunk
                held.hold(self._visit(turn).held, version=turn)
                held.read_ahead(self._visit(turn + 1).held)
                step = at.step
                for done in self._train_visit(turn, workers):
                    step += len(done)
                    if on_progress:
                        on_progress(Progress.after(replace(at, step=step), total, done))
                epoch, chunk = divmod(turn + 1, len(self.order))
                at = Position(epoch, chunk, step)
                minutes = (time.monotonic() - saved) / 60
                if minutes >= self.config.checkpoint_minutes or epoch == self.config.epochs:
                    held.flush(version=turn + 1)
                    self.files.sync()
                    save_checkpoint(checkpoints, self.mark, Checkpoint(at, self._tensors()))
                    self.files.commit()
                    saved = time.monotonic()
        counts = self.buckets.partitioning.counts
        whole = [entity for entity in counts if entity in self.buckets.partitioning.whole]
        rows = [self.state.parameters.entity[at].cpu() for at in self.layout.whole()]
        relation = {name: one.cpu() for name, one in self.state.parameters.relation.items()}
        return dict(zip(whole, rows, strict=True)), relation

    def _visit(self, turn: int) -> Visit:
        """The visit of a turn, counted over all epochs; each epoch names the partitions anew."""
        epoch, index = divmod(turn, len(self.order))
        if epoch == self.config.epochs:
            return Visit((), ())
        deal = self.buckets.partitioning.partitions
        names = torch.randperm(deal, generator=generator_of(self.config.seed, epoch, -1))
        return renamed([self.order[index]], names.tolist())[0]

    def _train_visit(self, turn: int, workers: Workers) -> Iterator[list[tuple[int, float]]]:
        """Train on the edges of a visit; yields the triples and mean losses of blocks of chunks."""
        visit = self._visit(turn)
        source = self._source(visit)
        self.run = Run.over(source, self.config, None)
        plan = EpochPlan.cut(source.graph, self.config.chunk_size, self.config.seed, turn)
        for start in range(0, len(plan.chunks), workers.block):
            block = range(start, min(start + workers.block, len(plan.chunks)))
            yield workers.train(plan, block)

    def _step(self, plan: EpochPlan, index: int) -> tuple[int, float]:
        return self.run.step(self.state, plan, index)

    def _chunks(self) -> int:
        """The chunks of one epoch; the same in each, as far as buckets are alike."""
        sizes = [
            sum(self.buckets.counts[bucket] for bucket in one.buckets)
            for one in (self._visit(turn) for turn in range(len(self.order)))
        ]
        return int(sum(np.ceil(size / self.config.chunk_size).sum() for size in sizes))

    def _source(self, visit: Visit) -> ChunkSource:
        """The edges of a visit and the samplers, with ids as rows of the table in memory."""
        graph = self._graph(visit)
        return ChunkSource(
            graph=graph,
            device=self.device,
            negatives=self.config.negatives,
            seed=self.config.seed,
            head=graph.head.to(self.device),
            tail=graph.tail.to(self.device),
            weight=(graph.weight * self.loss_weight[graph.relation]).to(self.device),
            samplers=self._samplers(visit),
        )

    def _graph(self, visit: Visit) -> TripleGraph:
        relations = self.buckets.relations
        parts = []
        for p, q in visit.buckets:
            edges = self.buckets.read((p, q))
            slots = int(self.held.slot[p]), int(self.held.slot[q])
            heads = np.array([self.layout.start(one.head, slots[0]) for one in relations])
            tails = np.array([self.layout.start(one.tail, slots[1]) for one in relations])
            relation = edges["relation"].astype(np.int64)
            ends = edges["head"] + heads[relation], edges["tail"] + tails[relation]
            parts.append((relation, *ends, edges["weight"]))
        relation, head, tail, weight = (np.concatenate(one) for one in zip(*parts, strict=True))
        order = np.argsort(relation, kind="stable")
        return TripleGraph(
            relations=tuple(relations),
            keys={entity: pa.nulls(size) for entity, size in self.sizes.items()},
            head=torch.from_numpy(head[order]),
            tail=torch.from_numpy(tail[order]),
            relation=torch.from_numpy(relation[order]),
            weight=torch.from_numpy(weight[order]),
        )

    def _samplers(self, visit: Visit) -> dict[str, NegativeSampler]:
        """Samplers of the entities in memory: their degrees are those of the whole graph."""
        deal = self.buckets.partitioning
        degrees = {each: self.buckets.degrees(each) for each in visit.held}
        whole = self.buckets.whole_degrees()
        samplers = {}
        for entity, size in self.sizes.items():
            known, count = torch.full((size,), -1, dtype=torch.int32), 0
            offset = self.layout.start(entity, 0)
            if entity in whole:
                known[:] = torch.from_numpy(whole[entity])
            for each in visit.held if entity in deal.dealt else ():
                start = self.layout.start(entity, int(self.held.slot[each])) - offset
                count = deal.rows(entity, each)
                known[start : start + count] = torch.from_numpy(degrees[each][entity])
            if bool((known >= 0).any()):
                samplers[entity] = self._sampler(known, offset)
        return samplers

    def _sampler(self, degrees: Tensor, offset: int) -> NegativeSampler:
        """The sampler of the rows whose degree is not negative; it never draws another."""
        present = degrees >= 0
        config = self.config
        known = build_sampler(
            degrees[present],
            offset,
            power=config.degree_power,
            uniform_share=config.uniform_share,
            device=self.device,
        )
        if bool(present.all()):
            return known
        cumulative = torch.zeros(len(degrees), dtype=torch.float64)
        cumulative[present] = known.cumulative
        last = int(torch.nonzero(present)[-1])
        cumulative[last:] = 1.0
        log_probability = torch.full((len(degrees),), -torch.inf, device=self.device)
        log_probability[present.to(self.device)] = known.log_probability
        return NegativeSampler(offset, cumulative.cummax(0).values, log_probability)

    def _first(self, partition: int, parts: Sequence[Tensor]) -> None:
        """Draw first vectors, as `first_entities` does."""
        generator = generator_of(self.config.seed, -1 - partition)
        size = self.config.init_norm / self.config.dim**0.5
        for part in parts:
            for block in part.split(_DRAWN):
                block.copy_(torch.randn(block.shape, generator=generator) * size)

    def _start(self) -> TrainingState:
        relations = len(self.buckets.relations)
        relation = identity(self.config.model, relations, self.config.dim)
        nothing = torch.zeros(0, dtype=torch.int64)
        shape = TripleGraph(
            tuple(self.buckets.relations), {}, nothing, nothing, nothing, nothing.float()
        )
        if (anchor := anchor_of(shape, self.config)) is not None:
            relation["deviation"][anchor] = 0.0
        moments = {
            name: torch.zeros(len(values), 2, *values.shape[1:], device=self.device)
            for name, values in relation.items()
        }
        self._first(self.config.partitions, [self.held.entity[at] for at in self.layout.whole()])
        relation = {name: values.to(self.device) for name, values in relation.items()}
        return TrainingState(
            parameters=Parameters(self.config.model, self.held.entity, relation),
            squares=self.held.squares,
            moments=moments,
            steps=torch.zeros(relations, dtype=torch.int64),
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

    def _resume(self, checkpoints: Path) -> Position:
        """Go back to the newest checkpoint, if there is one."""
        found = load_checkpoint(checkpoints, self.mark)
        if found is None:
            self.files.commit()
            return Position(0, 0, 0)
        for name, values in self._tensors().items():
            if name not in ("slot", "versions"):
                values.copy_(found.tensors[name])
        self.files.restore(found.tensors["versions"])
        self.held.restore(found.tensors["slot"])
        return found.position


@dataclass(frozen=True)
class FinishedTable:
    """What a training leaves: the table by global id, and the relations' parameters, last."""

    folder: Path
    mark: str
    entities: int
    config: TransRAConfig

    @property
    def _table(self) -> Path:
        return self.folder / f"entities-{self.mark[:16]}.f32"

    @property
    def _relations(self) -> Path:
        return self.folder / f"relations-{self.mark[:16]}.safetensors"

    def exists(self) -> bool:
        """Whether the training has ended."""
        return self._relations.is_file()

    def read(self) -> Parameters:
        """The parameters; the table is mapped, and changes of it stay in memory."""
        with self._table.open("rb") as file:
            private = mmap.MAP_PRIVATE | _NO_RESERVE
            mapped = mmap.mmap(file.fileno(), 0, private, mmap.PROT_READ | mmap.PROT_WRITE)
        table = torch.frombuffer(mapped, dtype=torch.float32).view(self.entities, self.config.dim)
        return Parameters(self.config.model, table, load_file(self._relations))

    def write(
        self, files: PartitionFiles, whole: dict[str, Tensor], relation: dict[str, Tensor]
    ) -> None:
        """Bring the rows in order, with the space turned to its principal axes where asked for."""
        axes = torch.eye(self.config.dim)
        turned = self.config.principal_axes and "translation" in relation
        if turned:
            axes = _principal_axes(files, whole)
            none = Parameters(self.config.model, torch.zeros(0, self.config.dim), relation)
            relation = dict(rotate(none, axes).relation)
        with whole_file(self._table) as staged, FileIO(staged, "w") as file:
            for entity in files.partitioning.counts:
                for rows in _rows(files, whole, entity):
                    write_rows(file, rows @ axes if turned else rows)
        write_whole(self._relations, save({k: v.contiguous() for k, v in relation.items()}))


def _principal_axes(files: PartitionFiles, whole: dict[str, Tensor]) -> Tensor:
    """`parameters.principal_axes`, from blocks of rows."""
    covariance = torch.zeros(files.dim, files.dim, dtype=torch.float64)
    for entity in files.partitioning.counts:
        covariance += covariance_of(_rows(files, whole, entity), files.dim)
    return axes_of(covariance).float()


def _rows(files: PartitionFiles, whole: dict[str, Tensor], entity: str) -> Iterator[Tensor]:
    """The rows of one type in the order of ids; TrainingError for one that is no number."""
    blocks = [whole[entity]] if entity in whole else map(torch.from_numpy, files.in_order(entity))
    for rows in blocks:
        if not bool(torch.isfinite(rows).all()):
            raise TrainingError(
                "the end of training",
                found=f"vectors of {entity!r} that are no finite numbers",
                expected="finite numbers",
                remedy="Lower learning_rate or score_scale.",
            )
        yield rows


def _fingerprint(edges: EdgeStream, config: TransRAConfig, whole_below: int) -> str:
    text = f"{edges.fingerprint}/{config.hash}/{whole_below}"
    return hashlib.sha256(text.encode()).hexdigest()
