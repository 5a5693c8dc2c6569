"""Rows of pages or pins as arrays of vectors: encoded, or as they are given."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from provender.plugin.errors import MappingError
from provender.producers.linksage.encoder_set import COLUMNS, Space
from provender.producers.linksage.encoders import encoded
from provender.producers.linksage.image_files import UnreadableImageError, open_images
from provender.producers.vectors import unit

Vectors = NDArray[np.float32]
#: Images that an encoder sees at once.
_IMAGES = 64
#: Unreadable images that are named; the others are counted.
_NAMED = 20


class Unreadable:
    """Image files that gave no image: how many, and the first of them with the reason."""

    def __init__(self) -> None:
        self.count = 0
        self.named: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.named) < _NAMED:
            self.named[name] = reason

    def report(self) -> dict[str, Any]:
        """`count`, and `named`: reasons by file."""
        return {"count": self.count, "named": self.named}


def text_vectors(space: Space, rows: pa.Table) -> Vectors:
    """(n, dim) of norm 1, zero where a row has no text."""
    if space.encoder is None:
        return unit(matrix("text_vector", _column(rows, "text_vector"), space.dim, 0))
    texts = _column(rows, "text").to_pylist()
    places = [place for place, text in enumerate(texts) if text]
    found = np.zeros((len(texts), space.dim), np.float32)
    found[places] = unit(encoded(space.encoder, [texts[place] for place in places]))
    return found


def image_vectors(
    space: Space, rows: pa.Table, data: Path, unreadable: Unreadable
) -> tuple[Vectors, NDArray[np.int64], Vectors]:
    """Vectors (m, dim) of norm 1, how many each row has (n,), and their sizes (m,).

    A row's are ordered by size, the largest first, those of one size as they are in the row.
    Files that can't be read are left out and told to `unreadable`.
    """
    count = rows.num_rows
    column = _column(rows, COLUMNS["image"][space.encoder is None])
    lengths = _lengths(column)
    owners = np.repeat(np.arange(count), lengths)
    sizes = _sizes(rows, lengths)
    if space.encoder is None:
        vectors = matrix("image_vectors", column.flatten(), space.dim, 0)
    else:
        vectors, read = _encoded_files(space, column.flatten().to_pylist(), data, unreadable)
        owners, sizes = owners[read], sizes[read]
    order = np.lexsort((-sizes, owners))
    return unit(vectors)[order], np.bincount(owners, minlength=count), sizes[order]


def matrix(thing: str, column: pa.Array[Any], dim: int, missing: float) -> Vectors:
    """A list column as (n, dim) float32, rows of `missing` where it is null.

    Raises MappingError where a list is of another length or has a number that is not finite.
    """
    found = np.full((len(column), dim), missing, np.float32)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.unique(_lengths(column)[present])
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if any(length != dim for length in lengths) or not np.isfinite(flat).all():
        told = ", ".join(map(str, lengths))
        raise MappingError(
            f"linksage.{thing}",
            found=f"vectors of {told} numbers{'' if np.isfinite(flat).all() else ', not finite'}",
            expected=f"{dim} finite numbers each",
            remedy="Name a column of vectors from one encoder.",
        )
    found[present] = flat.reshape(int(present.sum()), dim)
    return found


def lengths_of(rows: pa.Table, kind: str) -> list[int]:
    """The lengths of all vectors that rows give of a kind, `text` or `image`."""
    column = _column(rows, COLUMNS[kind][1])
    if kind == "image":
        column = column.flatten()
    return column.value_lengths().drop_null().to_pylist()  # type: ignore[no-any-return]


def _encoded_files(
    space: Space, names: list[str], data: Path, unreadable: Unreadable
) -> tuple[Vectors, NDArray[np.int64]]:
    """The vectors of the files that could be read, and which these are."""
    read: list[int] = []

    def readable() -> Iterator[Any]:
        for place, image in enumerate(open_images(data, names, space.encoder.side)):
            if isinstance(image, UnreadableImageError):
                unreadable.add(names[place], str(image))
            else:
                read.append(place)
                yield image

    images, blocks = readable(), [np.zeros((0, space.dim), np.float32)]
    while batch := list(islice(images, _IMAGES)):
        blocks.append(encoded(space.encoder, batch))
    return np.concatenate(blocks), np.array(read, np.int64)


def _sizes(rows: pa.Table, lengths: NDArray[np.int64]) -> Vectors:
    """A size an image; 1 for all of a row that does not give one for each."""
    column = _column(rows, "image_sizes")
    fits = _lengths(column) == lengths
    found = np.ones(int(lengths.sum()), np.float32)
    given = column.filter(pa.array(fits)).flatten()
    found[np.repeat(fits, lengths)] = given.to_numpy(zero_copy_only=False)
    return found


def _lengths(column: pa.Array[Any]) -> NDArray[np.int64]:
    lengths = pc.fill_null(column.value_lengths(), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def _column(rows: pa.Table, name: str) -> pa.Array[Any]:
    column = rows[name].combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
