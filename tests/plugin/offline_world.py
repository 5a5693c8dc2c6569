"""What the tests of the offline store stand on: Parquet files, feature views and a Feast store.

PROVENDER_TEST_OFFLINE_STORE=duckdb runs the same tests against Feast's own store, to see where
the two differ; the tests that fail then are Feast's known faults or our additions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import FeastType, Float32, Int64, String

from provender.plugin.retrieval_job import ProvenderRetrievalJob
from tests.plugin.pit_oracle import PER_UNIT, Facts, joined, rows_of

STORE = os.environ.get(
    "PROVENDER_TEST_OFFLINE_STORE", "provender.plugin.offline_store.ProvenderOfflineStore"
)
DAY = 86_400 * 10**9
T0 = int(datetime(2026, 3, 10, tzinfo=UTC).timestamp()) * 10**9
TIME, CREATED = "event_timestamp", "created_timestamp"

USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
PIN = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.STRING)


def at(instant: int) -> datetime:
    """Nanoseconds as a datetime; what is below a microsecond is cut off."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant // 1000)


def stamps(instants: Iterable[int | None], unit: str = "us", tz: str | None = "UTC") -> pa.Array:
    """Times as Arrow's, in a unit that holds them exactly."""
    scale = PER_UNIT[unit]
    counts = [None if each is None else each // scale for each in instants]
    return pa.array(counts, pa.int64()).cast(pa.timestamp(unit, tz))


def facts_table(rows: Sequence[tuple[Any, ...]], key: str = "user_id", **unit: Any) -> pa.Table:
    """Rows of (key, event time, created time, value) as a table with those columns."""
    keys, event, created, values = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            key: pa.array(keys, None if rows else pa.int64()),
            TIME: stamps(event, **unit),
            CREATED: stamps(created, **unit),
            "value": pa.array(values, None if rows else pa.int64()),
        }
    )


def asked(rows: Sequence[tuple[Any, int]], key: str = "user_id", **unit: Any) -> pa.Table:
    """Rows of (key, time) as an entity frame."""
    return pa.table({key: [row[0] for row in rows], TIME: stamps([r[1] for r in rows], **unit)})


def view_of(
    path: Path | str,
    name: str = "stats",
    *,
    entities: Sequence[Entity] = (USER,),
    features: dict[str, FeastType] | None = None,
    ttl: timedelta | None = None,
    created: str | None = CREATED,
    time: str = TIME,
    mapping: dict[str, str] | None = None,
) -> FeatureView:
    """A feature view over Parquet, with one feature `value` unless others are named."""
    types = {ValueType.INT64: Int64, ValueType.STRING: String, ValueType.FLOAT: Float32}
    keys = [Field(name=each.join_key, dtype=types[each.value_type]) for each in entities]
    fields = [Field(name=n, dtype=kind) for n, kind in (features or {"value": Int64}).items()]
    source = FileSource(
        name=f"{name}_source",
        path=str(path),
        timestamp_field=time,
        created_timestamp_column=created,
        field_mapping=mapping,
    )
    return FeatureView(
        name=name, entities=list(entities), schema=[*keys, *fields], source=source, ttl=ttl
    )


def open_store(folder: Path, objects: Sequence[Any], **replaced: Any) -> FeatureStore:
    """A Feast store with a registry of its own, into which the objects and the entities go."""
    config: dict[str, Any] = {
        "project": "offline",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {"type": STORE},
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entity_key_serialization_version": 3,
        "repo_path": folder,
    }
    store = FeatureStore(config=RepoConfig(**(config | replaced)))
    store.apply([USER, PIN, *objects])
    return store


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a Parquet file, and its folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def facts_of(view: FeatureView, *tables: pa.Table, full: bool = False, **changes: Any) -> Facts:
    """What the oracle has to know of a view over these tables, under Feast's names."""
    source = view.batch_source
    assert source is not None
    mapping = dict(source.field_mapping)
    rows = [row for table in tables for row in rows_of(table)]
    name = view.projection.name_alias or view.name
    known: dict[str, Any] = {
        "rows": [{mapping.get(key, key): value for key, value in row.items()} for row in rows],
        "keys": {
            column.name: view.projection.join_key_map.get(column.name, column.name)
            for column in view.entity_columns
        },
        "features": {
            feature.name: f"{name}__{feature.name}" if full else feature.name
            for feature in view.projection.features
        },
        "ttl": view.ttl // timedelta(microseconds=1) * 1000 if view.ttl else None,
        "created": CREATED if source.created_timestamp_column else None,
    }
    return Facts(**(known | changes))


def retrieve(
    store: FeatureStore, entities: Any, features: Any, **options: Any
) -> ProvenderRetrievalJob:
    """Ask the store, as every user of Feast does."""
    job: Any = store.get_historical_features(entity_df=entities, features=features, **options)
    return job  # type: ignore[no-any-return]


def check(
    store: FeatureStore,
    entities: pa.Table,
    features: Any,
    views: Sequence[Facts],
    *,
    time: str = TIME,
    strict: bool = False,
    full: bool = False,
) -> pa.Table:
    """Compare the store with the oracle, row by row; the result for further looks at it."""
    frame = entities.to_pandas() if STORE == "duckdb" else entities
    job = retrieve(
        store, frame, features, full_feature_names=full, filter_by_created_timestamp=strict
    )
    found = job.to_arrow()
    expected = joined(rows_of(entities), views, time=time, strict=strict)
    columns = [*entities.column_names, *(c for view in views for c in view.features.values())]
    assert found.column_names == columns
    if STORE == "duckdb":  # which keeps neither order nor duplicates' places
        assert sorted(map(repr, rows_of(found))) == sorted(map(repr, expected))
    else:
        assert rows_of(found) == expected
    return found
