"""Retrieval without an entity frame: every value of a span of time asks for itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
from feast import FeatureView, RepoConfig

from provender.plugin.entity_frame import TIME_COLUMN
from provender.plugin.feature_rows import open_rows
from provender.plugin.instants import instant
from provender.plugin.source_columns import SourceColumns
from provender.plugin.view_join import JoinRequest

_TIME = pa.timestamp("ns", tz="UTC")


def known_entities(
    config: RepoConfig, views: Sequence[FeatureView], start: datetime, end: datetime
) -> pa.Table:
    """Return every key and time at which a view has a value, between the times, both included.

    As in Feast's Spark, BigQuery and PostgreSQL stores: each pair once, whichever views have it;
    keys that a view lacks are null in the pairs that it adds.
    """
    tables = [_pairs(config, JoinRequest(view, ()), start, end) for view in views]
    united = pa.concat_tables(tables, promote_options="permissive")
    return united.group_by(united.column_names, use_threads=False).aggregate([])


def _pairs(config: RepoConfig, request: JoinRequest, start: datetime, end: datetime) -> pa.Table:
    rows = open_rows(config, request.source, request.thing)
    columns = SourceColumns.of(rows, request.source, [key for key, _ in request.keys], [])
    read = columns.read_times(rows, (instant(start), instant(end)))
    names = [output for _, output in request.keys]
    keys = read.table.select(columns.keys).rename_columns(names)
    return keys.append_column(TIME_COLUMN, pa.array(read.event).cast(_TIME)).drop_null()
