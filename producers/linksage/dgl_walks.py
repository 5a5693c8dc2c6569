"""The same walks through DGL, the one module of LinkSage that knows it.

DGL draws the edges; it keeps its own random numbers, so that what it draws repeats for the same
blocks of starts and the same number of threads only. DGL is no longer developed: see dgl_graph.py.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from provender.plugin.counter_random import mix64
from provender.plugin.errors import ConfigError
from provender.producers.linksage.state_graph import StateGraph
from provender.producers.linksage.walks import Step


class DglWalker:
    """Walks on CPU by `dgl.sampling.random_walk`, over the states as a homogeneous DGL graph.

    Raises ConfigError where DGL is not installed.
    """

    def __init__(self, states: StateGraph, steps: Sequence[Step], seed: int) -> None:
        self.dgl, self.steps, self.seed = _dgl(), steps, seed
        self.first_start = states.spans[states.start][0]
        parts = (states.offsets.cpu(), states.targets.cpu(), torch.empty(0, dtype=torch.int64))
        self.graph = self.dgl.graph(("csr", parts), num_nodes=len(states.offsets) - 1)
        self.weight = None
        if states.weights is not None:
            self.weight = "weight"
            self.graph.edata[self.weight] = states.weights.cpu()

    def walk(self, starts: Tensor, hashes: Tensor, walks: Tensor) -> Tensor:
        """The states that are come to in counted steps: int64 (n, r * w)."""
        block = mix64(self.seed ^ (int(hashes[0]) if len(hashes) else 0) ^ mix64(int(walks[0])))
        self.dgl.seed(block >> 33)
        random = torch.Generator().manual_seed(block >> 1)
        begin = (starts.cpu() + self.first_start).repeat_interleave(len(walks))
        state, visited = begin, []
        for number, length in _stretches(self.steps):
            trace, _ = self.dgl.sampling.random_walk(
                self.graph, state, length=length, prob=self.weight
            )
            stretch = self.steps[number : number + length]
            visited += [trace[:, at] for at, step in enumerate(stretch, 1) if step.counted]
            state = trace[:, -1]
            for first, end, chance in stretch[-1].restarts:
                again = torch.rand(len(state), generator=random) < chance
                state = torch.where(again & (state >= first) & (state < end), begin, state)
        shape = (len(starts), len(walks))
        rows = [states.view(shape) for states in visited]
        return torch.cat([begin.new_zeros((len(starts), 0)), *rows], dim=1).to(starts.device)


def _stretches(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """First step and number of steps up to where walks may begin again, or to the end."""
    ends = [number + 1 for number, step in enumerate(steps) if step.restarts]
    bounds = sorted({0, *ends, len(steps)})
    return [(first, end - first) for first, end in pairwise(bounds)]


def _dgl() -> Any:
    if importlib.util.find_spec("dgl") is None:
        raise ConfigError(
            "section linksage, walks.walker",
            found="dgl, which is not installed",
            expected="DGL, which has wheels for Python up to 3.11",
            remedy="Install dgl==1.1.3, or set walker to torch.",
        )
    # Without a backend DGL asks for one and writes to the home folder.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl

    return dgl
