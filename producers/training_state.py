"""What training changes, and a checkpoint holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.checkpoint import Checkpoint, load_checkpoint
from provender.producers.chunks import generator_of
from provender.producers.graph import TripleGraph
from provender.producers.mapped_rows import BLOCK
from provender.producers.memory import in_huge_pages
from provender.producers.optimizer_state import OptimizerState, first_moments
from provender.producers.parameters import Parameters
from provender.producers.transra_config import TransRAConfig
from provender.producers.validation import best_of
from provender.producers.warm_start import (
    Parent,
    Reference,
    align,
    first_entities,
    first_relations,
    first_squares,
    random_entities,
)

_BEST, _RELATION, _MOMENTS = "best/", "relation/", "moments/"


@dataclass(eq=False)
class TrainingState:
    """Parameters, the optimizers' state, and how training was judged so far.

    Attributes:
        parameters: changed in place.
        squares: (N,) of row-wise Adagrad.
        moments: by relation parameter, (R, 2, ...) of Adam.
        steps: (R,) int64, of Adam, on the CPU.
        curve: the judgements so far.
        kept: the parameters of the best judgement; None before the first.
    """

    parameters: Parameters
    squares: Tensor
    moments: dict[str, Tensor]
    steps: Tensor
    curve: list[float] = field(default_factory=list)
    kept: Parameters | None = None

    @classmethod
    def start(
        cls,
        graph: TripleGraph,
        config: TransRAConfig,
        device: torch.device,
        parent: Parent | None,
        reference: Reference | None = None,
    ) -> TrainingState:
        """Begin from the parent's vectors, relations and optimizers, or at random.

        `reference` are the parent's vectors as `align` has them, where somebody has looked them up.
        """
        generator, norm = generator_of(config.seed, -1), config.init_norm
        if parent:
            reference = reference or align(graph, config.dim, parent)
            entity = first_entities(graph, reference.to("cpu"), norm, generator)
        else:
            entity = random_entities(graph.entities, config.dim, norm, generator)
        relation = first_relations(graph, config.model, config.dim, parent)
        if (anchor := anchor_of(graph, config)) is not None:
            relation["deviation"][anchor] = 0.0
        moments, steps = first_moments(
            graph, relation, parent.state if parent and config.state_decay else None
        )
        return cls(
            parameters=Parameters(config.model, entity, relation).to(device),
            squares=first_squares(graph, parent, config.state_decay).to(device),
            moments={name: values.to(device) for name, values in moments.items()},
            steps=steps,
        )

    def in_huge_pages(self) -> TrainingState:
        """Itself, its tables in memory that is quick to reach at random."""
        for table in self.tensors().values():
            in_huge_pages(table)
        return self

    def judged(self, figure: float) -> None:
        """Note a judgement, and keep the parameters if it is the best."""
        self.curve.append(figure)
        if best_of(self.curve) == len(self.curve) - 1:
            self.kept = _copy(self.parameters)

    def best(self) -> Parameters:
        """The parameters of the best judgement; the last ones where there was none."""
        return self.kept or self.parameters

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        held = _named(self.parameters)
        held |= {_MOMENTS + name: values for name, values in self.moments.items()}
        held |= {"squares": self.squares, "steps": self.steps}
        held["curve"] = torch.tensor(self.curve, dtype=torch.float64)
        if self.kept is not None:
            held |= {_BEST + name: values for name, values in _named(self.kept).items()}
        return held

    def restored(self, checkpoint: Checkpoint) -> TrainingState:
        """The checkpoint's state, each tensor on the device where its namesake is."""
        device = self.squares.device
        # Out of the mapped file: its pages are small ones, and rows are read at random.
        held = {name: values.clone() for name, values in checkpoint.tensors.items()}
        best = {
            name.removeprefix(_BEST): values
            for name, values in held.items()
            if name.startswith(_BEST)
        }
        model = self.parameters.model
        return TrainingState(
            parameters=_parameters(model, held).to(device),
            squares=held["squares"].to(device),
            moments={name: held[_MOMENTS + name].to(device) for name in self.moments},
            steps=held["steps"],
            curve=held["curve"].tolist(),
            kept=_parameters(model, best).to(device) if best else None,
        )

    def check_finite(self, graph: TripleGraph) -> None:
        """Raise TrainingError for a value that is no number.

        The last update of a row may spoil it after its loss was fine.
        """
        for name, tensor in self.tensors().items():
            if tensor.is_floating_point() and not _is_finite(tensor):
                raise TrainingError(
                    f"the end of training on {graph.edges} edges",
                    found=f"{name} with values that are no finite numbers",
                    expected="finite numbers",
                    remedy="Lower learning_rate or score_scale.",
                )


def optimizers_at_end(
    folder: Path, graph: TripleGraph, config: TransRAConfig, parent: Parent | None
) -> OptimizerState | None:
    """The optimizers' state in the last checkpoint of a finished training, for its `parameters`."""
    found = load_checkpoint(folder, fingerprint(graph, config, parent))
    if found is None:
        return None
    moments = {
        name.removeprefix(_MOMENTS): values
        for name, values in found.tensors.items()
        if name.startswith(_MOMENTS)
    }
    state = OptimizerState.of(graph, found.tensors["squares"], moments, found.tensors["steps"])
    turned = parent is None and config.principal_axes and "translation" in moments
    return state.turned() if turned else state


def curve_at_end(
    folder: Path, graph: TripleGraph, config: TransRAConfig, parent: Parent | None
) -> list[float]:
    """The judgements in the last checkpoint of a finished training."""
    found = load_checkpoint(folder, fingerprint(graph, config, parent))
    return found.tensors["curve"].tolist() if found else []


def anchor_of(graph: TripleGraph, config: TransRAConfig) -> int | None:
    """The anchor relation's position; None for models and settings that have none."""
    if config.model != "transra" or config.anchor_relation is None:
        return None
    return graph.index_of(config.anchor_relation)


def fingerprint(graph: TripleGraph, config: TransRAConfig, parent: Parent | None) -> str:
    """A SHA-256 of what a training starts from: who shares it may go on from its checkpoints."""
    parts = [graph.fingerprint, config.hash, parent.fingerprint if parent else ""]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    return all(bool(torch.isfinite(block).all()) for block in tensor.split(BLOCK))


def _named(parameters: Parameters) -> dict[str, Tensor]:
    named = {_RELATION + name: values for name, values in parameters.relation.items()}
    return {"entity": parameters.entity, **named}


def _parameters(model: str, held: dict[str, Tensor]) -> Parameters:
    relation = {
        name.removeprefix(_RELATION): values
        for name, values in held.items()
        if name.startswith(_RELATION)
    }
    return Parameters(model, held["entity"], relation)


def _copy(parameters: Parameters) -> Parameters:
    relation = {name: values.clone() for name, values in parameters.relation.items()}
    return Parameters(parameters.model, parameters.entity.clone(), relation)
