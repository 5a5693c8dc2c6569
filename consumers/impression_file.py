"""Impressions in one Parquet file, by time, in row groups small enough to shuffle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from provender.consumers.example_rows import times_of
from provender.consumers.feature_join import check_keys
from provender.consumers.features import FeatureLayout
from provender.consumers.impression_sources import Source, as_path, read_by_time
from provender.consumers.negative_sampling import NegativeSampling
from provender.consumers.ranking_task import TIME
from provender.plugin.errors import SourceError
from provender.plugin.files import whole_file
from provender.plugin.instants import NO_INSTANT
from provender.plugin.online_rows import EPOCH, MICROSECOND

Ints = npt.NDArray[np.int64]
NAME = "impressions.parquet"


@dataclass(frozen=True)
class ImpressionFile:
    """Where the rows are.

    Attributes:
        group_rows: int64 (g,), rows of each row group.
        times: of the first and the last row, microseconds since 1970-01-01 UTC; 0 of none.
    """

    path: Path
    group_rows: Ints
    times: tuple[int, int]

    def __len__(self) -> int:
        return int(self.group_rows.sum())

    def window(self) -> tuple[datetime, datetime]:
        """Times of the first and the last row; of none at all, 1970."""
        first, last = self.times
        return EPOCH + first * MICROSECOND, EPOCH + last * MICROSECOND

    @property
    def column_names(self) -> list[str]:
        """The columns of the rows."""
        names: list[str] = pq.read_schema(self.path).names
        return names

    def read(self, groups: Sequence[int]) -> pa.Table:
        """The rows of some row groups, in that order."""
        with pq.ParquetFile(self.path) as file:
            return file.read_row_groups(list(groups)).replace_schema_metadata(None)


def impression_file(
    source: Source,
    layout: FeatureLayout,
    work: Path,
    *,
    group_rows: int,
    sampling: NegativeSampling | None = None,
) -> ImpressionFile:
    """Lay impressions out by time; a Parquet file that lies so already is taken as it is.

    Args:
        source: see `impression_sources`.
        layout: whose keys every row needs.
        work: the folder that takes the file, and what is needed on the way.
        group_rows: rows a row group, at most.
        sampling: which rows are left out.

    Raises:
        FetchError: a row without a key or time, or another problem of the source.
    """
    sampling = sampling or NegativeSampling()
    path = as_path(source)
    if path is not None and path.is_file() and sampling.share == 1:
        found = _as_it_lies(path, layout, group_rows)
        if found is not None:
            return found
    path = work / NAME
    with whole_file(path) as staged:
        rows = (_checked(table, layout) for table in read_by_time(source, work))
        _write(staged, (sampling.sampled(table) for table in rows), group_rows)
    return _opened(path)


def _checked(table: pa.Table, layout: FeatureLayout) -> pa.Table:
    check_keys(table, layout)
    return table


def _write(path: Path, tables: Iterator[pa.Table], group_rows: int) -> None:
    """Write tables, at least one, in row groups of exactly so many rows but for the last."""
    held = next(tables)
    words = [each.name for each in held.schema if pa.types.is_string(each.type)]
    # Read again in every epoch, and narrow: quick to decode rather than small.
    with pq.ParquetWriter(path, held.schema, compression="lz4", use_dictionary=words) as writer:
        for table in tables:
            held = pa.concat_tables([held, table])
            whole = len(held) - len(held) % group_rows
            if whole:
                writer.write_table(held.slice(0, whole), row_group_size=group_rows)
                held = held.slice(whole)
        if len(held):
            writer.write_table(held, row_group_size=group_rows)


def _as_it_lies(path: Path, layout: FeatureLayout, group_rows: int) -> ImpressionFile | None:
    """A file by time, in row groups that are small enough; None of any other."""
    with _parquet(path) as file:
        if not _has_zone(file.schema_arrow):
            return None
        sizes = _group_rows(file)
        if len(sizes) and sizes.max() > group_rows:
            return None
        keys, last = [*layout.join_keys, TIME], NO_INSTANT
        for batch in file.iter_batches(columns=[k for k in keys if k in file.schema_arrow.names]):
            table = pa.Table.from_batches([batch])
            check_keys(table, layout)
            times = times_of(table)
            if len(times) and (times[0] < last or (times[1:] < times[:-1]).any()):
                return None
            last = times[-1] if len(times) else last
    return _opened(path)


def _has_zone(schema: pa.Schema) -> bool:
    kind = schema.field(TIME).type if TIME in schema.names else pa.null()
    return bool(pa.types.is_timestamp(kind)) and kind.tz is not None


def _opened(path: Path) -> ImpressionFile:
    with _parquet(path) as file:
        sizes = _group_rows(file)
        ends = [
            int(times_of(file.read_row_group(group, [TIME]))[row])
            for group, row in ((0, 0), (len(sizes) - 1, -1))
            if len(sizes)
        ]
    first, last = ends or (0, 0)
    return ImpressionFile(path, sizes, (first, last))


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"impressions {path}",
            found=str(error).splitlines()[0][:300],
            expected="a whole Parquet file",
            remedy="Write it again.",
        ) from None


def _group_rows(file: pq.ParquetFile) -> Ints:
    """How many rows each row group has; an empty file may have a group of none."""
    meta = file.metadata
    sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    return np.array(sizes if sum(sizes) else [], dtype=np.int64)
