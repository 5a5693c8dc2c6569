"""torchkge's TransR by the loop of its documentation: Adam, the margin loss, Bernoulli negatives.

Settings: `dim`, `batch`, `negatives` for each triple, `rate`.
"""

from __future__ import annotations

from functools import partial

import torch
from filtered_mrr import Sides
from torch import Tensor
from torch.nn.functional import normalize
from torchkge.data_structures import KnowledgeGraph
from torchkge.models import TransRModel
from torchkge.sampling import BernoulliNegativeSampler
from torchkge.utils import MarginLoss
from torchkge.utils.data import DataLoader
from track import Graph, Track


def kg_of(graph: Graph) -> KnowledgeGraph:
    head, relation, tail = torch.from_numpy(graph.train).T.contiguous()
    return KnowledgeGraph(
        kg={"heads": head, "tails": tail, "relations": relation},
        ent2ix={entity: entity for entity in range(graph.entities)},
        rel2ix={relation: relation for relation in range(graph.relations)},
    )


def sides_of(model: TransRModel) -> Sides:
    """|p(h) + r - p(t)|^2 of normalized entities."""

    def projected(relation: int, entities: Tensor) -> Tensor:
        matrix = model.proj_mat.weight[relation].view(model.rel_emb_dim, model.ent_emb_dim)
        return normalize(model.ent_emb(entities), p=2, dim=1) @ matrix.T

    def moved(relation: int, entities: Tensor) -> Tensor:
        return projected(relation, entities) + model.rel_emb.weight[relation]

    return Sides(moved, projected, "distance")


def peer(track: Track) -> None:
    job, graph = track.job, track.graph
    kg = kg_of(graph)
    model = TransRModel(job["dim"], job["dim"], graph.entities, graph.relations)
    some = torch.from_numpy(graph.train[:20])
    with torch.no_grad():
        scores = model.scoring_function(some[:, 0], some[:, 2], some[:, 1])
        sides_of(model).check(some.numpy(), scores)
    criterion = MarginLoss(job.get("margin", 0.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=job.get("rate", 0.0004), weight_decay=1e-5)
    sampler = BernoulliNegativeSampler(kg, n_neg=job["negatives"])
    loader = DataLoader(kg, batch_size=job["batch"])
    track.begin()
    while True:
        for heads, tails, relations in loader:
            wrong_heads, wrong_tails = sampler.corrupt_batch(heads, tails, relations)
            optimizer.zero_grad()
            positive, negative = model(heads, tails, relations, wrong_heads, wrong_tails)
            criterion(positive, negative).backward()
            optimizer.step()
            track.step(len(heads), partial(sides_of, model))
        model.normalize_parameters()


if __name__ == "__main__":
    Track().run(peer)
