"""The two spaces of a page set: one of all texts, one of all images, each encoded or given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from provender.plugin.errors import CheckpointError, ConfigError, MappingError
from provender.plugin.tables import literal
from provender.producers.linksage.config import FeatureConfig
from provender.producers.linksage.encoders import encoder_class, make_encoder
from provender.producers.linksage.image_files import UnreadableImageError, open_images

#: What of a node can be encoded, and where its given vectors are, by kind.
COLUMNS = {"text": ("text", "text_vector"), "image": ("image_files", "image_vectors")}
_ABOUT = "encoders.json"
_ROWS = 1024


@dataclass(frozen=True)
class Space:
    """Of texts or of images, `dim` long; without an `encoder` vectors are given, or there are none.

    `made_by` is the encoder's class and settings, as they were configured.
    """

    dim: int
    encoder: Any = None
    made_by: Mapping[str, Any] | None = None

    @property
    def version(self) -> str:
        """A hash of the encoder's; `given` without one."""
        return str(self.encoder.version) if self.encoder is not None else f"given {self.dim}"


@dataclass(frozen=True)
class Shown:
    """How many rows of a Parquet file can be encoded or have vectors, and how long these are."""

    encodable: int
    given: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class EncoderSet:
    """Both spaces, fitted."""

    text: Space
    image: Space

    @classmethod
    def fit(cls, files: Mapping[str, Path], data: Path, config: FeatureConfig) -> EncoderSet:
        """Spaces for the canonical Parquet files of pages and pins.

        Where a file gives vectors they are taken; else texts and images are encoded.

        Raises MappingError where vectors are given for one file and text or images for the other,
        or vectors of several lengths; ConfigError for an encoder that can't be used.
        """
        return cls(
            _fitted("text", files, config, lambda: _texts(files.values())),
            _fitted("image", files, config, lambda: _images(files.values(), data, config)),
        )

    def check(self, files: Mapping[str, Path], config: FeatureConfig) -> None:
        """Raise MappingError where the files do not fit these spaces, ConfigError the config."""
        for kind, space in (("text", self.text), ("image", self.image)):
            if space.made_by is not None and space.made_by != _made_by(kind, config):
                raise ConfigError(
                    f"features.{kind}_encoder",
                    found=f"{_made_by(kind, config)}",
                    expected=f"{dict(space.made_by)}, which the model was trained with",
                    remedy="Leave it as it was, or train anew.",
                )
            for name, file in files.items():
                check_given(kind, name, space, shown(file, kind))

    @property
    def versions(self) -> dict[str, str]:
        """By kind."""
        return {"text": self.text.version, "image": self.image.version}

    def save(self, folder: Path) -> None:
        """Write both, each encoder in a folder of its own."""
        about: dict[str, Any] = {}
        for kind, space in (("text", self.text), ("image", self.image)):
            about[kind] = {"dim": space.dim, "version": space.version, "made_by": space.made_by}
            if space.encoder is not None:
                (folder / kind).mkdir(parents=True)
                space.encoder.save(folder / kind)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> EncoderSet:
        """What was saved there.

        Raises CheckpointError where it is damaged or an encoder is no longer what was saved,
        ConfigError where an encoder's class is gone.
        """
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
            text, image = (_loaded(folder / kind, kind, about[kind]) for kind in COLUMNS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"encoders in {folder}",
                found=f"{type(error).__name__}: {error}",
                expected="the encoders that the model was trained with",
                remedy="Restore the folder, or train anew.",
            ) from None
        return cls(text, image)


def check_given(kind: str, name: str, space: Space, found: Shown) -> None:
    """Raise MappingError where rows give vectors to an encoded space, or of another length."""
    text, vector = COLUMNS[kind]
    if space.encoder is not None and found.given:
        raise _mixed(name, f"{found.given:,} rows with {vector}", f"{text} to encode")
    if space.encoder is None and space.dim and found.encodable and not found.given:
        raise _mixed(name, f"{text} without {vector}", f"{vector}, which the others have")
    if space.encoder is None and any(length != space.dim for length in found.lengths):
        told = ", ".join(map(str, found.lengths))
        raise _mixed(name, f"{vector} of {told} numbers", f"{space.dim} numbers")


def shown(file: Path, kind: str) -> Shown:
    """What the rows of a canonical Parquet file have to show."""
    lists = {"text": "[text_vector]", "image": "image_vectors"}[kind]
    some = {"text": "text != ''", "image": "len(image_files) > 0"}[kind]
    given = COLUMNS[kind][1]
    with duckdb.connect() as connection:
        counts = connection.execute(
            f"SELECT count(*) FILTER ({some}), count({given}) "
            f"FROM read_parquet({literal(str(file))})"
        ).fetchone()
        lengths = connection.execute(
            f"SELECT DISTINCT len(v) AS n FROM (SELECT unnest({lists}) AS v "
            f"FROM read_parquet({literal(str(file))}) WHERE {given} IS NOT NULL) ORDER BY n"
        ).fetchall()
    encodable, vectors = counts or (0, 0)
    return Shown(encodable, vectors, tuple(row[0] for row in lengths))


def _fitted(
    kind: str, files: Mapping[str, Path], config: FeatureConfig, rows: Callable[[], Iterable[Any]]
) -> Space:
    found = {name: shown(file, kind) for name, file in files.items()}
    lengths = sorted({length for one in found.values() for length in one.lengths})
    if lengths:
        space = Space(lengths[0])
        for name, one in found.items():
            check_given(kind, name, space, one)
        return space
    if not any(one.encodable for one in found.values()):
        return Space(0)
    made_by = _made_by(kind, config)
    encoder = make_encoder(made_by["class"], made_by["settings"], kind).fit(rows())
    return Space(int(encoder.dim), encoder, made_by)


def _made_by(kind: str, config: FeatureConfig) -> dict[str, Any]:
    if kind == "text":
        return {"class": config.text_encoder, "settings": config.text_settings}
    return {"class": config.image_encoder, "settings": config.image_settings}


def _loaded(folder: Path, kind: str, about: Mapping[str, Any]) -> Space:
    made_by, encoder = about["made_by"], None
    if made_by is not None:
        encoder = encoder_class(made_by["class"], kind).load(folder)
    space = Space(about["dim"], encoder, made_by)
    if space.version != about["version"] or (encoder is not None and encoder.dim != space.dim):
        raise ValueError(f"the {kind} encoder is of another version than the one that was saved")
    return space


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["text"]):
            yield from (text for text in batch["text"].to_pylist() if text)


def _images(files: Iterable[Path], data: Path, config: FeatureConfig) -> Iterator[Any]:
    """Readable images in an order of no meaning, so that an encoder may stop after some."""
    columns = [pq.read_table(file, columns=["image_files"])["image_files"] for file in files]
    names = pa.chunked_array([part for one in columns for part in one.chunks]).combine_chunks()
    unique = names.flatten().unique()
    order = np.random.default_rng(0).permutation(len(unique))
    side = encoder_class(config.image_encoder, "image").side
    picked = (unique[int(place)].as_py() for place in order)
    for image in open_images(data, picked, side):
        if not isinstance(image, UnreadableImageError):
            yield image


def _mixed(name: str, found: str, expected: str) -> MappingError:
    return MappingError(
        f"linksage.{name}",
        found=found,
        expected=expected,
        remedy="Give vectors of one encoder for pages and pins both, or for neither.",
    )
