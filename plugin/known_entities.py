"""Retrieval without an entity frame: every entity that had a value in a span of time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from feast import FeatureView, RepoConfig

from provender.plugin.entity_frame import TIME_COLUMN
from provender.plugin.feature_rows import open_rows
from provender.plugin.instants import instant
from provender.plugin.source_columns import SourceColumns
from provender.plugin.view_join import JoinRequest

_TIME = pa.timestamp("us", tz="UTC")


def known_entities(
    config: RepoConfig, views: Sequence[FeatureView], start: datetime, end: datetime
) -> pa.Table:
    """Return the keys of every entity with a value between the times, as rows at ``end``.

    As in Feast's Spark and BigQuery stores: each entity once; views with other keys add rows of
    their own, in which the keys that they lack are null.
    """
    tables = [_keys(config, JoinRequest(view, ()), start, end) for view in views]
    united = pa.concat_tables(tables, promote_options="permissive")
    distinct = united.group_by(united.column_names, use_threads=False).aggregate([])
    times = pa.repeat(pa.scalar(end.astimezone(UTC), _TIME), distinct.num_rows)
    return distinct.append_column(TIME_COLUMN, times)


def _keys(config: RepoConfig, request: JoinRequest, start: datetime, end: datetime) -> pa.Table:
    source = request.source
    rows = open_rows(config, source, request.thing)
    columns = SourceColumns.of(rows, source, [key for key, _ in request.keys], [])
    window = (instant(start), instant(end))
    table = columns.read_times(rows, window).table
    names = [output for _, output in request.keys]
    return table.select(columns.keys).rename_columns(names).drop_null()
