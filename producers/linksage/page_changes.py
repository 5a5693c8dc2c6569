"""What pages were embedded from, and which of them a refresh has to embed anew.

A page is embedded anew where it is new, shows something else, or where its neighbourhood has
changed by more than is allowed since it was embedded last: not since the last refresh, so that many
small changes add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.producers.linksage.feature_reuse import runs
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_neighbours import NEIGHBOUR_TYPES, Neighbours
from provender.producers.linksage.page_tables import PageSet

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Embedded:
    """By page, what it shows and which neighbours it has or had, in the order of their keys.

    `keys` (n,); `content` (n,), a hash; `offsets` (n + 1,), where each page's neighbours begin;
    `neighbours` (m,), hashes of what they are and show; `visits` (m,), of each.
    """

    keys: pa.Array[Any]
    content: Hashes
    offsets: NDArray[np.int64]
    neighbours: Hashes
    visits: NDArray[np.int32]

    @classmethod
    def of(cls, pages: PageSet, graph: PageGraph, neighbours: Neighbours) -> Embedded:
        """As a page set's pages would be embedded now."""
        keys, shown = _identities(pages.pages)
        pins = _identities(pages.pins)[1][graph.representative.numpy()]
        types, nodes = neighbours.types.numpy(), neighbours.nodes.numpy()
        found = np.empty(len(nodes), np.uint64)
        for number, identities in enumerate((pins, shown)):
            # A page and a pin may have the same key and show the same.
            salt = np.uint64(0x9E3779B97F4A7C15 * number % 2**64)
            of_type = types == NEIGHBOUR_TYPES.index(("pin", "page")[number])
            found[of_type] = identities[nodes[of_type]] ^ salt
        return cls(keys, shown, neighbours.offsets.numpy(), found, neighbours.visits.numpy())

    def save(self, path: Path) -> None:
        """Write a Parquet file, a row a page."""
        lists = [
            pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(each))
            for each in (self.neighbours, self.visits)
        ]
        table = pa.table([self.keys, self.content, *lists], ["key", "content", *_LISTS])
        pq.write_table(table, path)

    @classmethod
    def load(cls, path: Path) -> Embedded:
        """Read back what :meth:`save` wrote."""
        table = pq.read_table(path).combine_chunks()
        lists = [table[name].combine_chunks() for name in _LISTS]
        flat = [each.flatten().to_numpy(zero_copy_only=False) for each in lists]
        lengths = lists[0].value_lengths().to_numpy(zero_copy_only=False)
        return cls(
            table["key"].combine_chunks(),
            table["content"].combine_chunks().to_numpy(zero_copy_only=False),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            flat[0],
            flat[1],
        )

    def _owners(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.keys)), np.diff(self.offsets))

    def _shares(self) -> NDArray[np.float64]:
        """Each neighbour's visits as a share of its page's."""
        owners = self._owners()
        total = np.bincount(owners, self.visits, minlength=len(self.keys))
        return self.visits / total[owners]


_LISTS = ("neighbours", "visits")


@dataclass(frozen=True, eq=False)
class Changes:
    """Masks over the pages of now (n,), of which at most one is true for each.

    `former` int64 (n,): each page's row of what was embedded before, -1 for a new one.
    """

    former: NDArray[np.int64]
    content: NDArray[np.bool_]
    neighbourhood: NDArray[np.bool_]

    @property
    def new(self) -> NDArray[np.bool_]:
        """Pages that have never been embedded."""
        return self.former < 0

    @property
    def any(self) -> NDArray[np.bool_]:
        """Pages to embed."""
        return self.new | self.content | self.neighbourhood

    def counts(self) -> dict[str, int]:
        """Pages by reason, and those that keep their vectors."""
        told = {name: getattr(self, name) for name in ("new", "content", "neighbourhood")}
        return {**{n: int(m.sum()) for n, m in told.items()}, "kept": int((~self.any).sum())}


def changes(now: Embedded, before: Embedded, most: float) -> Changes:
    """Compare pages as they are with what they were embedded from.

    Args:
        now: the pages of this refresh.
        before: what the former run's vectors were made from.
        most: the change of a neighbourhood that is allowed: half the sum of the differences of
            the neighbours' shares of visits, 0 to 1 (the total variation of the two).
    """
    former = pc.index_in(now.keys, before.keys).fill_null(-1).to_numpy(zero_copy_only=False)
    former = former.astype(np.int64)
    known = former >= 0
    content = np.zeros(len(now.keys), bool)
    content[known] = now.content[known] != before.content[former[known]]
    moved = known & ~content & (_distance(now, before, former) > most)
    return Changes(former, content, moved)


def carried(now: Embedded, before: Embedded, changed: Changes) -> Embedded:
    """What all vectors are made from once those that changed are embedded anew."""
    anew = changed.any
    sizes = np.diff(now.offsets)
    sizes[~anew] = np.diff(before.offsets)[changed.former[~anew]]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    neighbours = np.empty(offsets[-1], np.uint64)
    visits = np.empty(offsets[-1], np.int32)
    for mask, of, rows in (
        (anew, now, np.flatnonzero(anew)),
        (~anew, before, changed.former[~anew]),
    ):
        to = runs(offsets[:-1][mask], sizes[mask])
        at = runs(of.offsets[rows], sizes[mask])
        neighbours[to], visits[to] = of.neighbours[at], of.visits[at]
    return Embedded(now.keys, now.content, offsets, neighbours, visits)


def _distance(now: Embedded, before: Embedded, former: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total variation of the neighbours' shares, by page of now; of no use for new pages."""
    owner, share = now._owners(), now._shares()
    place = np.full(len(before.keys), -1)
    place[former[former >= 0]] = np.flatnonzero(former >= 0)
    former_owner = place[before._owners()]
    one = pd.DataFrame({"page": owner, "neighbour": now.neighbours, "share": share})
    other = pd.DataFrame(
        {"page": former_owner, "neighbour": before.neighbours, "was": before._shares()}
    )
    both = one.merge(other[other.page >= 0], on=["page", "neighbour"])
    common = np.bincount(both.page, np.minimum(both.share, both.was), minlength=len(now.keys))
    had = np.bincount(former_owner[former_owner >= 0], minlength=len(now.keys))
    lonely = (np.diff(now.offsets) == 0) & (had == 0)
    return np.where(lonely, 0.0, 1.0 - common)


def _identities(file: Path) -> tuple[pa.Array[Any], Hashes]:
    """The keys of pages or pins, and a hash of each one's key and content."""
    rows, hashes = pq.ParquetFile(file), [np.empty(0, np.uint64)]
    for batch in rows.iter_batches(columns=["key", "content_hash"]):
        key, content = (batch[name].cast(pa.string()) for name in ("key", "content_hash"))
        named = pc.binary_join_element_wise(key, content, "\n").to_numpy(zero_copy_only=False)
        hashes.append(pd.util.hash_array(named, categorize=False))
    return rows.read(["key"])["key"].combine_chunks(), np.concatenate(hashes)
