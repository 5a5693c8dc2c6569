"""The hot snapshot of a view beside its table: built, read where it has the answer, dropped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from feast import RepoConfig

from provender.plugin.errors import SnapshotError
from provender.plugin.hot_snapshot import HotChunk, HotRows, open_hot, publish, withdraw
from provender.plugin.online_view import OnlineView
from provender.plugin.spec import VECTOR_COLUMN

SCAN_ROWS = 16_384

_log = logging.getLogger(__name__)


def hot_folder(config: RepoConfig, table: str) -> Path | None:
    """Where the hot snapshot of a table lies, or would lie; None where there are none."""
    hot: str | None = config.online_store.hot
    return None if hot is None else (config.repo_path or Path()) / hot / table


def publish_hot(online: OnlineView) -> None:
    """Copy the view's table into its hot snapshot, if it is to have one."""
    if online.hot is not None and online.spec is not None:
        publish(online.hot, _chunks(online), prefixes=online.spec.nested_dims)


def read_hot(
    online: OnlineView,
    keys: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
    names: Sequence[str],
    dim: int | None,
) -> HotRows | None:
    """The answer of the hot snapshot; None where the table has to be read."""
    if online.hot is None or list(names) != [VECTOR_COLUMN] or len(keys) != 1:
        return None
    try:
        snapshot = open_hot(online.hot)
        if snapshot is None or list(keys) != list(online.keys.types):
            return None
        return snapshot.read(next(iter(keys.values())), dim)
    except SnapshotError as error:  # It is a copy: the table has the same rows.
        _log.warning("%s The hot snapshot is withdrawn and the table read.", error)
        withdraw(online.hot)
        return None


def drop_hot(online: OnlineView) -> None:
    """Delete the view's hot snapshot."""
    if online.hot is not None:
        drop_hot_folder(online.hot)


def drop_hot_folder(folder: Path) -> None:
    """Delete a hot snapshot, whether there is one or not."""
    withdraw(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _chunks(online: OnlineView) -> Iterator[HotChunk]:
    for keys, found in online.scan(SCAN_ROWS):
        (column,) = online.keys.to_columns(keys).values()
        vectors = online.columns(found, [VECTOR_COLUMN])[VECTOR_COLUMN].values
        yield HotChunk(column, found.event_us, vectors)
