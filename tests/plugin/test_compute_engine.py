from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from feast import (
    BatchFeatureView,
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    ValueType,
)
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.compute_engines.backends.pandas_backend import PandasBackend
from feast.types import Array, Float32, Float64, Int64, String

from provender.plugin import compute_engine, databases
from provender.plugin.compute_engine import ProvenderEngine
from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.errors import LoadLockedError, ProvenderError
from provender.plugin.hot_snapshot import open_hot
from provender.plugin.manifest import RunInfo
from provender.plugin.offline_store import ProvenderOfflineStore
from provender.plugin.snapshot import write_snapshot

T = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
SHOP = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
OURS = "provender.plugin.offline_store.ProvenderOfflineStore"
SERVERS = {
    "postgres": os.environ.get(
        "PROVENDER_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/test"
    ),
    "mariadb": os.environ.get("PROVENDER_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test"),
}
YAML = """
project: {project}
registry: {registry}
provider: local
offline_store: {{type: {offline}}}
online_store: {{type: {online}{url}}}
batch_engine: {{type: {engine}}}
entity_key_serialization_version: 3
"""

Open = Callable[..., FeatureStore]


@pytest.fixture
def open_repo(tmp_path: Path) -> Iterator[Open]:
    """Open a store over a database of one kind; its tables go at the end."""
    stores: list[FeatureStore] = []

    def opened(
        kind: str = "sqlite",
        offline: str = OURS,
        online: str = "provender.plugin.online_store.ProvenderOnlineStore",
        engine: str = "provender.plugin.compute_engine.ProvenderEngine",
        registry: str = "data/registry.db",
    ) -> FeatureStore:
        project = f"engine_{uuid4().hex[:10]}"
        repo = tmp_path / project
        (repo / "data").mkdir(parents=True)
        url = "" if online == "sqlite" else f', url: "{_address(kind)}"'
        settings = YAML.format(
            project=project,
            offline=offline,
            online=online,
            engine=engine,
            url=url,
            registry=registry.format(repo=repo),
        )
        (repo / "feature_store.yaml").write_text(settings)
        stores.append(FeatureStore(repo_path=str(repo)))
        return stores[-1]

    yield opened
    for store in stores:
        store.teardown()  # type: ignore[no-untyped-call]


def _address(kind: str) -> str:
    if kind == "sqlite":
        return "sqlite:///data/online.db"
    try:
        sa.create_engine(SERVERS[kind]).connect().close()
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        shown = databases.shown(sa.make_url(SERVERS[kind]))
        pytest.skip(f"no {kind} at {shown}: {error.orig}")
    return SERVERS[kind]


def shop_rows(count: int = 300, seed: int = 1) -> pd.DataFrame:
    """Rows of 40 shops over 48 hours, with nulls, ties in event time and late ones."""
    rng = np.random.default_rng(seed)
    hours = rng.integers(0, 48, count)
    return pd.DataFrame(
        {
            "shop_id": [f"shöp {i}" for i in rng.integers(0, 40, count)],
            "price": np.where(rng.random(count) < 0.2, np.nan, rng.random(count)),
            "stock": pd.array(rng.integers(0, 9, count), dtype="Int64"),
            "tags": [[f"t{i}", "ü"] for i in range(count)],
            "embedding": list(rng.random((count, 3), dtype=np.float32)),
            "at": [T + HOUR * int(hour) for hour in hours],
            # Each created time once, so that the newest of a tie is known.
            "written": [T + timedelta(days=9, seconds=int(i)) for i in rng.permutation(count)],
        }
    )


def shop_source(repo: Path, rows: pd.DataFrame, **options: Any) -> FileSource:
    path = repo / "data" / "shops.parquet"
    rows.to_parquet(path, coerce_timestamps="us", allow_truncated_timestamps=True)
    return FileSource(
        path=str(path), timestamp_field="at", created_timestamp_column="written", **options
    )


