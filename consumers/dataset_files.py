"""Training rows for other learners: Parquet, pandas, and plain matrices as LightGBM takes them.

    to_parquet(stream, Path("train.parquet"), frame="flat")
    matrix = training_matrix(stream)
    lightgbm.Dataset(matrix.features, matrix.labels["click"], weight=matrix.weights["click"],
                     feature_name=matrix.names)

A frame of `vectors` has each embedding in one column of lists, null where missing, and its age; a
`flat` one has a float32 column for each number, NaN where missing, and beside them the dot products
and cosines of views that share a space (flat_features.py).

Legend of shapes: n rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.flat_features import flat_features
from provender.consumers.ranking_task import LABELS
from provender.consumers.training_stream import TrainingStream
from provender.plugin.files import whole_file
from provender.plugin.spec import VECTOR_COLUMN

Frame = Literal["flat", "vectors"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingMatrix:
    """All rows in memory, by time.

    Attributes:
        features: (n, F) float32, NaN where missing; without the context, which may be text.
        names: (F,) of its columns, in letters, digits and underscores alone.
        labels: task -> (n,) float32, 0 where not known.
        weights: task -> (n,) float32, 0 there: a learner has to be given them.
        times: (n,) microseconds since 1970-01-01 UTC.
    """

    features: Floats
    names: list[str]
    labels: dict[str, Floats]
    weights: dict[str, Floats]
    times: npt.NDArray[np.int64]


def to_parquet(
    stream: TrainingStream,
    path: Path,
    *,
    frame: Frame = "vectors",
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Write all rows of all ranks, by time, to a file that appears whole; return how many.

    Args:
        on_rows: told of every batch how many rows it had.
    """
    count = 0
    tables = _tables(stream, frame)
    with whole_file(path) as staged:
        first = next(tables)
        floats = (pa.types.is_floating, pa.types.is_list)
        words = [f.name for f in first.schema if not any(kind(f.type) for kind in floats)]
        # Floats of vectors neither repeat nor compress.
        with pq.ParquetWriter(staged, first.schema, use_dictionary=words) as writer:
            for table in tables:
                writer.write_table(table)
                count += len(table)
                if on_rows:
                    on_rows(len(table))
    return count


def to_pandas(stream: TrainingStream, *, frame: Frame = "flat") -> pd.DataFrame:
    """All rows of all ranks, by time."""
    found: pd.DataFrame = pa.concat_tables(_tables(stream, frame)).to_pandas()
    return found


def training_matrix(stream: TrainingStream) -> TrainingMatrix:
    """All rows of all ranks, by time, as arrays."""
    frame = pa.concat_tables(_tables(stream, "flat"))
    names = _flat(stream.layout, _nothing(stream)[1]).column_names
    features = np.empty((len(frame), len(names)), np.float32)
    for place, name in enumerate(names):
        features[:, place] = frame[name].to_numpy()
    tasks = [name for name in LABELS if name in frame.column_names]
    return TrainingMatrix(
        features,
        names,
        {name: frame[name].cast(pa.float32()).fill_null(0).to_numpy() for name in tasks},
        {name: frame[f"{name}_weight"].to_numpy() for name in tasks},
        frame["event_timestamp"].cast(pa.int64()).to_numpy(),
    )


def _tables(stream: TrainingStream, frame: Frame) -> Iterator[pa.Table]:
    """The rows batch by batch after a table of none, so that the schema is known."""
    made = _flat if frame == "flat" else _vectors
    schema: pa.Schema | None = None
    for rows, batch in _all(stream):
        columns = {name: rows[name] for name in rows.column_names}
        columns |= {f"{task}_weight": pa.array(w.numpy()) for task, w in batch.weights.items()}
        features = made(stream.layout, batch)
        table = pa.table(
            {**columns, **dict(zip(features.column_names, features.columns, strict=True))}
        )
        schema = schema or table.schema
        yield table.cast(schema)


def _all(stream: TrainingStream) -> Iterator[tuple[pa.Table, RankerBatch]]:
    yield _nothing(stream)
    yield from stream.examples()


def _nothing(stream: TrainingStream) -> tuple[pa.Table, RankerBatch]:
    """The columns of the impressions, and a batch of no rows."""
    empty = stream.impressions.read([])
    return empty, stream.joined(empty)


def _flat(layout: FeatureLayout, batch: RankerBatch) -> pa.Table:
    columns = flat_features(layout, batch)
    return pa.table({_plain(str(name)): columns[name].to_numpy() for name in columns})


def _plain(name: str) -> str:
    """A name without the characters that LightGBM refuses: view[3] is view_3."""
    words = "".join(letter if letter.isalnum() else "_" for letter in name)
    return words.rstrip("_")


def _vectors(layout: FeatureLayout, batch: RankerBatch) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for spec in layout.embeddings:
        view = spec.view_name
        missing = pa.array(~batch.present[view].numpy())
        offsets = pa.array(np.arange(len(batch) + 1, dtype=np.int32) * spec.dim)
        floats = pa.array(batch.vectors[view].numpy().reshape(-1))
        columns[f"{view}__{VECTOR_COLUMN}"] = pa.ListArray.from_arrays(
            offsets, floats, mask=missing
        )
        columns[f"{view}__age_seconds"] = pa.array(batch.age_seconds[view].numpy())
    for place, feature in enumerate(layout.dense):
        there = batch.dense_present[:, place].numpy()
        columns[feature.column] = pa.array(batch.dense[:, place].numpy(), mask=~there)
    return pa.table(columns)
