"""Features of a former page set, taken over for rows that still show the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.producers.linksage.page_tables import PageSet

if TYPE_CHECKING:
    from provender.producers.linksage.features import Features, NodeFeatures

Rows = NDArray[np.int64]
Hashes = tuple["pa.Array[Any]", "pa.Array[Any]"]


@dataclass(frozen=True, eq=False)
class FormerFeatures:
    """The features of a former page set, and the folder of the encoders that made them."""

    rows: PageSet
    features: Features
    encoders: Path

    def places(self, name: str, rows: pa.Table) -> Rows:
        """Where each row stands in the former set if it shows the same, else -1: (n,).

        Args:
            name: `pages` or `pins`.
            rows: with the columns `key` and `content_hash`.
        """
        keys, hashes = self._hashes[name]
        found = pc.index_in(rows["key"].combine_chunks(), keys)
        same = pc.equal(hashes.take(found), rows["content_hash"].combine_chunks())
        kept = pc.if_else(pc.fill_null(same, False), found, None)
        return np.asarray(kept.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    @cached_property
    def _hashes(self) -> dict[str, Hashes]:
        files = {"pages": self.rows.pages, "pins": self.rows.pins}
        tables = {n: pq.read_table(f, columns=["key", "content_hash"]) for n, f in files.items()}
        return {
            name: (table["key"].combine_chunks(), table["content_hash"].combine_chunks())
            for name, table in tables.items()
        }


def completed(
    shown: NodeFeatures, keys: pa.Array[Any], former: NodeFeatures, places: Rows
) -> NodeFeatures:
    """The features of all rows (n,): those of `shown` where `places` is -1, else the former ones.

    Args:
        shown: of the rows that were encoded, in their order.
        keys: of all rows.
        former: of the former set.
        places: where each row stands there (n,).
    """
    anew, old = places < 0, places[places >= 0]
    text = np.empty((len(places), shown.text.shape[1]), np.float32)
    text[anew], text[~anew] = shown.text, former.text[old]
    counts = np.empty(len(places), np.int64)
    counts[anew], counts[~anew] = np.diff(shown.image_offsets), np.diff(former.image_offsets)[old]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    images = np.empty((int(offsets[-1]), shown.images.shape[1]), np.float32)
    sizes = np.empty(len(images), np.float32)
    to = runs(offsets[:-1][anew], counts[anew])
    images[to], sizes[to] = shown.images, shown.image_sizes
    to, at = (
        runs(offsets[:-1][~anew], counts[~anew]),
        runs(former.image_offsets[old], counts[~anew]),
    )
    images[to], sizes[to] = former.images[at], former.image_sizes[at]
    return replace(
        shown, keys=keys, text=text, images=images, image_offsets=offsets, image_sizes=sizes
    )


def runs(starts: Rows, sizes: Rows) -> Rows:
    """The places starts[i], starts[i] + 1, ... of all runs, one after the other."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
