"""What a training from disk leaves: its table in one file, by global id, the relations beside it.

The table is mapped from its file and never copied: what follows a training reads it in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.plugin.files import whole_file, write_whole
from provender.producers.mapped_rows import mapped
from provender.producers.parameters import Parameters, axes_of, covariance_of, rotate
from provender.producers.partitions import PartitionFiles, write_rows
from provender.producers.transra_config import TransRAConfig


@dataclass(frozen=True)
class FinishedTable:
    """What a training leaves: the table by global id, and the relations' parameters, last."""

    folder: Path
    mark: str
    entities: int
    config: TransRAConfig

    @property
    def _table(self) -> Path:
        return self.folder / f"entities-{self.mark[:16]}.f32"

    @property
    def _relations(self) -> Path:
        return self.folder / f"relations-{self.mark[:16]}.safetensors"

    def exists(self) -> bool:
        """Whether the training has ended."""
        return self._relations.is_file()

    def read(self) -> Parameters:
        """The parameters; the table is mapped, and changes of it stay in memory."""
        with self._table.open("rb") as file:
            table = torch.from_numpy(mapped(file)).view(self.entities, self.config.dim)
        return Parameters(self.config.model, table, load_file(self._relations))

    def write(
        self,
        files: PartitionFiles,
        whole: dict[str, Tensor],
        relation: dict[str, Tensor],
        *,
        first: bool,
    ) -> None:
        """Bring the rows in order; a `first` space is turned to its principal axes if asked for."""
        for name, values in relation.items():
            _check_finite(f"relations' {name}", values)
        axes = torch.eye(self.config.dim)
        turned = first and self.config.principal_axes and "translation" in relation
        if turned:
            axes = _principal_axes(files, whole)
            none = Parameters(self.config.model, torch.zeros(0, self.config.dim), relation)
            relation = dict(rotate(none, axes).relation)
        with whole_file(self._table) as staged, FileIO(staged, "w") as file:
            for entity in files.partitioning.counts:
                for rows in _rows(files, whole, entity):
                    write_rows(file, rows @ axes if turned else rows)
        write_whole(self._relations, save({k: v.contiguous() for k, v in relation.items()}))


def _principal_axes(files: PartitionFiles, whole: dict[str, Tensor]) -> Tensor:
    """`parameters.principal_axes`, from blocks of rows."""
    covariance = torch.zeros(files.dim, files.dim, dtype=torch.float64)
    for entity in files.partitioning.counts:
        covariance += covariance_of(_rows(files, whole, entity), files.dim)
    return axes_of(covariance).float()


def _rows(files: PartitionFiles, whole: dict[str, Tensor], entity: str) -> Iterator[Tensor]:
    """The rows of one type in the order of ids; TrainingError for one that is no number."""
    blocks = [whole[entity]] if entity in whole else map(torch.from_numpy, files.in_order(entity))
    for rows in blocks:
        _check_finite(f"vectors of {entity!r}", rows)
        yield rows


def _check_finite(thing: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise TrainingError(
            "the end of training",
            found=f"{thing} that are no finite numbers",
            expected="finite numbers",
            remedy="Lower learning_rate or score_scale.",
        )
