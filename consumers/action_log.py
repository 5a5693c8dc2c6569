"""What users did, from the declared logs: their last actions before any row of training data.

    actions = ActionLog.load(world, data, work).with_vectors(store, "ranker_transra")
    history = actions.histories(users, times)     # consumers/user_history.py

Keys come first: for each row its actions, for each action the place of its pin's vector as it was
known at the row's time. Only then the distinct vectors are gathered, each once.

Legend of shapes: B rows, L actions of a row at most, P actions of all rows, U distinct items.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from provender.consumers.action_rows import KIND, read_actions
from provender.consumers.features import Column, FeatureLayout
from provender.consumers.history_shaping import PastActions, first_seen, shape_history
from provender.consumers.ranking_task import PIN, TIME, USER
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.errors import ConfigError
from provender.plugin.history import MISSING
from provender.plugin.key_index import NO_RANK, normalized
from provender.plugin.view_lookup import ViewLookup, open_lookup
from provender.plugin.world import World

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ActionLog:
    """The actions of all users, ascending by user and time; 13 bytes an action, and its keys.

    Of the same time the latest is the one whose kind, then whose pin, comes first. It may be
    pickled, for the workers of a stream.

    Attributes:
        spec: what rankers see of it.
        users: (u,) int64 or string, ascending; pins: (p,) likewise.
        starts: int64 (u + 1,), where each user's actions begin.
        items: int32 (n,), places in `pins`.
        kinds: int8 (n,), places in the spec's kinds.
        times: int64 (n,), microseconds since 1970-01-01 UTC.
        left_out: kind -> rows without a readable user, pin or time.
        lookups: view -> where the pins' vectors are found.
    """

    spec: HistorySpec
    users: pa.Array
    pins: pa.Array
    starts: Ints
    items: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.int8]
    times: Ints
    left_out: Mapping[str, int] = field(default_factory=dict)
    lookups: Mapping[str, ViewLookup] = field(default_factory=dict)

    @classmethod
    def load(
        cls, world: World, data: Path, work: Path, *, before: datetime | None = None
    ) -> ActionLog:
        """Read the actions that the world's `ranking.history` declares.

        Args:
            world: with a `history` in its ranking section.
            data: the folder that relative paths start from.
            work: a folder for spill files; the caller removes it.
            before: only actions earlier than this time; all of them by default. Rows never see
                actions that are not before them, so it only saves memory.

        Raises:
            ConfigError: the world declares no history, or `before` has no zone.
            MappingError: a table, column or condition that is not there.
            BadRowsError: more bad rows of a kind than the world allows.
        """
        return cls._of_table(*read_actions(world, data, work, before))

    @classmethod
    def _of_table(
        cls, spec: HistorySpec, table: pa.Table, left_out: Mapping[str, int]
    ) -> ActionLog:
        users = normalized(table[USER]).dictionary_encode()
        of_pins = normalized(table[PIN])
        pins = of_pins.unique()
        pins = pins.take(pc.sort_indices(pins))
        numbers = users.indices.to_numpy()
        return cls(
            spec=spec,
            users=users.dictionary,
            pins=pins,
            starts=np.searchsorted(numbers, np.arange(len(users.dictionary) + 1)),
            items=places_in(pins, of_pins).astype(np.int32),
            kinds=table[KIND].to_numpy().astype(np.int8),
            times=table[TIME].to_numpy(),
            left_out=left_out,
        )

    def __len__(self) -> int:
        return len(self.times)

    def with_vectors(
        self,
        store: FeatureStore,
        service: str | FeatureLayout,
        *,
        views: Collection[str] | None = None,
        backfills: bool = False,
    ) -> ActionLog:
        """Return the same log with the vectors of its pins, each as it was known to a row.

        Args:
            store: where the views are registered.
            service: the ranker's feature service, or its layout.
            views: which of its embedding views by pin; all by default.
            backfills: whether a vector that was written after a row's time counts, as in
                `training_join`.

        Raises:
            ConfigError: no such service, a view that is not its or not by pin, or keys of a type
                that the log's pins have not.
        """
        if isinstance(service, str):
            service = FeatureLayout.of_service(store, service)
        known = history_views(service)
        for name in views or ():
            if name not in known:
                raise ConfigError(
                    f"history, view {name}",
                    found=f"no embedding view by {PIN} of {service.service}",
                    expected=f"one of {', '.join(known) or '(it has none)'}",
                    remedy="Correct the name, or add the view to the service.",
                )
        wanted = [name for name in known if views is None or name in views]
        lookups = {
            name: open_lookup(store, name, self.pins, backfills=backfills) for name in wanted
        }
        return replace(self, lookups=lookups)

    def histories(self, users: pa.Array, times: Ints) -> History:
        """Return what the user of each row did before it, the latest first.

        An action counts iff its time is strictly earlier than the row's: what a row led to is not
        seen, nor is what happened in the same microsecond. A pin's vectors are those that hold at
        the time of the row.

        Args:
            users: (B,) of the type of the world's users; unknown ones did nothing.
            times: int64 (B,), microseconds since 1970-01-01 UTC.

        Raises ConfigError for users of another type.
        """
        found = self._find(users, times)
        when = times[found.rows] * 1000
        positions = {name: lookup.find(found.items, when) for name, lookup in self.lookups.items()}
        numbers, firsts = first_seen(found.items, *positions.values())
        columns = {
            name: _gathered(self.lookups[name], each[firsts]) for name, each in positions.items()
        }
        keys = self.pins.take(pa.array(found.items[firsts]))
        shape = len(times), self.spec.length
        return shape_history(replace(found, items=numbers), shape, keys, columns)

    def _find(self, users: pa.Array, times: Ints) -> PastActions:
        """The last L actions of each row; items are places in the log's pins."""
        known = self._places_of(users)
        if not len(self):
            known = np.full(len(times), NO_RANK, np.int64)
        first = self.starts[np.maximum(known, 0)] if len(self) else np.zeros_like(known)
        end = self.starts[np.maximum(known, 0) + 1] if len(self) else first
        past = _count_before(self.times, first, np.where(known == NO_RANK, first, end), times)
        at = past[:, None] - 1 - np.arange(self.spec.length)  # (B, L)
        rows, places = np.nonzero(at >= first[:, None])
        actions = at[rows, places]
        return PastActions(
            rows=rows,
            places=places,
            items=self.items[actions].astype(np.int64),
            kinds=self.kinds[actions].astype(np.int64),
            ages_us=times[rows] - self.times[actions],
        )

    def _places_of(self, users: pa.Array) -> Ints:
        wanted = normalized(users)
        if len(self) and wanted.null_count < len(wanted) and wanted.type != self.users.type:
            raise ConfigError(
                "history",
                found=f"users of type {wanted.type}",
                expected=f"{self.users.type}, as the log of actions has them",
                remedy="Correct the type of `user` among the world's entities.",
            )
        return places_in(self.users, wanted)


