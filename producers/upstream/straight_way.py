"""The straight way from id rows to vectors, beside the towers.

A user's row, the rows of the pins he met last and a pin's own row go through a matrix an entity
into the space of the vectors, and the towers' outputs are added. So what rows say of who goes with
whom, as those of a knowledge graph do, is in the vectors from the first step, and a user whom
nobody knows is near to the pins that he met.

Legend of shapes: M rows, L actions, U rows of an id table of r numbers, d dims of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provender.plugin.id_table import Rows
from provender.producers.upstream.inputs import Actions

#: How an action's weight falls with its age at first: by the square root of 1 + days.
_FADING = 0.5


class Straight(nn.Module):
    """Rows of r numbers to vectors of d: as they are at first, as far as there is room."""

    def __init__(self, numbers: int, dims: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(dims, numbers))

    def forward(self, rows: Tensor) -> Tensor:
        """(M, r) to (M, d)."""
        return rows @ self.matrix.T


class Recent(nn.Module):
    """The mean row of the pins that users met (M, r), weighted by event type and age."""

    def __init__(self, events: int) -> None:
        super().__init__()
        self.event = nn.Parameter(torch.zeros(events))
        self.fading = nn.Parameter(torch.tensor(_FADING))
        self.share = nn.Parameter(torch.tensor(1.0))

    def forward(self, actions: Actions, rows: Rows) -> Tensor:
        """Of actions (M, L); zeros for users without any whose pin has a row."""
        there = actions.present & (actions.pin >= 0)
        scores = self.event[actions.event] - self.fading * torch.log1p(actions.age.clamp(min=0))
        weights = torch.where(there, scores.masked_fill(~there, -1e4).softmax(1), 0.0)  # (M, L)
        met = looked_up(rows, torch.where(there, actions.pin, -1))  # (M, L, r)
        found: Tensor = self.share * (weights.unsqueeze(1) @ met).squeeze(1)
        return found


def looked_up(rows: Rows, ids: Tensor) -> Tensor:
    """Rows (..., r) of ids (...); zeros for -1."""
    if not len(rows.values):  # Of a batch in which nobody has a row.
        return rows.values.new_zeros(*ids.shape, rows.values.shape[1])
    places = rows.places(ids)
    found = F.embedding(places.clamp(min=0), rows.values)
    return found * (places >= 0).unsqueeze(-1)
