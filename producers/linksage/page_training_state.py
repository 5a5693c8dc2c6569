"""What training pages changes, and a checkpoint holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from provender.producers.checkpoint import Checkpoint
from provender.producers.dense_optimizer import adamw, moments, restore_moments
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_tokens import shared
from provender.producers.validation import best_of

_MODEL, _BEST, _ADAM = "model/", "best/", "adam/"


@dataclass(eq=False)
class PageTrainingState:
    """A model that is changed in place, its optimizer, and how it was judged so far.

    `curve` are the judgements; `kept` the model's tensors at the best, None before the first.
    """

    model: PageModel
    modules: nn.ModuleDict
    optimizer: torch.optim.AdamW
    curve: list[float] = field(default_factory=list)
    kept: dict[str, Tensor] | None = None

    @classmethod
    def start(cls, model: PageModel) -> PageTrainingState:
        """Of an untrained model, on its device."""
        modules = model.modules
        return cls(model, modules, adamw(modules, model.config.training.weight_decay))

    def judged(self, figure: float) -> None:
        """Note a judgement, and keep the model's tensors if it is the best."""
        self.curve.append(figure)
        if best_of(self.curve) == len(self.curve) - 1:
            self.kept = {name: each.clone() for name, each in self.modules.state_dict().items()}

    def best(self) -> PageModel:
        """The model of the best judgement, on the CPU; the last one where there was none."""
        if self.kept is not None:
            self.modules.load_state_dict(self.kept)
        self.modules.eval()
        return self.model.to(torch.device("cpu"))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        held = {_MODEL + name: value for name, value in self.modules.state_dict().items()}
        held |= {_BEST + name: value for name, value in (self.kept or {}).items()}
        known = moments(self.optimizer, self.modules)
        held |= {_ADAM + name: value for name, value in known.items()}
        return held | {"curve": torch.tensor(self.curve, dtype=torch.float64)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds."""
        held = checkpoint.tensors
        self.modules.load_state_dict(_under(_MODEL, held))
        restore_moments(self.optimizer, self.modules, _under(_ADAM, held))
        self.curve = held["curve"].tolist()
        device = next(self.modules.parameters()).device
        self.kept = {n: v.to(device).clone() for n, v in _under(_BEST, held).items()} or None


def fingerprint(
    config: LinkSageConfig, features: Features, graph: PageGraph, neighbours: Neighbours
) -> str:
    """SHA-256 of all that training depends on: who resumes must have the same."""
    digest = hashlib.sha256(config.hash.encode())
    for tensor in (
        *(each for nodes in (features.pages, features.pins) for each in _arrays(nodes)),
        torch.empty(0) if features.targets is None else shared(features.targets),
        *(graph.representative, graph.positive_pin, graph.positive_page, graph.positive_weight),
        *(vars(neighbours)[name] for name in ("offsets", "types", "nodes", "visits", "degrees")),
    ):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.contiguous().numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()


def _arrays(nodes: NodeFeatures) -> list[Tensor]:
    arrays = (nodes.text, nodes.images, nodes.image_offsets, nodes.image_sizes)
    return [shared(each) for each in arrays]


def _under(prefix: str, held: dict[str, Tensor] | object) -> dict[str, Tensor]:
    assert isinstance(held, dict)
    return {name[len(prefix) :]: held[name] for name in held if name.startswith(prefix)}
