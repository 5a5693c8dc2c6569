"""The same impressions from wherever they are: SQLite always, PostgreSQL where it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from feast import FeatureStore

from provender.consumers.impression_sources import DatabaseQuery, Source
from provender.consumers.training_stream import TrainingStream
from provender.plugin.errors import FetchError, MappingError, SourceError
from tests.consumers.kitchen import OURS
from tests.consumers.stream_world import same, shown
from tests.plugin.online_world import SERVERS

NAME = f"provender_shown_{os.getpid()}"


def declared() -> sa.Table:
    return sa.Table(
        NAME,
        sa.MetaData(),
        sa.Column("impression_id", sa.BigInteger),
        sa.Column("user_id", sa.BigInteger),
        sa.Column("pin_id", sa.BigInteger),
        sa.Column("event_timestamp", sa.DateTime(timezone=True)),
        sa.Column("click", sa.SmallInteger),
        sa.Column("conversion", sa.SmallInteger),
        sa.Column("click_weight", sa.Float),
        sa.Column("number", sa.BigInteger),
    )


@pytest.fixture
def ours(kitchen: Any) -> FeatureStore:
    if kitchen.stores != OURS:
        pytest.skip("impressions are read before any store is asked")
    store: FeatureStore = kitchen.store()
    return store


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[sa.Engine, str]]:
    """A database with the impressions."""
    url = SERVERS.get(request.param, f"sqlite:///{tmp_path}/shown.db")
    engine = sa.create_engine(url)
    table = declared()
    try:
        table.create(engine)
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no {request.param}: {error.orig}")
    try:
        with engine.begin() as connection:
            connection.execute(table.insert(), shown(60).to_pylist())
        yield engine, url
    finally:
        table.drop(engine)
        engine.dispose()


def check_same(store: FeatureStore, source: Source, **options: Any) -> TrainingStream:
    """Whether a source gives the batches that the table in memory gives."""
    small: dict[str, Any] = {"pool_rows": 32, "batch_size": 7, **options}
    wanted = TrainingStream(store, shown(60), "rich", **small)
    found = TrainingStream(store, source, "rich", **small)
    assert all(same(a, b) for a, b in zip(found, wanted, strict=True))
    return found


def test_queries_of_databases_are_as_good_as_a_table(
    ours: FeatureStore, database: tuple[sa.Engine, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, url = database
    monkeypatch.setattr("provender.plugin.databases.BATCH_ROWS", 17)
    sql = f"SELECT * FROM {NAME} WHERE 'a%' LIKE 'a%'"
    check_same(ours, DatabaseQuery(url, sql))
    check_same(ours, DatabaseQuery(engine, sql))
    table = declared()
    check_same(ours, DatabaseQuery(engine, sa.select(table).where(table.c.user_id > 0)))
    check_same(ours, DatabaseQuery(url, sa.select(table)), in_order=True, negatives=0.5)


def as_file(folder: Path) -> Source:
    pq.write_table(shown(60), folder / "shown.parquet", row_group_size=11)
    return folder / "shown.parquet"


def as_files(folder: Path) -> Source:
    for part in range(3):
        pq.write_table(shown(60).slice(20 * part, 20), folder / f"part-{part}.parquet")
    return folder


def as_sql(folder: Path) -> Source:
    duckdb.connect(str(folder / "shown.duckdb")).close()
    return f"SELECT * FROM '{as_file(folder)}' WHERE number >= 0;"


SOURCES: dict[str, Callable[[Path], Source]] = {
    "a file": as_file,
    "the path of a file": lambda folder: str(as_file(folder)),
    "a folder": as_files,
    "DuckDB": as_sql,
    "pandas": lambda folder: shown(60).to_pandas(),
    "tables": lambda folder: (shown(60).slice(start, 9) for start in range(0, 60, 9)),
    "another order": lambda folder: shown(60).take(pa.array(range(59, -1, -1))),
    "whole numbers of pandas": lambda folder: shown(60).to_pandas().convert_dtypes(),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_are_equal(ours: FeatureStore, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    check_same(ours, SOURCES[kind](folder))


def test_a_file_that_lies_by_time_is_not_copied(ours: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "laid.parquet"
    by_time = [("event_timestamp", "ascending"), ("impression_id", "ascending")]
    pq.write_table(shown(60).sort_by(by_time), path, row_group_size=4)
    stream = check_same(ours, path, in_order=True)
    assert stream.impressions.path == path
    assert check_same(ours, path).impressions.group_rows.tolist() == [4] * 15
    # Groups that are too large, and rows that are left out, want another file.
    for options in ({"pool_rows": 24}, {"negatives": 0.5}):
        other = check_same(ours, path, in_order=True, **options)
        assert other.impressions.path != path


def test_rows_of_one_time_without_ids_are_the_same_in_any_order(ours: FeatureStore) -> None:
    table = shown(60).drop_columns(["impression_id"])
    times = pa.array([table["event_timestamp"][0].as_py()] * 60, table["event_timestamp"].type)
    table = table.set_column(2, "event_timestamp", times)
    turned = table.take(pa.array(range(59, -1, -1)))
    streams = [TrainingStream(ours, each, "plain", batch_size=7) for each in (table, turned)]
    assert all(same(a, b) for a, b in zip(*streams, strict=True))


def test_times_without_a_zone_are_utc(ours: FeatureStore) -> None:
    table = shown(60)
    place = table.schema.get_field_index("event_timestamp")
    for kind in (pa.timestamp("ns"), pa.timestamp("ms", "Europe/Berlin"), pa.string()):
        times = table["event_timestamp"]
        moved = times.cast(pa.timestamp("us")).cast(kind) if kind != pa.string() else None
        if pa.types.is_timestamp(kind) and kind.tz:
            moved = times.cast(kind)
        text = [f"{time.as_py():%Y-%m-%d %H:%M:%S}" for time in times]
        column = pa.array(text) if moved is None else moved
        check_same(ours, table.set_column(place, "event_timestamp", column))


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("nowhere.parquet", FetchError, "nothing at nowhere.parquet"),
        ("SELECT 1 AS event", FetchError, "event_timestamp among them"),
        ("SELECT nothing FROM nowhere", MappingError, "nowhere"),
        ("SELECT DATE '2026-01-01' AS event_timestamp", FetchError, "no column 'user_id'"),
        (DatabaseQuery("sqlite://", "SELECT * FROM nowhere"), SourceError, "no such table"),
        (DatabaseQuery("no url", "SELECT 1"), SourceError, "a url that is none"),
        (7, FetchError, "found a int"),
    ],
)
def test_what_can_not_be_read_is_one_line(
    ours: FeatureStore, source: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        TrainingStream(ours, source, "rich")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_one_line(ours: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "shown.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(SourceError, match="a whole Parquet file"):
        TrainingStream(ours, tmp_path / "shown.parquet", "rich")
