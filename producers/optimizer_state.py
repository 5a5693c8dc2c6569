"""What the optimizers know at the end of a run, by key and name, so that the next run goes on.

Without it a refresh begins with row-wise Adagrad's sums at zero, and its first step on a row is as
long as the first of all: `learning_rate` in every dimension, whatever is known of the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from provender.plugin.errors import CheckpointError
from provender.producers.graph import TripleGraph

#: Where it lies in a run's folder `model`; runs from before there was one lack it.
STATE = "optimizers.safetensors"
_SQUARES, _MOMENTS, _STEPS = "squares", "moments", "steps"


@dataclass(frozen=True, eq=False)
class OptimizerState:
    """All on the CPU.

    Attributes:
        squares: by entity type, float32 (n,) of row-wise Adagrad, in the order of its keys.
        moments: by relation and parameter, float32 (2, ...) of Adam; none where the space has been
            turned since: second moments are of single coordinates.
        steps: by relation, int64 (), of Adam.
    """

    squares: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    steps: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, graph: TripleGraph, squares: Tensor, moments: Mapping[str, Tensor], steps: Tensor
    ) -> OptimizerState:
        """Take apart what training has in a piece: (N,), by parameter (R, 2, ...), and (R,)."""
        names = [one.name for one in graph.relations]
        return cls(
            {entity: squares[graph.span(entity)].cpu() for entity in graph.counts},
            {
                relation: {name: values[index].cpu() for name, values in moments.items()}
                for index, relation in enumerate(names)
            },
            {relation: steps[index].cpu() for index, relation in enumerate(names)},
        )

    def turned(self) -> OptimizerState:
        """What is left of it once the space was turned: a row's mean square is no coordinate's."""
        return OptimizerState(self.squares, {}, {})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything, by name and sorted."""
        for entity, values in sorted(self.squares.items()):
            yield f"{_SQUARES}/{entity}", values
        for relation, own in sorted(self.moments.items()):
            for name, values in sorted(own.items()):
                yield f"{_MOMENTS}/{relation}/{name}", values
        for relation, values in sorted(self.steps.items()):
            yield f"{_STEPS}/{relation}", values

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        beside = path.with_name(f".{path.name}.part")
        save_file({name: values.clone() for name, values in self.tensors()}, beside)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> OptimizerState | None:
        """Read what `save` wrote; None where there is no file. Raises CheckpointError."""
        if not path.exists():
            return None
        squares: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        steps: dict[str, Tensor] = {}
        try:
            for key, values in load_file(path).items():
                kind, _, name = key.partition("/")
                if kind == _MOMENTS:
                    relation, _, parameter = name.rpartition("/")
                    moments.setdefault(relation, {})[parameter] = values
                else:
                    {_SQUARES: squares, _STEPS: steps}[kind][name] = values
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                str(path),
                found=f"{type(error).__name__}: {error}",
                expected="the optimizers' state of a finished run",
                remedy="Delete the file; the next run's optimizers then begin anew.",
            ) from None
        return cls(squares, moments, steps)


def first_moments(
    graph: TripleGraph, relation: Mapping[str, Tensor], state: OptimizerState | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Adam's moments by parameter, (R, 2, ...), and steps, (R,): the parent's, else zero."""
    moments = {name: torch.zeros(len(v), 2, *v.shape[1:]) for name, v in relation.items()}
    steps = torch.zeros(len(graph.relations), dtype=torch.int64)
    for index, one in enumerate(graph.relations):
        own = state.moments.get(one.name, {}) if state else {}
        if state and own.keys() == moments.keys():
            steps[index] = state.steps[one.name]
            for name, values in own.items():
                moments[name][index] = values
    return moments, steps
