"""Texts as vectors without a model to download: hashed n-grams, tf-idf, a truncated SVD (LSA).

Words and pairs of words tell what a text is about, runs of characters tell it of names and of
spellings that no other text has. Deerwester et al., "Indexing by Latent Semantic Analysis", 1990;
Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array, hstack, vstack

from provender.plugin.errors import CheckpointError, TrainingError

Vectors = NDArray[np.float32]
#: Rises when the same settings and texts come to give other vectors.
_FORMAT = 1
_BATCH = 1024


class HashedTextSettings(BaseModel):
    """What the vectors of :class:`HashedText` depend on beside the texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(256, ge=1, description="Length of the vectors, at most.")
    words: tuple[int, int] = Field((1, 1), description="Shortest and longest run of words.")
    characters: tuple[int, int] = Field((4, 4), description="The same of characters in a word.")
    character_weight: float = Field(
        0.5, ge=0, description="Of runs of characters, beside words at 1; 0 leaves them out."
    )
    buckets: int = Field(2**18, ge=16, description="Hash values of words, and of characters.")
    most: int = Field(2**16, ge=1, description="Buckets that are kept, those of most texts.")
    min_texts: int = Field(2, ge=1, description="In so many texts a bucket has to be to be kept.")
    longest: int = Field(4_000, ge=1, description="Characters of a text that are looked at.")
    sample: int = Field(50_000, ge=1, description="Texts, at most, that the SVD learns from.")
    seed: int = Field(0, ge=0, description="Of the SVD, and of which texts it learns from.")


