"""Tables of learned rows as tensors of a checkpoint: their values are there, their keys come here.

Legend of shapes: N keys, C bytes of all strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from provender.consumers.entity_table import EntityTable, RowTraining

#: Ends of the names: whole numbers int64 (N,), or strings as uint8 (C,) with int64 (N + 1,) ends.
_KEYS, _TEXT, _ENDS = "keys", "key_text", "key_ends"


def key_tensors(prefix: str, keys: pa.Array) -> dict[str, Tensor]:
    """Return keys, int64 or string, as tensors whose names begin with a prefix."""
    if pa.types.is_integer(keys.type):
        numbers = keys.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return {f"{prefix}{_KEYS}": torch.from_numpy(numbers.copy())}
    encoded = [text.encode() for text in keys.to_pylist()]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    text = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
    return {f"{prefix}{_TEXT}": torch.from_numpy(text), f"{prefix}{_ENDS}": torch.from_numpy(ends)}


def keys_of(prefix: str, tensors: Mapping[str, Tensor]) -> pa.Array:
    """Return the keys back; raises KeyError where there are none."""
    if f"{prefix}{_KEYS}" in tensors:
        return pa.array(tensors[f"{prefix}{_KEYS}"].numpy())
    text = tensors[f"{prefix}{_TEXT}"].numpy().tobytes()
    ends = tensors[f"{prefix}{_ENDS}"].tolist()
    words = [text[start:end].decode() for start, end in pairwise(ends)]
    return pa.array(words, pa.string())


def is_key(name: str) -> bool:
    """Whether a tensor's name, with its prefix, is that of keys."""
    return name.startswith("tables.") and name.rpartition(".")[2] in (_KEYS, _TEXT, _ENDS)


def table_of(name: str, tensors: Mapping[str, Tensor], training: RowTraining) -> EntityTable:
    """Return a ranker's table from the tensors of its checkpoint; the caller loads its state."""
    prefix = f"tables.{name}."
    values: Any = torch.zeros_like(tensors[f"{prefix}values"])
    return EntityTable(keys_of(prefix, tensors), values, training)
