"""A table of learned rows in a folder: tensors as safetensors, keys as Parquet, checksums.

Which files are the table's says `table.json`, which is written last and replaced as one: a save
that is broken off leaves the former table whole. Rows are written as they lie, so that a table of
files larger than memory is saved without being read into it.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from torch import Tensor

from provender.consumers.entity_table import EntityTable, RowTraining
from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import sha256_of, sync, write_whole

_FORMAT = 1
_ABOUT = "table.json"
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64"}
#: Tensors of the table, by name, and how numpy reads them: little-endian.
_KINDS = {"values": "<f4", "squares": "<f4", "steps": "<i8", "scale": "<f8"}


def save_table(folder: Path, table: EntityTable) -> None:
    """Write a table into a folder, in the place of the one that may stand there."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:12]
    tensors, keys = folder / f"rows-{mark}.safetensors", folder / f"keys-{mark}.parquet"
    try:
        _write_tensors(tensors, table.state_dict())
        pq.write_table(pa.table({"key": table.keys}), keys)
        for path in (tensors, keys, folder):
            sync(path)
        about = {
            "format": _FORMAT,
            "tensors": {"name": tensors.name, "sha256": sha256_of(tensors)},
            "keys": {"name": keys.name, "sha256": sha256_of(keys)},
            "training": table.row_training.model_dump(),
        }
        write_whole(folder / _ABOUT, json.dumps(about, indent=1).encode())
    except BaseException:
        tensors.unlink(missing_ok=True)
        keys.unlink(missing_ok=True)
        raise
    for old in [*folder.glob("rows-*.safetensors"), *folder.glob("keys-*.parquet")]:
        if old not in (tensors, keys):
            old.unlink(missing_ok=True)


def load_table(
    folder: Path, /, kind: type[EntityTable] = EntityTable, **options: Any
) -> EntityTable:
    """Read a table onto the CPU.

    Args:
        kind: EntityTable, or HostTable with its `options` (capacity, folder of the rows), which
            is filled block by block.

    Raises:
        CheckpointError: no table, or a damaged one.
    """
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']}")
        for part in (about["tensors"], about["keys"]):
            if sha256_of(folder / part["name"]) != part["sha256"]:
                raise ValueError(f"the SHA-256 of {part['name']} is another")
        keys = pq.read_table(folder / about["keys"]["name"])["key"].combine_chunks()
        state = _mapped_tensors(folder / about["tensors"]["name"])
        table = kind(keys, state["values"], RowTraining(**about["training"]), **options)
        table.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ConfigError) as error:
        # A ValidationError of the training and Arrow's own errors are ValueErrors as well.
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(
            f"ID table {folder}",
            found=f"{type(error).__name__}: {told}",
            expected="a whole table that provender wrote",
            remedy="Take a copy of it, or train it again.",
        ) from None
    return table


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors: the header's length, the header, the bytes of one after another."""
    header: dict[str, Any] = {}
    end = 0
    for name in _KINDS:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, dtype in _KINDS.items():
            tensors[name].cpu().contiguous().numpy().astype(dtype, copy=False).tofile(file)


def _mapped_tensors(path: Path) -> dict[str, Tensor]:
    """Map what was written; who writes to the tensors has a copy of that page."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found = {}
    for name, dtype in _KINDS.items():
        shape, (start, end) = tuple(header[name]["shape"]), header[name]["data_offsets"]
        if start == end:
            found[name] = torch.from_numpy(np.zeros(shape, dtype))
            continue
        place = 8 + length + start
        found[name] = torch.from_numpy(np.memmap(path, dtype, "c", place, shape or (1,)))
        found[name] = found[name].reshape(shape)
    return found