def history_views(layout: FeatureLayout) -> list[str]:
    """Return the embedding views of a layout that an action's pin has vectors in."""
    return [spec.view_name for spec in layout.embeddings if spec.join_key == PIN]


def places_in(held: pa.Array, wanted: pa.Array) -> Ints:
    """Return where wanted keys stand among ascending ones, NO_RANK for those that do not.

    Args:
        held: int64 or string (n,), ascending, each once.
        wanted: (m,) of the same type; null is nowhere.
    """
    if not len(held) or wanted.null_count == len(wanted):
        return np.full(len(wanted), NO_RANK, np.int64)
    places = pc.search_sorted(held, wanted.fill_null(wanted.drop_null()[0]))
    places = np.minimum(places.to_numpy().astype(np.int64), len(held) - 1)
    same = pc.fill_null(pc.equal(held.take(pa.array(places)), wanted), False)
    return np.where(same.to_numpy(zero_copy_only=False), places, NO_RANK)


def _gathered(lookup: ViewLookup, positions: Ints) -> Column:
    """The vectors at positions (U,), of which some may be MISSING."""
    present = positions != MISSING
    taken = lookup.take(positions[present])
    if present.all():
        return Column(taken, present)
    vectors = np.zeros((len(positions), lookup.spec.dim), np.float32)
    vectors[present] = taken
    return Column(vectors, present)


def _count_before(held: Ints, low: Ints, high: Ints, times: Ints) -> Ints:
    """Return, for each row, the first place in low..high of what is not earlier than its time."""
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) // 2
        earlier = (held[np.minimum(middle, len(held) - 1)] < times) & (low < high)
        low = np.where(earlier, middle + 1, low)
        high = np.where(earlier, high, np.maximum(middle, low))
    return low
