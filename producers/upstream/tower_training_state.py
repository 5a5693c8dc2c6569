"""What training towers changes, and a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from provender.producers.checkpoint import Checkpoint
from provender.producers.dense_optimizer import adamw, moments, restore_moments
from provender.producers.upstream.upstream_model import UpstreamModel
from provender.producers.validation import best_of

_MODEL, _BEST, _ADAM, _CURVE = "model/", "best/", "adam/", "curve"


@dataclass(eq=False)
class TowerTrainingState:
    """A model that is changed in place, the optimizer of its dense parameters, its judgements.

    `curve` are the judgements; `kept` the model's tensors at the best, None before the first. The
    accumulators of id tables are the model's own.
    """

    model: UpstreamModel
    optimizer: torch.optim.AdamW
    curve: list[float] = field(default_factory=list)
    kept: dict[str, Tensor] | None = None

    @classmethod
    def start(
        cls, model: UpstreamModel, known: Mapping[str, Tensor] | None = None
    ) -> TowerTrainingState:
        """Of a model on its device; `known` is what AdamW remembers of a former training."""
        optimizer = adamw(model.towers, model.config.training.weight_decay, fused=True)
        restore_moments(optimizer, model.towers, known or {})
        return cls(model, optimizer)

    def judged(self, figure: float) -> None:
        """Note a judgement, and keep the model's tensors if it is the best."""
        self.curve.append(figure)
        if best_of(self.curve) == len(self.curve) - 1:
            self.kept = {name: each.clone() for name, each in self._of_model().items()}

    def best(self) -> UpstreamModel:
        """The model of the best judgement, on the CPU; the last one where there was none."""
        if self.kept is not None:
            self._become(self.kept)
        self.model.towers.eval()
        return self.model.to(torch.device("cpu"))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        held = {_MODEL + name: value for name, value in self._of_model().items()}
        held |= {_BEST + name: value for name, value in (self.kept or {}).items()}
        known = moments(self.optimizer, self.model.towers)
        held |= {_ADAM + name: value for name, value in known.items()}
        return held | {_CURVE: torch.tensor(self.curve, dtype=torch.float64)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds."""
        self._become(_under(_MODEL, checkpoint))
        restore_moments(self.optimizer, self.model.towers, moments_of(checkpoint))
        self.curve = checkpoint.tensors[_CURVE].tolist()
        best = _under(_BEST, checkpoint)
        self.kept = {name: each.to(self.model.device) for name, each in best.items()} or None

    def _of_model(self) -> dict[str, Tensor]:
        """The tensors themselves: dense ones, and those of the id tables."""
        held: dict[str, Tensor] = dict(self.model.towers.state_dict())
        for entity, table in self.model.tables.items():
            held |= {f"ids/{entity}/values": table.values, f"ids/{entity}/squares": table.squares}
        return held

    def _become(self, held: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, own in self._of_model().items():
                own.copy_(held[name])


def moments_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What AdamW remembered: a refresh's training goes on with it."""
    return _under(_ADAM, checkpoint)


def _under(prefix: str, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Out of the mapped file, as all of it is read anyway and its values change."""
    held = checkpoint.tensors
    return {name[len(prefix) :]: held[name].clone() for name in held if name.startswith(prefix)}
