"""What turns texts or images into vectors, plugged in by a dotted path `module:class`.

    features:
      text_encoder: my_company.encoders:SentenceEncoder
      text_settings: {weights: /models/minilm}

A class of this kind is called with its settings, fitted on a page set (those that are ready made
return themselves), saved beside the model and loaded again for pages that come later.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from provender.plugin.errors import ConfigError

Vectors = NDArray[np.float32]
Shown = TypeVar("Shown", contravariant=True)
_NEEDED = ("fit", "encode", "save", "load", "version", "dim")


class Encoder(Protocol[Shown]):
    """Of texts or of images. A row's vector may not depend on the others of its batch."""

    @property
    def dim(self) -> int:
        """The length of its vectors, known once it is fitted."""

    @property
    def version(self) -> str:
        """A hash of all that shapes its vectors: equal versions give equal vectors."""

    def fit(self, shown: Iterable[Shown]) -> Self:
        """Learn from what a page set shows, which can be iterated over once; return itself."""

    def encode(self, batch: Sequence[Shown]) -> Vectors:
        """The vectors of a batch, (n, dim) float32, finite; of any norm."""

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an empty folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What was saved there; it encodes as the saved one did."""


class TextEncoder(Encoder[str], Protocol):
    """Of texts, which are not empty."""


class ImageEncoder(Encoder[Image], Protocol):
    """Of images: Pillow's, RGB, the longer side at most `side` pixels."""

    @property
    def side(self) -> int:
        """To how many pixels the longer side of larger images is shrunk before it sees them."""


def make_encoder(path: str, settings: Mapping[str, Any], kind: str) -> Any:
    """An encoder that is yet to be fitted.

    Args:
        path: its class as `module:class`.
        settings: what the class is called with.
        kind: "text" or "image", for messages and for what it has to offer.

    Raises ConfigError where there is no such class, it is no encoder, or refuses the settings.
    """
    found = encoder_class(path, kind)
    try:
        return found(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"features.{kind}_settings",
            found=f"{dict(settings)}, which {path} refuses ({error})",
            expected=f"what it can be called with: {inspect.signature(found)}",
            remedy="Correct the settings.",
        ) from None


def encoder_class(path: str, kind: str) -> Any:
    """The class at `module:class`; raises ConfigError where it is not there or is no encoder."""
    module, colon, name = path.partition(":")
    thing = f"features.{kind}_encoder"
    if not (module and colon and name):
        raise _refused(thing, repr(path), "a dotted path such as my_package.encoders:MyEncoder")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise _refused(thing, f"{path} ({error})", "a module that can be imported") from None
    except AttributeError:
        raise _refused(thing, f"no {name} in {module}", "a class of that module") from None
    needed = (*_NEEDED, *(["side"] if kind == "image" else []))
    missing = [one for one in needed if not hasattr(found, one)]
    if missing or not inspect.isclass(found):
        without = f"without {', '.join(missing)}" if missing else "which is no class"
        raise _refused(thing, f"{path} {without}", f"a class with {', '.join(needed)}")
    return found


def encoded(encoder: Encoder[Shown], batch: Sequence[Shown]) -> Vectors:
    """The checked vectors of a batch: (len(batch), encoder.dim) float32.

    Raises ConfigError where the encoder gives another shape, no numbers, or some not finite.
    """
    wanted = (len(batch), encoder.dim)
    if not len(batch):
        return np.zeros(wanted, np.float32)
    given = encoder.encode(batch)
    try:
        vectors = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        vectors = np.empty(0, np.float32)
    if vectors.shape != wanted:
        raise _misbehaves(encoder, f"{_told(given)} for {len(batch)} in a batch", str(wanted))
    if not np.isfinite(vectors).all():
        rows = int((~np.isfinite(vectors).all(1)).sum())
        raise _misbehaves(encoder, f"{rows} of {len(batch)} rows not finite", "finite numbers")
    return vectors


def _told(given: object) -> str:
    shape = getattr(given, "shape", None)
    return type(given).__name__ if shape is None else f"shape {tuple(shape)}"


def _misbehaves(encoder: object, found: str, expected: str) -> ConfigError:
    kind = type(encoder)
    return ConfigError(
        f"encoder {kind.__module__}:{kind.__qualname__}",
        found=found,
        expected=expected,
        remedy="Mend its `encode`, or name another encoder.",
    )


def _refused(thing: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        thing,
        found=found,
        expected=expected,
        remedy="provender.producers.linksage.encoders tells what an encoder has to offer.",
    )
