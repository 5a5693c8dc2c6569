"""Approximate search by faiss, the extra `retrieval`: built once, kept in a folder of its own.

    <place>/<view>/<kind>-<checksum>/index.faiss, index.json

The folder is whole or not there. An index is derived: it answers only for the very vectors that it
was built from, told by the view, its version and space, the runs and a checksum over keys and
vectors; for any others another one is built. Its answers are places in that table, which
:mod:`retrieval` measures again in float64.

HNSW: Malkov and Yashunin 2016. IVF: inverted lists of k-means cells (Jégou et al. 2011).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provender.consumers.retrieval_vectors import VectorStamp, ViewVectors
from provender.plugin.errors import ConfigError
from provender.plugin.files import remove_folder, sha256_of, whole_folder
from provender.plugin.nearest import Metric

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Kind = Literal["hnsw", "ivf"]

_CARD, _FILE = "index.json", "index.faiss"
#: Indexes of a view and kind that are kept: of what is served and of what was before.
_KEPT = 2

_log = logging.getLogger(__name__)


class IndexConfig(BaseModel):
    """How an index is built and searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("hnsw", description="hnsw: a graph of neighbours; ivf: k-means cells")
    links: int = Field(32, ge=2, le=256, description="hnsw: neighbours of a vector, M")
    build_width: int = Field(200, ge=1, description="hnsw: efConstruction")
    width: int = Field(256, ge=1, description="hnsw: efSearch; at least k is searched")
    cells: int | None = Field(None, ge=1, description="ivf: none is 4 sqrt(N), as far as N allows")
    probes: int = Field(32, ge=1, description="ivf: cells that are searched")