def shop_view(source: FileSource | PushSource, name: str = "shops", **options: Any) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[SHOP],
        ttl=timedelta(days=3650),
        schema=[
            Field(name="shop_id", dtype=String),
            Field(name="price", dtype=Float64),
            Field(name="stock", dtype=Int64),
            Field(name="tags", dtype=Array(String)),
            Field(name="embedding", dtype=Array(Float32)),
        ],
        source=source,
        **options,
    )


FEATURES = ("price", "stock", "tags", "embedding")


def newest(rows: pd.DataFrame, start: datetime, end: datetime) -> dict[str, dict[Any, Any]]:
    """Go through all rows one by one."""
    best: dict[str, dict[Any, Any]] = {}
    for row in rows.to_dict("records"):
        if start <= row["at"] <= end:
            old = best.get(row["shop_id"])
            if old is None or (row["at"], row["written"]) > (old["at"], old["written"]):
                best[row["shop_id"]] = row
    return best


def online(store: FeatureStore, view: str = "shops") -> dict[str, dict[str, Any]]:
    """What is served for every shop, and one that is not there."""
    keys = [f"shöp {i}" for i in range(41)]
    features = [f"{view}:{name}" for name in FEATURES]
    answer = store.get_online_features(features, [{"shop_id": key} for key in keys]).to_dict()
    rows = [{name: answer[name][i] for name in FEATURES} for i in range(len(keys))]
    return {key: row for key, row in zip(keys, rows, strict=True) if row["tags"] is not None}


def assert_serves(store: FeatureStore, expected: dict[str, dict[Any, Any]]) -> None:
    served = online(store)
    assert set(served) == set(expected)
    for key, row in expected.items():
        price = None if np.isnan(row["price"]) else row["price"]
        assert served[key]["price"] == price
        assert served[key]["stock"] == row["stock"]
        assert served[key]["tags"] == list(row["tags"])
        assert served[key]["embedding"] == row["embedding"].tolist()


def user_view(repo: Path, **options: Any) -> FeatureView:
    return embedding_view(
        name="user_transra",
        version=1,
        entity=USER,
        dim=8,
        space="transra_v1",
        producer="transra",
        ttl=timedelta(days=3),
        snapshots=repo / "snapshots",
        **options,
    )


def refresh(repo: Path, day: int, keys: range, seed: int) -> np.ndarray:
    """Write the snapshot of one day; returns its vectors."""
    vectors = np.random.default_rng(seed).standard_normal((len(keys), 8), dtype=np.float32)
    as_of = T + timedelta(days=day)
    run = RunInfo("run", "transra", "0" * 8, as_of - timedelta(days=30), as_of)
    spec = spec_of(user_view(repo))
    write_snapshot(repo / "snapshots", spec, as_of, pa.array(keys, pa.int64()), vectors, run)
    return vectors


def served_vectors(store: FeatureStore, keys: range) -> list[list[float] | None]:
    rows = [{"user_id": key} for key in keys]
    answer = store.get_online_features(["user_transra_v1:embedding"], rows).to_dict()
    found: list[list[float] | None] = answer["embedding"]
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
@pytest.mark.parametrize("offline", [OURS, "duckdb"])
def test_the_newest_row_of_the_window_is_served(open_repo: Open, kind: str, offline: str) -> None:
    store = open_repo(kind, offline=offline)
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    # Both edges are whole hours, at which rows lie.
    store.materialize(T + 5 * HOUR, T + 30 * HOUR)
    assert_serves(store, newest(rows, T + 5 * HOUR, T + 30 * HOUR))
    store.materialize_incremental(T + 60 * HOUR)
    assert_serves(store, newest(rows, T + 5 * HOUR, T + 60 * HOUR))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("offline", [OURS, "duckdb"])