class HashedText:
    """An encoder of texts (encoders.py); the same texts in any order give the same one."""

    def __init__(self, **settings: Any) -> None:
        try:
            self.settings = HashedTextSettings.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        self._columns: NDArray[np.int64] = np.empty(0, np.int64)
        self._weights: Vectors = np.empty(0, np.float32)
        self._components: Vectors = np.empty((0, 0), np.float32)

    @property
    def dim(self) -> int:
        """The length of the vectors: fewer than asked for where there are fewer texts."""
        return int(self._components.shape[1])

    @property
    def version(self) -> str:
        """SHA-256 of the settings and of what was learned."""
        digest = hashlib.sha256(f"{_FORMAT} {self.settings.model_dump_json()}".encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def fit(self, texts: Iterable[str]) -> Self:
        """Learn which n-grams are common and what goes together; the texts are gone through once.

        Raises TrainingError where no text has a word.
        """
        learned = _Sample(self.settings.sample, self.settings.seed)
        counts, total = np.zeros(2 * self.settings.buckets, np.int64), 0
        cut = (text[: self.settings.longest] for text in texts)
        for batch in _batches(learned.passing(cut)):
            total += len(batch)
            counts += np.bincount(self._counts(batch).indices, minlength=len(counts))
        if not counts.any():
            raise TrainingError(
                "features.text_encoder",
                found=f"{total:,} texts without a word",
                expected="texts with words",
                remedy="Look at the columns that are declared as `text`, or declare none.",
            )
        common = np.lexsort((np.arange(len(counts)), -counts))[: self.settings.most]
        enough = min(self.settings.min_texts, int(counts.max()))
        self._columns = np.sort(common[counts[common] >= enough])
        # Smooth inverse document frequency, as if one more text had all n-grams.
        self._weights = (np.log((1 + total) / (1 + counts[self._columns])) + 1).astype(np.float32)
        self._components = self._decomposed(learned.texts())
        return self

    def encode(self, batch: Sequence[str]) -> Vectors:
        """(n, dim) float32; zeros where a text has no n-gram that is known."""
        if not batch:
            return np.zeros((0, self.dim), np.float32)
        return np.asarray(self._weighed(batch) @ self._components, np.float32)

    def save(self, folder: Path) -> None:
        """Write `arrays.safetensors` and `settings.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._arrays(), folder / "arrays.safetensors")
        about = {"format": _FORMAT, "settings": self.settings.model_dump(), "version": self.version}
        (folder / "settings.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What was saved there; raises CheckpointError where it is damaged."""
        try:
            about = json.loads((folder / "settings.json").read_bytes())
            found = cls(**about["settings"])
            arrays = load_file(folder / "arrays.safetensors")
            found._columns, found._weights = arrays["columns"], arrays["weights"]
            found._components = arrays["components"]
            if found.version != about["version"]:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:
            raise CheckpointError(
                f"text encoder {folder}",
                found=f"{type(error).__name__}: {error}",
                expected="an encoder as it was saved",
                remedy="Train anew, or restore the folder.",
            ) from None
        return found

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "columns": self._columns,
            "weights": self._weights,
            "components": np.ascontiguousarray(self._components),
        }

    def _decomposed(self, texts: Sequence[str]) -> Vectors:
        """The directions of most variance, (columns, dim): a text's vector is its tf-idf @ these.

        No more than the rank that the texts can have: what is beyond would be noise.
        """
        from sklearn.utils.extmath import randomized_svd

        rows = csr_array(vstack([self._weighed(batch) for batch in _batches(texts)], format="csr"))
        most = min(self.settings.dim, *rows.shape)
        if most == rows.shape[1]:
            return np.eye(most, dtype=np.float32)
        _, _, axes = randomized_svd(rows, most, n_iter=4, random_state=self.settings.seed)
        return np.ascontiguousarray(axes.T, dtype=np.float32)

    def _weighed(self, batch: Sequence[str]) -> csr_array:
        """Sublinear tf-idf of the columns that are kept, (n, columns), rows of norm 1 or 0."""
        counts = self._counts(batch)[:, self._columns]
        counts.data = 1 + np.log(counts.data)
        rows = counts.multiply(self._weights * self._kinds).tocsr()
        norms = np.sqrt(rows.multiply(rows).sum(axis=1))
        return csr_array(
            rows.multiply(1 / np.where(norms > 0, norms, 1)[:, None]), dtype=np.float32
        )

    @property
    def _kinds(self) -> Vectors:
        """The weight of each kept column by its kind."""
        of_words = self._columns < self.settings.buckets
        return np.where(of_words, 1, self.settings.character_weight).astype(np.float32)

    def _counts(self, batch: Sequence[str]) -> csr_array:
        """How often each bucket comes up, (n, 2 * buckets) float32: words, then characters."""
        cut = [text[: self.settings.longest] for text in batch]
        words, characters = self._vectorizers
        found = [words.transform(cut)]
        if self.settings.character_weight:
            found.append(characters.transform(cut))
        else:
            found.append(csr_array((len(cut), self.settings.buckets), dtype=np.float32))
        return csr_array(hstack(found, format="csr"))

    @cached_property
    def _vectorizers(self) -> tuple[Any, Any]:
        from sklearn.feature_extraction.text import HashingVectorizer

        common = {
            "n_features": self.settings.buckets,
            "alternate_sign": False,
            "norm": None,
            "dtype": np.float32,
        }
        return (
            HashingVectorizer(
                token_pattern=r"(?u)\b\w+\b", ngram_range=self.settings.words, **common
            ),
            HashingVectorizer(analyzer="char_wb", ngram_range=self.settings.characters, **common),
        )


class _Sample:
    """The `most` texts of the lowest hashes among those that pass: the same in any order."""

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._salt = most, seed.to_bytes(8, "little")
        self._kept: list[tuple[int, str]] = []

    def passing(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8, salt=self._salt)
            one = (-int.from_bytes(digest.digest(), "little"), text)
            if len(self._kept) < self._most:
                heapq.heappush(self._kept, one)
            else:
                heapq.heappushpop(self._kept, one)
            yield text

    def texts(self) -> list[str]:
        return [text for _, text in sorted(self._kept)]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    pending = iter(texts)
    while batch := list(islice(pending, _BATCH)):
        yield batch
