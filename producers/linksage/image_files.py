"""Image files as Pillow's RGB images, whatever is in them; a bad one is an answer, not an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

#: Files that are decoded at once: so many images are in memory.
_AHEAD = 32


class UnreadableImageError(Exception):
    """Says why a file gives no image."""


def open_image(data: Path, name: str, side: int) -> Image.Image:
    """The image at `data` / `name` as RGB, upright, on white, its longer side at most `side`.

    Of an animation it is the first picture. Raises UnreadableImageError.
    """
    path = data / name
    if not path.resolve().is_relative_to(data.resolve()):
        raise UnreadableImageError("outside the data folder")
    if not path.is_file():
        raise UnreadableImageError("no such file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
                raise UnreadableImageError(f"{image.width:,} x {image.height:,} pixels, too many")
            image.draft("RGB", (side, side))  # JPEGs are decoded at a fraction of their size.
            image.load()
            return _plain(image, side)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("no image of a known format") from None
    except Exception as error:  # A crawled file makes its decoder raise anything at all.
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from None


def open_images(
    data: Path, names: Iterable[str], side: int
) -> Iterator[Image.Image | UnreadableImageError]:
    """The images in the order of their names, or why there is none; read a few ahead."""

    def opened(name: str) -> Image.Image | UnreadableImageError:
        try:
            return open_image(data, name, side)
        except UnreadableImageError as error:
            return error

    pending = iter(names)
    with ThreadPoolExecutor(thread_name_prefix="images") as pool:
        while batch := list(islice(pending, _AHEAD)):
            yield from pool.map(opened, batch)


def _plain(image: Image.Image, side: int) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.new("RGBA", shown.size, "white")
        image.alpha_composite(shown)
    image = image.convert("RGB")
    image.thumbnail((side, side))
    return image
