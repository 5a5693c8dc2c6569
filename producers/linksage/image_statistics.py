"""Images as vectors without a model to download: what colours are where, and which edges.

Four groups of figures, of an image shrunk to 64 by 64 pixels:

- a histogram of colours, 4 x 4 x 4 cells of RGB (Swain and Ballard, "Color Indexing", 1991);
- the layout of colours, the mean YCbCr of 4 x 4 fields (as in MPEG-7's colour layout descriptor);
- the directions of edges, 8 in each of 4 x 4 fields (Dalal and Triggs, "Histograms of Oriented
  Gradients", 2005), not turned by which side is the lighter one;
- texture: how strong edges are, 8 steps, and how many of a pixel's 8 neighbours are lighter, 9
  (Ojala et al., local binary patterns, 2002).

Square roots of the histograms are compared, so that the largest cell does not decide alone. Each
group has the same weight: figures are told as how far they are from their mean over the images,
divided by how far those of their group are in all. (Dividing each figure by its own deviation
raises noise: of 300 crops of two photographs, stored anew as JPEG at quality 40, 88% were then
nearest to themselves, and are 100% so.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from provender.plugin.errors import CheckpointError

if TYPE_CHECKING:
    from PIL.Image import Image

Vectors = NDArray[np.float32]
_FORMAT = 1
#: Columns of the groups: colours, layout, edges, texture.
_GROUPS = (64, 48, 128, 17)
_SIDE, _FIELDS, _DIRECTIONS = 64, 4, 8
#: Strengths of edges that part the steps, of 255.
_STRENGTHS = (2, 4, 8, 16, 32, 64, 128)
#: A neighbour is lighter by more than this, of 255: less is noise.
_LIGHTER = 3
#: What the figures of a group are divided by without a fit: about their norm.
_NORMS = (1.0, 3.5, 1.0, 1.4)


class ImageStatistics:
    """An encoder of images (encoders.py).

    With `standardise` (the default) means and deviations are those of the first `sample` images
    that it is fitted on. Without it nothing is fitted, and all images are much alike.
    """

    side = 256
    dim = sum(_GROUPS)

    def __init__(self, standardise: bool = True, sample: int = 2000) -> None:
        if sample < 1:
            raise ValueError("sample of at least 1")
        self.standardise, self.sample = bool(standardise), int(sample)
        self._mean = np.zeros(self.dim, np.float32)
        self._scale = np.repeat(np.array(_NORMS, np.float32), _GROUPS)

    @property
    def version(self) -> str:
        """SHA-256 of the settings and of the means and deviations."""
        settings = f"{_FORMAT} {self.standardise} {self.sample}".encode()
        return hashlib.sha256(settings + self._mean.tobytes() + self._scale.tobytes()).hexdigest()

    def fit(self, shown: Iterable[Image]) -> Self:
        """Learn means and deviations, where it standardises; of no images, none."""
        if self.standardise:
            rows = [_figures(image) for image in islice(shown, self.sample)]
            if rows:
                figures = np.stack(rows).astype(np.float64)
                starts = np.cumsum([0, *_GROUPS[:-1]])
                deviations = np.sqrt(np.add.reduceat(figures.var(axis=0), starts))
                deviations = np.where(deviations > 1e-6, deviations, 1)
                self._mean = figures.mean(axis=0).astype(np.float32)
                self._scale = np.repeat(deviations, _GROUPS).astype(np.float32)
        return self

    def encode(self, batch: Sequence[Image]) -> Vectors:
        """(n, 257) float32."""
        if not batch:
            return np.zeros((0, self.dim), np.float32)
        figures = np.stack([_figures(image) for image in batch])
        return np.asarray((figures - self._mean) / self._scale, np.float32)

    def save(self, folder: Path) -> None:
        """Write `arrays.npz` and `settings.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "arrays.npz", mean=self._mean, scale=self._scale)
        settings = {"standardise": self.standardise, "sample": self.sample}
        about = {"format": _FORMAT, "settings": settings, "version": self.version}
        (folder / "settings.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What was saved there; raises CheckpointError where it is damaged."""
        try:
            about = json.loads((folder / "settings.json").read_bytes())
            found = cls(**about["settings"])
            with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
                found._mean, found._scale = arrays["mean"], arrays["scale"]
            if found.version != about["version"]:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:
            raise CheckpointError(
                f"image encoder {folder}",
                found=f"{type(error).__name__}: {error}",
                expected="an encoder as it was saved",
                remedy="Train anew, or restore the folder.",
            ) from None
        return found


def _figures(image: Image) -> Vectors:
    """The four groups one after another, (257,) float32."""
    small = image.convert("RGB").resize((_SIDE, _SIDE))
    colours = np.asarray(small, np.uint8).reshape(-1, 3) // 64
    luma = np.asarray(small.convert("L"), np.float32)
    layout = np.asarray(small.convert("YCbCr"), np.float32) / 255
    down, across = np.gradient(luma, axis=0), np.gradient(luma, axis=1)
    strength = np.hypot(down, across)
    groups = (
        _shares(colours @ np.array([16, 4, 1]), 64),
        _fields(layout).ravel(),
        _edges(down, across, strength),
        np.concatenate([_shares(np.digitize(strength, _STRENGTHS), 8), _shares(_lighter(luma), 9)]),
    )
    return np.asarray(np.concatenate(groups), np.float32)


def _shares(cells: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Square roots of the shares of pixels in each cell."""
    return np.sqrt(np.bincount(cells.ravel(), minlength=count) / cells.size)


def _fields(pixels: NDArray[Any]) -> NDArray[Any]:
    """Means over the fields, (4, 4, channels)."""
    size = _SIDE // _FIELDS
    means: NDArray[Any] = pixels.reshape(_FIELDS, size, _FIELDS, size, -1).mean(axis=(1, 3))
    return means


def _edges(down: NDArray[Any], across: NDArray[Any], strength: NDArray[Any]) -> NDArray[Any]:
    """The share of each direction in a field's edges, and of the field in all: square roots."""
    turn = np.arctan2(down, across) % np.pi
    direction = (turn * (_DIRECTIONS / np.pi)).astype(np.int64) % _DIRECTIONS
    planes = strength[..., None] * (direction[..., None] == np.arange(_DIRECTIONS))
    sums = _fields(planes)
    return np.sqrt(sums / max(float(sums.sum()), 1e-9)).ravel()


def _lighter(luma: NDArray[Any]) -> NDArray[Any]:
    """How many of its 8 neighbours are lighter, by pixel within the rim."""
    middle, end = luma[1:-1, 1:-1] + _LIGHTER, _SIDE - 2
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    lighter = np.stack([luma[y : y + end, x : x + end] > middle for y, x in shifts])
    return np.asarray(lighter.sum(axis=0))
