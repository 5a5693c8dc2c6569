"""What users did last, as of any time: the newest events strictly before it, the newest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from provender.producers.upstream.event_index import EventLog
from provender.producers.upstream.inputs import Actions, Gathered
from provender.producers.upstream.timed_rows import Ints
from provender.producers.upstream.tower_numbers import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provender.producers.upstream.view_vectors import ViewVectors


@dataclass(frozen=True, eq=False)
class RecentActions:
    """The sequences of users.

    Attributes:
        log: their events of the declared types.
        length: so many are seen.
        pin_rows: int64 (pins + 1,), each pin's row in the id table, -1 for none, as for the last.
        views: of the pins that were met, as of the time that asks.
    """

    log: EventLog
    length: int
    pin_rows: Ints
    views: Mapping[str, ViewVectors] = field(default_factory=dict)

    def read(self, users: Ints, times: Ints) -> Actions:
        """The last actions of M users before their times (microseconds): (M, L), L the longest."""
        start = self.log.rows.offsets[users]
        ends = self.log.rows.before(users, times)
        longest = int(np.minimum(ends - start, self.length).max(initial=0))
        places = ends[:, None] - 1 - np.arange(longest)  # (M, L)
        present = places >= start[:, None]
        places = np.where(present, places, -1)  # the entry that is nobody's
        age = (times[:, None] - self.log.rows.times[places]) / DAY
        pins = self.log.pin[places].astype(np.int64)
        return Actions(
            event=torch.from_numpy(np.where(present, self.log.event[places], 0).astype(np.int64)),
            age=torch.from_numpy(np.where(present, age, 0).astype(np.float32)),
            pin=torch.from_numpy(self.pin_rows[pins]),
            present=torch.from_numpy(present),
            vectors={name: self._vectors(view, pins, times) for name, view in self.views.items()},
        )

    def _vectors(self, view: ViewVectors, pins: Ints, times: Ints) -> Gathered:
        asking = np.broadcast_to(times[:, None], pins.shape).reshape(-1)
        return gathered(view.vectors, view.at(pins.reshape(-1), asking).reshape(pins.shape))


def gathered(vectors: NDArray[np.float32], places: Ints) -> Gathered:
    """The vectors at some places, each once; -1 is none."""
    distinct, index = np.unique(places, return_inverse=True)
    missing = int(len(distinct) > 0 and distinct[0] < 0)
    table = np.ascontiguousarray(vectors[distinct[missing:]])
    return Gathered(
        torch.from_numpy(table), torch.from_numpy(index.reshape(places.shape) - missing)
    )