class IndexCard(BaseModel):
    """What an index on disk says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    stamp: VectorStamp
    metric: Metric
    config: IndexConfig
    faiss: str
    sha256: str


class ApproximateIndex:
    """An index over the vectors that `card.stamp` says.

    Attributes:
        card: what it was built from, and how.
    """

    def __init__(self, card: IndexCard, index: Any) -> None:
        self.card, self._index = card, index

    def search(self, queries: npt.ArrayLike, k: int, allowed: Bools | None = None) -> Ints:
        """Return (Q, k) int64 places, nearer ones first as faiss rounds; -1 where there are fewer.

        Args:
            queries: (Q, D) finite floats.
            allowed: (N,) bool, which places may be answered; all by default.
        """
        faiss, config = _faiss(), self.card.config
        asked = _as_stored(np.asarray(queries, np.float32), self.card.metric)
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        if config.kind == "hnsw":
            chosen = faiss.SearchParametersHNSW(efSearch=max(config.width, k), **options)
        else:
            chosen = faiss.SearchParametersIVF(nprobe=config.probes, **options)
        _, rows = self._index.search(asked, k, params=chosen)
        return np.asarray(rows, np.int64)


def open_index(
    vectors: ViewVectors,
    metric: Metric,
    config: IndexConfig,
    place: Path | None = None,
) -> ApproximateIndex:
    """Return the index over some vectors: the stored one if it is theirs, else one built now.

    Args:
        place: the folder of all indexes; that beside the vectors by default. Without any it is
            kept in memory alone.

    Raises ConfigError: no faiss, a metric that it has not, or no vectors.
    """
    if metric == "l1" or not len(vectors.keys):
        raise ConfigError(
            f"approximate index of {vectors.spec.view_name}",
            found=f"{len(vectors.keys):,} vectors that may be used, compared by {metric}",
            expected="some, compared by inner_product, cosine or l2",
            remedy="Search exactly, or ask for a time at which there are vectors.",
        )
    folder = place or vectors.place
    if folder is None:
        return _built(vectors, metric, config)
    name = f"{config.kind}-{vectors.stamp.checksum[:16]}"
    stored = folder / vectors.spec.view_name / name
    found = _stored(stored, vectors.stamp, metric, config)
    if found is not None:
        return found
    made = _built(vectors, metric, config)
    card = _save(folder, stored, made)
    _sweep(folder, stored, config.kind)
    return ApproximateIndex(card, made._index)


def _stored(
    folder: Path, stamp: VectorStamp, metric: Metric, config: IndexConfig
) -> ApproximateIndex | None:
    """The index in a folder; None where it is another's, damaged or not there."""
    try:
        card = IndexCard.model_validate_json((folder / _CARD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("index %s can't be read (%s): it is built anew", folder, error)
        return None
    # Widths and probes are of the search, and may differ from one to the next.
    searched = {name: getattr(config, name) for name in ("width", "probes")}
    same = card.config.model_copy(update=searched) == config
    if card.stamp != stamp or card.metric != metric or not same:
        return None
    if not (folder / _FILE).is_file() or sha256_of(folder / _FILE) != card.sha256:
        _log.warning("index %s has other bytes than were written: it is built anew", folder)
        return None
    index = _faiss().read_index(str(folder / _FILE))
    return ApproximateIndex(card.model_copy(update={"config": config}), index)


def _built(vectors: ViewVectors, metric: Metric, config: IndexConfig) -> ApproximateIndex:
    faiss = _faiss()
    rows, dim = vectors.vectors.shape
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    stored = _as_stored(vectors.vectors, metric)
    if config.kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, config.links, kind)
        index.hnsw.efConstruction = config.build_width
    else:
        # faiss wants 39 vectors a cell to find it by.
        cells = config.cells or max(1, min(int(4 * math.sqrt(rows)), rows // 39))
        index = faiss.IndexIVFFlat(_centres(dim, kind), dim, min(cells, rows), kind)
        index.cp.min_points_per_centroid = 1
        index.train(stored)
    index.add(stored)
    card = IndexCard(
        stamp=vectors.stamp, metric=metric, config=config, faiss=faiss.__version__, sha256=""
    )
    return ApproximateIndex(card, index)


def _centres(dim: int, kind: int) -> Any:
    centres = _faiss().IndexFlat(dim, kind)
    centres.this.disown()  # The inverted lists own it from now on, in C++ and not in Python.
    return centres


def _as_stored(vectors: Any, metric: Metric) -> Any:
    """As faiss compares them: cosine is the inner product of directions."""
    made = np.ascontiguousarray(vectors, np.float32)
    if metric != "cosine":
        return made
    norms = np.linalg.norm(made, axis=1, keepdims=True)
    return np.divide(made, norms, out=np.zeros_like(made), where=norms > 0)


def _save(root: Path, folder: Path, made: ApproximateIndex) -> IndexCard:
    if folder.exists():
        remove_folder(root, folder)
    try:
        with whole_folder(root, folder) as staged:
            _faiss().write_index(made._index, str(staged / _FILE))
            card = made.card.model_copy(update={"sha256": sha256_of(staged / _FILE)})
            (staged / _CARD).write_text(card.model_dump_json(indent=2) + "\n")
    except FileExistsError:  # Somebody else has built the same one meanwhile.
        return made.card
    return card


def _sweep(root: Path, newest: Path, kind: Kind) -> None:
    """Drop indexes of the view and kind that nothing reads any more, but for the last few."""
    others = [each for each in newest.parent.glob(f"{kind}-*") if each != newest]
    for left in sorted(others, key=lambda each: each.stat().st_mtime)[: 1 - _KEPT]:
        remove_folder(root, left)


def recall_at(found: Ints, exact: Ints) -> float:
    """Return the mean share of the exact answers (Q, k) that are among the found ones (Q, k).

    Answers that there are none of, -1, count on neither side; 1 where there is nothing to find.
    """
    shares: Sequence[float] = [
        len(np.intersect1d(mine[mine >= 0], true[true >= 0])) / int((true >= 0).sum())
        for mine, true in zip(found, exact, strict=True)
        if (true >= 0).any()
    ]
    return float(np.mean(shares)) if shares else 1.0


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "approximate retrieval",
            found="no faiss",
            expected="faiss, which builds the index",
            remedy="Install it with `pip install 'provender[retrieval]'`, or search exactly.",
        ) from None
    return faiss
