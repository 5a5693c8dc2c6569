from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from provender.plugin.errors import CheckpointError
from provender.producers.vectors import Vectors, load_vectors, save_vectors


def test_vectors_come_back_to_the_bit(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    users = Vectors(pa.array([1, 2, 3, 5, 8]), rows)
    pages = Vectors(pa.array(["a", "б"]), rows[:2])
    nobody = Vectors(pa.array([], pa.int64()), rows[:0])
    save_vectors(tmp_path, {"user": users, "page": pages, "item": nobody})
    loaded = load_vectors(tmp_path)
    assert set(loaded) == {"user", "page", "item"}
    for saved, entity in ((users, "user"), (pages, "page"), (nobody, "item")):
        assert loaded[entity].keys.equals(saved.keys)
        assert loaded[entity].vectors.tobytes() == saved.vectors.tobytes()
        assert loaded[entity].dim == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "user.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CheckpointError, match="Remove the run's folder"):
        load_vectors(tmp_path)


def test_a_vector_for_every_key() -> None:
    with pytest.raises(ValueError, match="2 keys"):
        Vectors(pa.array([1, 2]), np.zeros((3, 4), np.float32))