def test_an_embedding_view_is_served_as_it_was_written(
    open_repo: Open, kind: str, offline: str
) -> None:
    store = open_repo(kind, offline=offline)
    repo = Path(store.repo_path)
    first = refresh(repo, 0, range(10), seed=1)
    second = refresh(repo, 1, range(5, 15), seed=2)
    store.apply([USER, user_view(repo)])
    store.materialize(T - HOUR, T + timedelta(days=2))
    expected = [*first[:5].tolist(), *second.tolist(), None]
    assert served_vectors(store, range(16)) == expected


def test_an_older_window_never_overwrites_a_newer_one(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    store.materialize(T + 20 * HOUR, T + 30 * HOUR)
    for _ in range(2):
        store.materialize(T, T + 19 * HOUR)
        assert_serves(store, newest(rows, T, T + 30 * HOUR))


def test_late_corrections_of_the_same_event_time_win(open_repo: Open) -> None:
    """The event times tie; the created time decides, in whichever order they come."""
    store = open_repo()
    repo = Path(store.repo_path)
    rows = shop_rows(80)
    fixed = rows.assign(stock=pd.array(range(80), dtype="Int64"), written=rows.written + HOUR)
    store.apply([SHOP, shop_view(shop_source(repo, rows))])
    store.materialize(T, T + 60 * HOUR)
    shop_source(repo, fixed)
    store.materialize(T, T + 60 * HOUR)
    assert_serves(store, newest(fixed, T, T + 60 * HOUR))
    shop_source(repo, rows)
    store.materialize(T, T + 60 * HOUR)
    assert_serves(store, newest(fixed, T, T + 60 * HOUR))


def test_a_window_without_rows_changes_nothing(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    store.materialize(T - 20 * HOUR, T - 10 * HOUR)
    assert_serves(store, {})
    store.materialize(T, T + 10 * HOUR)
    store.materialize(T + 100 * HOUR, T + 110 * HOUR)
    assert_serves(store, newest(rows, T, T + 10 * HOUR))
    assert store.get_feature_view("shops").most_recent_end_time == T + 110 * HOUR


def test_all_rows_are_read_with_event_timestamps_disabled(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    everything = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    store.materialize(*everything, disable_event_timestamp=True)
    assert_serves(store, newest(rows, *everything))


@pytest.mark.parametrize("offline", [OURS, "duckdb"])
def test_columns_of_other_names_are_mapped(open_repo: Open, offline: str) -> None:
    store = open_repo(offline=offline)
    rows = shop_rows()
    names = {"s": "shop_id", "p": "price", "e": "at", "w": "written", "v": "embedding"}
    stored = rows.rename(columns={new: old for old, new in names.items()})
    source = shop_source(Path(store.repo_path), stored, field_mapping=names)
    store.apply([SHOP, shop_view(source)])
    store.materialize(T, T + 30 * HOUR)
    assert_serves(store, newest(rows, T, T + 30 * HOUR))


@pytest.mark.parametrize("offline", [OURS, "duckdb"])
def test_a_view_without_entities_has_one_row(open_repo: Open, offline: str) -> None:
    store = open_repo(offline=offline)
    rows = shop_rows().sort_values(["at", "written"])
    view = FeatureView(
        name="all_shops",
        schema=[Field(name="stock", dtype=Int64)],
        source=shop_source(Path(store.repo_path), rows),
    )
    store.apply([view])
    store.materialize(T, T + 60 * HOUR)
    answer = store.get_online_features(
        ["all_shops:stock"], [{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL}]
    ).to_dict()
    assert answer["stock"] == [rows.stock.iloc[-1]]


def test_keys_of_two_columns(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows().assign(user_id=lambda frame: frame.stock)
    view = FeatureView(
        name="visits",
        entities=[SHOP, USER],
        schema=[
            Field(name="shop_id", dtype=String),
            Field(name="user_id", dtype=Int64),
            Field(name="embedding", dtype=Array(Float32)),
        ],
        source=shop_source(Path(store.repo_path), rows),
    )
    store.apply([SHOP, USER, view])
    store.materialize(T, T + 60 * HOUR)
    last = rows.sort_values(["at", "written"]).groupby(["shop_id", "user_id"]).last()
    asked = [{"shop_id": shop, "user_id": user} for shop, user in last.index]
    answer = store.get_online_features(["visits:embedding"], asked).to_dict()
    assert answer["embedding"] == [each.tolist() for each in last.embedding]


def test_a_push_is_not_undone_by_older_files(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows()
    batch = shop_source(Path(store.repo_path), rows)
    store.apply([SHOP, shop_view(PushSource(name="pushed", batch_source=batch))])
    store.materialize(T, T + 30 * HOUR)
    late = rows.iloc[:1].assign(at=T + 90 * HOUR, written=T + 90 * HOUR, price=7.5)
    store.push("pushed", late)
    store.materialize(T, T + 60 * HOUR)
    expected = newest(pd.concat([rows, late]), T, T + 90 * HOUR)
    assert_serves(store, expected)


def test_the_hot_snapshot_follows_materialize_and_push(open_repo: Open) -> None:
    repo = Path(open_repo().repo_path)
    settings = repo / "feature_store.yaml"
    settings.write_text(settings.read_text().replace('online.db"', 'online.db", hot: data/hot'))
    store = FeatureStore(repo_path=str(repo))
    hot = repo / "data" / "hot" / f"{store.project}_user_transra_v1"
    first, second = refresh(repo, 0, range(10), seed=1), refresh(repo, 1, range(5, 15), seed=2)
    store.apply([USER, user_view(repo)])
    assert open_hot(hot) is None
    store.materialize(T - HOUR, T + HOUR)
    snapshot = open_hot(hot)
    assert snapshot is not None
    assert (snapshot.read(range(10)).vectors == first).all()
    store.materialize_incremental(T + timedelta(days=2))
    snapshot = open_hot(hot)
    assert snapshot is not None
    assert (snapshot.read(range(15)).vectors == np.concatenate([first[:5], second])).all()

    late = T + timedelta(days=3)
    row = {"user_id": [3], "event_timestamp": [late], "created_timestamp": [late]}
    pushed = pd.DataFrame({**row, "embedding": [[1.0] * 8]})
    store.write_to_online_store("user_transra_v1", pushed)
    assert open_hot(hot) is None
    assert served_vectors(store, range(3, 5)) == [[1.0] * 8, first[4].tolist()]
    store.materialize(T - HOUR, T + timedelta(days=2))
    snapshot = open_hot(hot)
    assert snapshot is not None
    assert snapshot.read([3, 4]).vectors.tolist() == [[1.0] * 8, first[4].tolist()]


def test_progress_counts_the_rows(open_repo: Open) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    counted: list[int] = []

    class Bar:
        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            counted.append(-1)

        def update(self, count: int) -> None:
            counted.append(count)

    store.provider.materialize_single_feature_view(
        store.config,
        store.get_feature_view("shops"),
        T,
        T + 60 * HOUR,
        store.registry,
        store.project,
        lambda length: Bar(),
    )
    assert counted[-1] == -1
    assert sum(counted[:-1]) == rows.shop_id.nunique()


def test_after_an_error_the_watermark_stays(
    open_repo: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_repo()
    repo = Path(store.repo_path)
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(repo, rows))])
    store.materialize(T, T + 10 * HOUR)
    (repo / "data" / "shops.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ProvenderError):
        store.materialize_incremental(T + 60 * HOUR)
    reopened = FeatureStore(repo_path=str(repo))
    assert reopened.get_feature_view("shops").most_recent_end_time == T + 10 * HOUR
    assert_serves(reopened, newest(rows, T, T + 10 * HOUR))
    shop_source(repo, rows)
    reopened.materialize_incremental(T + 60 * HOUR)
    assert_serves(reopened, newest(rows, T, T + 60 * HOUR))


def test_a_stream_that_breaks_off_changes_nothing(
    open_repo: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    store.materialize(T, T + 10 * HOUR)
    whole = compute_engine._batches

    def broken(job: Any) -> Iterator[pa.RecordBatch]:
        batch = next(whole(job))
        yield batch.slice(0, 5)
        yield batch.slice(5, 5)
        raise ConnectionError("the bucket went away")

    monkeypatch.setattr(compute_engine, "_batches", broken)
    with pytest.raises(ConnectionError, match="bucket"):
        store.materialize(T, T + 60 * HOUR)
    assert_serves(store, newest(rows, T, T + 10 * HOUR))


class TestWhatIsLeftToFeast:
    """The local engine's own work, whatever the stores."""

    @pytest.mark.parametrize("store_type", ["sqlite", "ours"])
    def test_transformations(self, open_repo: Open, store_type: str) -> None:
        store = open_repo(**({"online": "sqlite"} if store_type == "sqlite" else {}))
        rows = shop_rows()
        view = BatchFeatureView(
            name="lengths",
            entities=[SHOP],
            mode="pandas",
            udf=lambda frame: frame.assign(stock=frame["shop_id"].str.len()),
            udf_string="lengths",
            online=True,
            schema=[Field(name="shop_id", dtype=String), Field(name="stock", dtype=Int64)],
            source=shop_source(Path(store.repo_path), rows),
        )
        store.apply([SHOP, view])
        store.materialize(T, T + 60 * HOUR)
        expected = newest(rows, T, T + 60 * HOUR)
        keys = sorted(expected)
        answer = store.get_online_features(
            ["lengths:stock"], [{"shop_id": key} for key in keys]
        ).to_dict()
        assert answer["stock"] == [len(key) for key in keys]

    @pytest.mark.parametrize("offline", [OURS, "duckdb"])
    def test_any_other_online_store(self, open_repo: Open, offline: str) -> None:
        store = open_repo(offline=offline, online="sqlite")
        rows = shop_rows()
        store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
        store.materialize(T, T + 30 * HOUR)
        assert_serves(store, newest(rows, T, T + 30 * HOUR))

    def test_no_chunk_of_a_table_is_lost(
        self, open_repo: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Feast's engine writes only the first chunk of a table that it does not cut."""
        to_arrow = PandasBackend.to_arrow

        def in_chunks(self: PandasBackend, frame: pd.DataFrame) -> pa.Table:
            table = to_arrow(self, frame)  # type: ignore[no-untyped-call]
            return pa.concat_tables([table.slice(at, 7) for at in range(0, len(table), 7)])

        monkeypatch.setattr(PandasBackend, "to_arrow", in_chunks)
        store = open_repo(online="sqlite")
        rows = shop_rows()
        store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
        store.materialize(T, T + 60 * HOUR)
        assert_serves(store, newest(rows, T, T + 60 * HOUR))

    def test_views_that_are_written_offline_as_well(
        self, open_repo: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []

        def write(config: Any, feature_view: Any, table: pa.Table, progress: Any) -> None:
            written.append(table.num_rows)

        monkeypatch.setattr(ProvenderOfflineStore, "offline_write_batch", staticmethod(write))
        store = open_repo()
        rows = shop_rows()
        store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows), offline=True)])
        store.materialize(T, T + 60 * HOUR)
        expected = newest(rows, T, T + 60 * HOUR)
        assert_serves(store, expected)
        assert written == [len(expected)]

    def test_a_batch_size_of_the_users_is_kept(self, open_repo: Open) -> None:
        config = open_repo().config
        assert compute_engine._written_by_batch(config).offline_store == config.offline_store
        config.materialization_config.online_write_batch_size = 5
        assert compute_engine._written_by_batch(config) is config


def test_feast_finds_the_engine_by_its_name_alone(open_repo: Open) -> None:
    store = open_repo()
    path = Path(store.repo_path) / "feature_store.yaml"
    line = "batch_engine: {type: provender.plugin.compute_engine.ProvenderEngine}"
    assert line in path.read_text()
    assert type(store.provider.batch_engine) is ProvenderEngine  # type: ignore[attr-defined]
    path.write_text(path.read_text().replace(line, line.replace("{type: ", "").strip("}")))
    again = FeatureStore(repo_path=str(path.parent))
    assert type(again.provider.batch_engine) is ProvenderEngine  # type: ignore[attr-defined]


FORKS = """
import os, signal, sys, time
from datetime import datetime
from feast import FeatureStore
import provender.plugin.compute_engine, provender.plugin.offline_store

def materialize(repo, start, end):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    store = FeatureStore(repo_path=repo)
    store.materialize(datetime.fromisoformat(start), datetime.fromisoformat(end))
    os._exit(0)

for line in sys.stdin:
    repo, start, end, count, kill_after = line.split()
    children = [materialize(repo, start, end) for _ in range(int(count))]
    if kill_after != "None":
        time.sleep(float(kill_after))
        for child in children:
            os.kill(child, signal.SIGKILL)
    print(*[os.waitpid(child, 0)[1] for child in children], flush=True)
"""


class Materializer:
    """A process that forks, with all imports behind it, for each run that may be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(
        self,
        store: FeatureStore,
        start: datetime,
        end: datetime,
        *,
        count: int = 1,
        kill_after: float | None = None,
    ) -> list[bool]:
        """Materialize in so many processes at once; returns which came to their end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = (store.repo_path, start.isoformat(), end.isoformat(), count, kill_after)
        print(*words, file=self._process.stdin, flush=True)
        return [status == "0" for status in self._process.stdout.readline().split()]

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def materializer() -> Iterator[Materializer]:
    process = Materializer()
    yield process
    process.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_killed_at_any_time_it_leaves_old_or_new_and_can_run_again(
    open_repo: Open, kind: str, materializer: Materializer
) -> None:
    # Feast rewrites a registry file in place, so that a kill may leave an empty one.
    sql = '{{registry_type: sql, path: "sqlite:///{repo}/data/registry.sqlite"}}'
    store = open_repo(kind, registry=sql)
    repo = Path(store.repo_path)
    keys = range(5000)
    view = user_view(repo)
    old, new = refresh(repo, 0, keys, seed=1), refresh(repo, 1, keys, seed=2)
    first, second = (T - HOUR, T + HOUR), (T - HOUR, T + timedelta(days=2))

    def served() -> np.ndarray:
        found = online_store.read_columns(
            store.config, store.get_feature_view("user_transra_v1"), {"user_id": keys}
        )
        assert found.present.all()
        vectors: np.ndarray = found.columns["embedding"].values
        return vectors

    online_store: Any = store.provider.online_store
    store.apply([USER, view])
    store.materialize(*first)
    assert materializer.run(store, *first) == [True]
    began = time.monotonic()
    assert materializer.run(store, *second) == [True]
    whole_run = time.monotonic() - began
    assert (served() == new).all()

    left = set()
    for turn in range(6):
        online_store.update(store.config, [view], [], [], [], partial=True)
        online_store.update(store.config, [], [view], [], [], partial=True)
        store.materialize(*first)
        materializer.run(store, *second, kill_after=whole_run * (turn + random.random()) / 6)
        left.add((served() == old).all() or ((served() == new).all() and "new"))
        _as_soon_as_unlocked(lambda: store.materialize(*second))
        assert (served() == new).all()
    assert left <= {True, "new"}, "old and new vectors mixed"
    assert True in left, "never killed before its end"


def _as_soon_as_unlocked(load: Callable[[], None]) -> None:
    """Load; a database on a busy machine may notice late that a load was killed."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return load()
        except LoadLockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_second_run_at_the_same_time_is_refused_or_waits(
    open_repo: Open, materializer: Materializer
) -> None:
    store = open_repo()
    rows = shop_rows()
    store.apply([SHOP, shop_view(shop_source(Path(store.repo_path), rows))])
    window = T, T + 60 * HOUR
    ended = materializer.run(store, *window, count=3)
    assert any(ended)
    assert_serves(store, newest(rows, *window))
