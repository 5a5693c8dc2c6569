"""PyKEEN's TransR by its own training loop: dense Adam, the margin loss, negatives per triple.

Settings: `dim`, `batch`, `negatives`, `rate`, and `sampler`, which is PyKEEN's `basic` or, to
corrupt by entities of the right type only, `pseudotyped`. The score is the squared L2 distance of
the paper (`scoring_fct_norm=2, power_norm=True`); all else is as PyKEEN has it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from filtered_mrr import Sides
from pykeen.models import TransR
from pykeen.training import SLCWATrainingLoop
from pykeen.training.callbacks import TrainingCallback
from pykeen.triples import CoreTriplesFactory
from pykeen.utils import clamp_norm
from torch import Tensor
from track import Track


class Steps(TrainingCallback):
    """Counts batches once: a loop calls both `on_batch` and `post_batch`."""

    def __init__(self, track: Track, model: TransR) -> None:
        super().__init__()
        self.track, self.sides = track, partial(sides_of, model)

    def post_batch(self, epoch: int, batch: Any, **_: Any) -> None:
        self.track.step(self.track.job["batch"], self.sides)


def sides_of(model: TransR) -> Sides:
    """c(h M) + r and c(t M), by the representations, which are clamped as well."""

    def projected(relation: int, entities: Tensor) -> Tensor:
        matrix = model.relation_representations[1](torch.tensor([relation]))[0]
        rows = model.entity_representations[0](entities)
        return clamp_norm(rows @ matrix, p=2, dim=-1, maxnorm=1.0)

    def moved(relation: int, entities: Tensor) -> Tensor:
        return projected(relation, entities) + model.relation_representations[0](
            torch.tensor([relation])
        )

    return Sides(moved, projected, "distance")


def peer(track: Track) -> None:
    job, graph = track.job, track.graph
    triples = CoreTriplesFactory(
        torch.from_numpy(graph.train), num_entities=graph.entities, num_relations=graph.relations
    )
    model = TransR(
        triples_factory=triples,
        embedding_dim=job["dim"],
        relation_dim=job["dim"],
        scoring_fct_norm=2,
        power_norm=True,
        random_seed=job.get("seed", 0),
    )
    some = graph.train[:20]
    with torch.no_grad():
        sides_of(model).check(some, model.score_hrt(torch.from_numpy(some)).flatten())
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=triples,
        optimizer=torch.optim.Adam(model.get_grad_params(), lr=job.get("rate", 0.001)),
        negative_sampler=job.get("sampler", "basic"),
        negative_sampler_kwargs={"num_negs_per_pos": job["negatives"]},
    )
    track.begin()
    loop.train(
        triples_factory=triples,
        num_epochs=1_000,
        batch_size=job["batch"],
        callbacks=Steps(track, model),
        use_tqdm=False,
        use_tqdm_batch=False,
        pin_memory=False,
    )


if __name__ == "__main__":
    Track().run(peer)
