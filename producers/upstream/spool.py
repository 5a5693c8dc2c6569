"""A column that is written as it comes and then mapped, as it may be larger than memory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Spool:
    """Values appended to a file without a name, which goes with the last look at them.

    Args:
        dtype: of the values.
        folder: where the file takes its space.
    """

    def __init__(self, dtype: DTypeLike, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dtype = np.dtype(dtype)
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed in `mapped`
        self._count = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add values behind those that are there."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self._count += values.size

    def mapped(self) -> NDArray[Any]:
        """All values (n,), read when they are looked at; nothing is appended any more."""
        self._file.flush()
        with self._file:
            if not self._count:
                return np.empty(0, self._dtype)
            # The mapping outlives the file; an array of the base class costs less to index.
            return np.memmap(self._file, self._dtype, "r").view(np.ndarray)
