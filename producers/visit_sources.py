"""What a visit trains on: its edges and its negatives, with ids as rows of the table in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.producers.bucket_order import Visit
from provender.producers.buckets import EdgeBuckets
from provender.producers.chunks import ChunkSource
from provender.producers.graph import TripleGraph
from provender.producers.negatives import NegativeSampler, build_sampler
from provender.producers.partitions import Layout
from provender.producers.transra_config import TransRAConfig


@dataclass(frozen=True, eq=False)
class VisitSources:
    """Makes the sources of visits; `slot` int64 (P,) is where each partition then lies."""

    buckets: EdgeBuckets
    config: TransRAConfig
    layout: Layout
    device: torch.device

    def source(self, visit: Visit, slot: Tensor) -> ChunkSource:
        """The edges of a visit, their weights in the loss, and the samplers."""
        graph = self.graph(visit, slot)
        own = [self.config.relation_weight(one.name) for one in self.buckets.relations]
        means = torch.from_numpy(self.buckets.mean_weight)
        scale = (torch.tensor(own, dtype=torch.float64) / means).float()
        return ChunkSource(
            graph=graph,
            device=self.device,
            negatives=self.config.negatives,
            seed=self.config.seed,
            head=graph.head.to(self.device),
            tail=graph.tail.to(self.device),
            weight=(graph.weight * scale[graph.relation]).to(self.device),
            samplers=self._samplers(visit, slot),
        )

    def graph(self, visit: Visit, slot: Tensor) -> TripleGraph:
        """The edges of a visit, sorted by relation; its keys are nulls, one for each row."""
        relations = self.buckets.relations
        parts = []
        for p, q in visit.buckets:
            edges = self.buckets.read((p, q))
            slots = int(slot[p]), int(slot[q])
            heads = np.array([self.layout.start(one.head, slots[0]) for one in relations])
            tails = np.array([self.layout.start(one.tail, slots[1]) for one in relations])
            relation = edges["relation"].astype(np.int64)
            ends = edges["head"] + heads[relation], edges["tail"] + tails[relation]
            parts.append((relation, *ends, edges["weight"]))
        relation, head, tail, weight = (np.concatenate(one) for one in zip(*parts, strict=True))
        order = np.argsort(relation, kind="stable")
        return TripleGraph(
            relations=tuple(relations),
            keys={entity: pa.nulls(size) for entity, size in self.layout.sizes.items()},
            head=torch.from_numpy(head[order]),
            tail=torch.from_numpy(tail[order]),
            relation=torch.from_numpy(relation[order]),
            weight=torch.from_numpy(weight[order]),
        )

    def _samplers(self, visit: Visit, slot: Tensor) -> dict[str, NegativeSampler]:
        """Samplers of the entities in memory: their degrees are those of the whole graph."""
        deal = self.buckets.partitioning
        degrees = {each: self.buckets.degrees(each) for each in visit.held}
        whole = self.buckets.whole_degrees()
        samplers = {}
        for entity, size in self.layout.sizes.items():
            known = torch.full((size,), -1, dtype=torch.int32)
            offset = self.layout.start(entity, 0)
            if entity in whole:
                known[:] = torch.from_numpy(whole[entity])
            for each in visit.held if entity in deal.dealt else ():
                start = self.layout.start(entity, int(slot[each])) - offset
                count = deal.rows(entity, each)
                known[start : start + count] = torch.from_numpy(degrees[each][entity])
            if bool((known >= 0).any()):
                samplers[entity] = sampler_of_present(known, offset, self.config, self.device)
        return samplers


def sampler_of_present(
    degrees: Tensor, offset: int, config: TransRAConfig, device: torch.device
) -> NegativeSampler:
    """The sampler of the rows whose degree (n,) is not negative; it never draws another."""
    present = degrees >= 0
    known = build_sampler(
        degrees[present],
        offset,
        power=config.degree_power,
        uniform_share=config.uniform_share,
        device=device,
    )
    if bool(present.all()):
        return known
    cumulative = torch.zeros(len(degrees), dtype=torch.float64)
    cumulative[present] = known.cumulative
    last = int(torch.nonzero(present)[-1])
    cumulative[last:] = 1.0
    log_probability = torch.full((len(degrees),), -torch.inf, device=device)
    log_probability[present.to(device)] = known.log_probability
    return NegativeSampler(offset, cumulative.cummax(0).values, log_probability)
