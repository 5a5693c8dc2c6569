"""A step of training pages: a batch's tokens, its candidates, the loss, the update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from provender.plugin.errors import TrainingError
from provender.producers import ranks
from provender.producers.checkpoint import Position
from provender.producers.dense_optimizer import rate_at, set_rate
from provender.producers.linksage.features import Features
from provender.producers.linksage.matryoshka import nested_losses
from provender.producers.linksage.page_encoder import encode
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_model import PageModel, brain_float
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_sampling import Positives, dropout_seed, shown_alone
from provender.producers.linksage.page_tokens import TokenSource
from provender.producers.linksage.page_training_state import PageTrainingState
from provender.producers.linksage.pin_vectors import PinVectors


@dataclass(frozen=True, eq=False)
class PageSteps:
    """What stays the same during a training, and a step of it."""

    model: PageModel
    source: TokenSource
    positives: Positives
    pins: PinVectors
    device: torch.device
    rank: int
    ranks: int

    @classmethod
    def prepare(
        cls,
        model: PageModel,
        features: Features,
        graph: PageGraph,
        neighbours: Neighbours,
        device: torch.device,
    ) -> PageSteps:
        """For this process, one of several where it has joined some (producers/ranks.py).

        `neighbours` are those of the graph's positives, row by row (page_folds.py).
        """
        if len(neighbours.degrees) != len(graph.positive_pin):
            rows = f"{len(neighbours.degrees)} rows, {len(graph.positive_pin)} positives"
            raise ValueError(f"neighbours are to be those of positives: {rows}")
        pins = PinVectors.prepare(model, features, graph, device)
        here = ranks.current()
        return cls(
            model=model,
            source=TokenSource.of(features, graph, neighbours, model.config.model),
            positives=Positives.of(graph, pins.has),
            pins=pins,
            device=device,
            rank=here.rank if here else 0,
            ranks=here.count if here else 1,
        )

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def batches(self, epoch: int) -> list[Tensor]:
        """All positives of an epoch, in batches (B,)."""
        training = self.model.config.training
        return list(self.positives.order(training.seed, epoch).split(training.batch_size))

    def step(self, state: PageTrainingState, batch: Tensor, at: Position, total: int) -> float:
        """Train on one batch (B,) and return its mean loss; TrainingError changes nothing."""
        config = self.model.config.training
        torch.manual_seed(dropout_seed(config.seed, at.step, self.rank))
        state.modules.train()
        state.optimizer.zero_grad(set_to_none=True)
        own = torch.arange(self.rank, len(batch), self.ranks)
        loss = torch.zeros((), device=self.device)
        if len(own):
            loss = self.loss(batch, own, at.step)
            loss.backward()
        told = self.summed(state, loss.detach())
        parameters = list(state.modules.parameters())
        norm = float(clip_grad_norm_(parameters, config.clip))
        if not (math.isfinite(told) and math.isfinite(norm)):
            raise _not_finite(at, batch, told, norm)
        rate = rate_at(at.step, total, config.learning_rate, config.warmup)
        set_rate(state.optimizer, rate)
        state.optimizer.step()
        return told

    def loss(self, batch: Tensor, own: Tensor, step: int) -> Tensor:
        """The sum over the positives `own` of a batch, by the batch's size."""
        model, config = self.model, self.model.config.training
        positives, rows = self.positives, batch[own]
        candidates = positives.candidates(
            batch, config.negatives, config.seed, step, log_q=config.log_q
        )
        alone = shown_alone(len(batch), config.neighbour_dropout, config.seed, step)[own]
        tokens, nodes = self.source.distinct(
            self.source.tokens(
                positives.row[rows],
                positives.page[rows],
                without=positives.pin[rows],
                alone=alone,
            )
        )
        with brain_float(model, self.device):
            pages = encode(model.encoder, tokens.to(self.device), nodes.to(self.device))
            pins = self.pins.of(candidates.nodes)
        losses = nested_losses(
            pages,
            pins,
            candidates.of(own).to(self.device),
            (*model.config.model.nested_dims, model.config.model.dim),
            model.config.model.nested_weights,
            config.temperature,
        )
        return (losses @ positives.weight[rows].to(self.device)) / len(batch)

    def summed(self, state: PageTrainingState, loss: Tensor) -> float:
        """The loss of the whole batch; the gradients become those of it, the same everywhere."""
        parameters = list(state.modules.parameters())
        # Zeros where nothing of this batch went through a parameter.
        given = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        flat = torch.cat([*(each.flatten() for each in given), loss.view(1)])
        if self.ranks > 1:  # in one order, so that all get the same bits
            flat = ranks.all_gather(flat.cpu()).sum(0).to(self.device)
        sizes = [each.numel() for each in parameters]
        for each, part in zip(parameters, flat[:-1].split(sizes), strict=True):
            each.grad = part.view_as(each)
        return float(flat[-1])


def _not_finite(at: Position, batch: Tensor, loss: float, norm: float) -> TrainingError:
    first = ", ".join(map(str, batch[:3].tolist()))
    return TrainingError(
        f"epoch {at.epoch}, step {at.step}, batch {at.chunk} (positives {first}, ...)",
        found=f"a loss of {loss} and a gradient of norm {norm}",
        expected="finite numbers",
        remedy="Lower learning_rate, or look for vectors that are no finite numbers.",
    )
