"""Texts and images of pages and pins as vectors: one space for all texts, one for all images.

`compute_features` does so for a whole page set, into files that are mapped; `encode_pages` for a
few rows, with the encoders that were fitted then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.errors import CheckpointError
from provender.plugin.files import remove_folder, sha256_of, whole_folder
from provender.producers.linksage.config import FeatureConfig
from provender.producers.linksage.encoder_set import EncoderSet, Shown, check_given
from provender.producers.linksage.feature_files import (
    mapped_keys,
    mapped_npy,
    npy_writer,
    write_keys,
)
from provender.producers.linksage.feature_reuse import FormerFeatures, completed
from provender.producers.linksage.row_vectors import (
    Unreadable,
    image_vectors,
    lengths_of,
    matrix,
    text_vectors,
)
from provender.producers.vectors import unit

if TYPE_CHECKING:
    from provender.producers.linksage.page_tables import PageSet

Vectors = NDArray[np.float32]
#: Where a folder of features has its encoders.
ENCODERS = "encoders"
_ABOUT = "features.json"
_FORMAT = 1
_ROWS = 1024
_SHOWN = ["key", "text", "text_vector", "image_files", "image_vectors", "image_sizes"]


@dataclass(frozen=True, eq=False)
class NodeFeatures:
    """What n nodes of one type show, in the order of their keys.

    `keys` (n,) ascending, int64 or string; `text` (n, a), rows of norm 1, zero where a node has
    none; `images` (m, b), rows of norm 1; `image_offsets` (n + 1,): the images of node i are
    ``images[image_offsets[i] : image_offsets[i + 1]]``, the largest first; `image_sizes` (m,).
    a or b is 0 where no node of any type has texts or images. The arrays may be mapped from files.
    """

    keys: pa.Array[Any]
    text: Vectors
    images: Vectors
    image_offsets: NDArray[np.int64]
    image_sizes: Vectors

    def __len__(self) -> int:
        return len(self.keys)

    def mean_images(self) -> Vectors:
        """Each node's mean image weighted by size, (n, b) of norm 1; zero where it has none.

        Where all sizes of a node are zero its images count alike.
        """
        return self._means

    @cached_property
    def _means(self) -> Vectors:
        from scipy.sparse import csr_array

        counts = np.diff(self.image_offsets)
        owners = np.repeat(np.arange(len(counts)), counts)
        total = np.bincount(owners, self.image_sizes, minlength=len(counts))
        weights = np.where(total[owners] > 0, self.image_sizes, 1).astype(np.float32)
        shape = (len(counts), len(self.images))
        places = np.arange(len(self.images))
        sums = csr_array((weights, places, self.image_offsets), shape=shape) @ self.images
        return unit(sums)


@dataclass(frozen=True, eq=False)
class Features:
    """Of a whole page set.

    `targets` (pins, t) are the given vectors of pins as they were given, rows of NaN where a pin
    has none; None where no pin has one. `report` tells how many nodes have text and images, the
    lengths and versions of the spaces, and which images could not be read (JSON-able).
    """

    pages: NodeFeatures
    pins: NodeFeatures
    targets: Vectors | None
    report: Mapping[str, Any] = field(default_factory=dict)


def compute_features(
    pages: PageSet,
    config: FeatureConfig,
    folder: Path,
    *,
    fitted: Path | None = None,
    former: FormerFeatures | None = None,
) -> Features:
    """Features of a page set, mapped from files in `folder`, which is whole or not there.

    What stands there already of the same rows, settings and encoders is taken as it is; anything
    else there is replaced.

    Args:
        fitted: encoders to use instead of fitting some: the folder ENCODERS of other features.
        former: features of which rows that still show the same are taken over, with their encoders.

    Raises:
        MappingError: vectors for pages but text or images for pins, or the reverse; vectors of
            several lengths; rows that do not fit the `fitted` encoders.
        ConfigError: an encoder that can't be used, or another one than was `fitted`.
        CheckpointError: `fitted` is damaged.
    """
    files = {"pages": pages.pages, "pins": pages.pins}
    fitted = former.encoders if former is not None else fitted
    encoders = EncoderSet.load(fitted) if fitted is not None else None
    fingerprint = _fingerprint(files, config, encoders)
    if _stands(folder, fingerprint):
        return open_features(folder)
    remove_folder(folder.parent, folder)
    with whole_folder(folder.parent, folder) as staged:
        if encoders is None:
            encoders = EncoderSet.fit(files, pages.data, config)
        else:
            encoders.check(files, config)
        encoders.save(staged / ENCODERS)
        spaces = {"text": encoders.text.dim, "image": encoders.image.dim}
        report: dict[str, Any] = {"dims": spaces, "versions": encoders.versions}
        for name, file in files.items():
            report[name] = _write_nodes(staged, name, file, pages.data, encoders, former)
        report["targets"] = _write_targets(staged / "targets.npy", pages.pins)
        about = {"format": _FORMAT, "fingerprint": fingerprint, "report": report}
        (staged / _ABOUT).write_text(json.dumps(about, indent=1))
    return open_features(folder)


def open_features(folder: Path) -> Features:
    """What `compute_features` has written there; raises CheckpointError where it is not whole."""
    try:
        report = json.loads((folder / _ABOUT).read_bytes())["report"]
        targets = mapped_npy(folder / "targets.npy") if report["targets"] else None
        return Features(_open(folder, "pages"), _open(folder, "pins"), targets, report)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise CheckpointError(
            f"features in {folder}",
            found=f"{type(error).__name__}: {error}",
            expected="features as they were computed",
            remedy="Restore it; if its run is not finished, delete it: they are computed again.",
        ) from None


def encode_pages(rows: pa.Table, encoders: EncoderSet, data: Path) -> NodeFeatures:
    """Features of rows as canonical Parquet files have them, of any order and number.

    They equal those that `compute_features` gives these rows with the same encoders. Images that
    can't be read are left out.

    Args:
        rows: columns `key`, `text`, `text_vector`, `image_files`, `image_vectors`, `image_sizes`.
        encoders: ``EncoderSet.load(folder / ENCODERS)``.
        data: the folder that image files are relative to.

    Raises MappingError where rows do not fit the encoders.
    """
    return _encoded("pages", rows, encoders, data, Unreadable())


def check_rows(name: str, rows: pa.Table, encoders: EncoderSet) -> None:
    """Raise MappingError where given vectors of `pages` or `pins` do not fit the encoders.

    Single rows may show nothing, so only what they do give has to fit.
    """
    for kind, space in (("text", encoders.text), ("image", encoders.image)):
        lengths = lengths_of(rows, kind)
        check_given(kind, name, space, Shown(0, len(lengths), tuple(sorted(set(lengths)))))


def _encoded(
    name: str, rows: pa.Table, encoders: EncoderSet, data: Path, unreadable: Unreadable
) -> NodeFeatures:
    check_rows(name, rows, encoders)
    images, counts, sizes = image_vectors(encoders.image, rows, data, unreadable)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    keys = rows["key"].combine_chunks()
    return NodeFeatures(keys, text_vectors(encoders.text, rows), images, offsets, sizes)


def _of_rows(
    name: str,
    rows: pa.Table,
    encoders: EncoderSet,
    data: Path,
    unreadable: Unreadable,
    former: FormerFeatures | None,
) -> NodeFeatures:
    """Features of rows, of which only those are encoded that showed something else before."""
    if former is None:
        return _encoded(name, rows, encoders, data, unreadable)
    places = former.places(name, rows)
    shown = _encoded(name, rows.filter(pa.array(places < 0)), encoders, data, unreadable)
    known = former.features.pages if name == "pages" else former.features.pins
    return completed(shown, rows["key"].combine_chunks(), known, places)


def _write_nodes(
    folder: Path,
    name: str,
    file: Path,
    data: Path,
    encoders: EncoderSet,
    former: FormerFeatures | None,
) -> dict[str, Any]:
    """Write the arrays of pages or pins batch by batch; return what there is to report."""
    unreadable, end, having = Unreadable(), 0, {"text": 0, "images": 0}
    write_keys(folder / f"{name}.keys.arrow", pq.read_table(file, columns=["key"])["key"])
    with ExitStack() as stack:
        text, images, sizes, offsets = (
            stack.enter_context(npy_writer(folder / f"{name}.{part}.npy", shape, kind))
            for part, shape, kind in (
                ("text", (encoders.text.dim,), np.float32),
                ("images", (encoders.image.dim,), np.float32),
                ("image_sizes", (), np.float32),
                ("image_offsets", (), np.int64),
            )
        )
        offsets.add(np.zeros(1, np.int64))
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=[*_SHOWN, "content_hash"]):
            rows = pa.Table.from_batches([batch])
            found = _of_rows(name, rows, encoders, data, unreadable, former)
            text.add(found.text)
            images.add(found.images)
            sizes.add(found.image_sizes)
            offsets.add(found.image_offsets[1:] + end)
            end += len(found.images)
            having["text"] += int(found.text.any(axis=1).sum())
            having["images"] += int((np.diff(found.image_offsets) > 0).sum())
    return {
        "nodes": pq.ParquetFile(file).metadata.num_rows,
        "with_text": having["text"],
        "with_images": having["images"],
        "images": end,
        "unreadable_images": unreadable.report(),
    }


def _write_targets(path: Path, file: Path) -> int:
    """Write the pins' given vectors and return how long they are; 0 and no file without any."""
    dim = 0
    for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["target"]):
        lengths = batch["target"].value_lengths().drop_null()
        dim = dim or (lengths[0].as_py() if len(lengths) else 0)
    if dim:
        with npy_writer(path, (dim,), np.float32) as writer:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["target"]):
                writer.add(matrix("pins.target", batch["target"], dim, np.nan))
    return dim


def _open(folder: Path, name: str) -> NodeFeatures:
    parts = ("text", "images", "image_offsets", "image_sizes")
    return NodeFeatures(
        mapped_keys(folder / f"{name}.keys.arrow"),
        *(mapped_npy(folder / f"{name}.{part}.npy") for part in parts),
    )


def _stands(folder: Path, fingerprint: str) -> bool:
    try:
        found = json.loads((folder / _ABOUT).read_bytes())
    except (OSError, ValueError):
        return False
    return bool(found.get("fingerprint") == fingerprint and found.get("format") == _FORMAT)


def _fingerprint(
    files: Mapping[str, Path], config: FeatureConfig, encoders: EncoderSet | None
) -> str:
    """Of all that the features depend on: image files by the content hashes of the rows."""
    told: list[Any] = [config.model_dump(mode="json"), encoders.versions if encoders else None]
    for file in files.values():
        told.append(sha256_of(file))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
