"""What rows of new entities begin as: their neighbours' mean, a newer vector, a shared row.

Legend of shapes: n new keys, E pairs of a new key and a neighbour, d the length of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from provender.plugin.errors import ConfigError
from provender.plugin.id_table import KeyedVectors
from provender.plugin.key_index import normalized

if TYPE_CHECKING:
    from provender.consumers.entity_table import EntityTable


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Who is near whom, a pair a row.

    Attributes:
        keys: (E,) of new entities.
        near: (E,) of entities of the same kind, which a table may have.
        weights: float (E,), above zero; all alike if None.

    Raises:
        ConfigError: of unequal lengths, or weights that are not above zero.
    """

    keys: pa.Array
    near: pa.Array
    weights: Any = None

    def __post_init__(self) -> None:
        """Refuse what can't be pairs."""
        lengths = {len(self.keys), len(self.near)}
        if self.weights is not None:
            lengths.add(len(self.weights))
            if not (np.asarray(self.weights, dtype=np.float64) > 0).all():
                raise _refused("weights that are not above zero", "weights above zero")
        if len(lengths) > 1:
            raise _refused(f"columns of {sorted(lengths)} rows", "as many of each")

    @classmethod
    def of(cls, near: Mapping[Any, Sequence[Any]]) -> Neighbours:
        """Make pairs of key -> neighbours."""
        pairs = [(key, other) for key, others in near.items() for other in others]
        return cls(pa.array([key for key, _ in pairs]), pa.array([other for _, other in pairs]))


@dataclass(frozen=True, eq=False)
class KeyVectors:
    """Vectors of keys, as a view has them: `keys` (m,), each once, `vectors` float32 (m, d)."""

    keys: pa.Array
    vectors: np.ndarray[Any, np.dtype[np.float32]]

    @property
    def dim(self) -> int:
        """The length of one vector."""
        return int(self.vectors.shape[1])


def begun(
    table: EntityTable,
    keys: pa.Array,
    neighbours: Neighbours | None,
    vectors: KeyedVectors | None,
) -> Tensor:
    """Return what rows of keys (n,), which the table has not, begin as: (n, d) on the CPU."""
    rows = _shared(table, keys)
    if vectors is not None and len(vectors.keys):
        moved, there = _moved(table, keys, vectors)
        rows[there] = moved
    if neighbours is not None and len(neighbours.keys):
        means, known = _means(table, keys, neighbours)
        rows[known] = means
    return rows


def _shared(table: EntityTable, keys: pa.Array) -> Tensor:
    """The hashed rows that the keys had so far, zeros where there are none."""
    numbers = table.rows_of(keys)
    shown = table.values.new_zeros(len(keys), table.dim).cpu()
    shown[numbers >= 0] = table.values[numbers[numbers >= 0].to(table.values.device)].cpu()
    return shown


def _moved(table: EntityTable, keys: pa.Array, vectors: KeyedVectors) -> tuple[Tensor, Tensor]:
    """Vectors of those keys that have one, moved to where training took the rows."""
    if vectors.dim != table.dim:
        raise ConfigError(
            "vectors that new rows of an ID table begin as",
            found=f"{vectors.dim} numbers",
            expected=str(table.dim),
            remedy="Take them from the view that the table began as.",
        )
    scaled = torch.from_numpy(vectors.vectors) * table.scale.float().cpu()
    numbers = table.rows_of(vectors.keys)
    exact = (numbers >= 0) & (numbers < len(table.keys))
    squares = table.squares.cpu()
    trained = exact & (squares[numbers.clamp(min=0)] > 0) if len(squares) else exact
    place = pc.index_in(keys, value_set=normalized(vectors.keys))
    there = torch.from_numpy(place.is_valid().to_numpy(zero_copy_only=False))
    moved = scaled[torch.from_numpy(place.drop_null().to_numpy().astype(np.int64))]
    if trained.any():
        residual = table.values.cpu()[numbers[trained]] - scaled[trained]
        moved = moved + residual.double().mean(0).float()
    return moved, there


def _means(table: EntityTable, keys: pa.Array, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
    """The weighted means of the neighbours' rows, of those keys that have any in the table."""
    place = pc.index_in(normalized(neighbours.keys), value_set=keys)
    near = table.rows_of(neighbours.near)
    known = torch.from_numpy(place.is_valid().to_numpy(zero_copy_only=False))
    known &= (near >= 0) & (near < len(table.keys))
    to = torch.from_numpy(place.fill_null(0).to_numpy().astype(np.int64))[known]
    weights = torch.ones(len(near), dtype=torch.float64)
    if neighbours.weights is not None:
        weights = torch.from_numpy(np.asarray(neighbours.weights, dtype=np.float64))
    weights = weights[known]
    rows = table.values[near[known].to(table.values.device)].cpu().double()
    total = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, to, weights)
    sums = torch.zeros(len(keys), table.dim, dtype=torch.float64)
    sums.index_add_(0, to, rows * weights[:, None])
    there = total > 0
    return (sums[there] / total[there, None]).float(), there


def _refused(found: str, expected: str) -> ConfigError:
    return ConfigError(
        "neighbours of new entities",
        found=found,
        expected=expected,
        remedy="Give a pair a row, and leave out those without weight.",
    )
