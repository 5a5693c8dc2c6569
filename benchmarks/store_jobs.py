"""The measured work of benchmarks/stores.py, each run in a process of its own.

A job prepares, then works inside `with meter:`, then says what came out, as a digest that must be
the same for all contestants. The processes are forked from one that has imported everything and
done nothing, so that no import is measured and no run sees another's memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from feast import FeatureStore
from feast.errors import FeastError
from store_worlds import Table, apply, entity_rows, files_of, last_day, open_store

from provender.plugin.online_store import ProvenderOnlineStore

#: What Feast imports when it is first used: imported before anything is measured.
for name in (
    "feast.infra.offline_stores.duckdb",
    "feast.infra.online_stores.sqlite",
    "feast.infra.compute_engines.local.compute",
    "provender.plugin.offline_store",
    "provender.plugin.compute_engine",
):
    importlib.import_module(name)
for name in (
    "feast.infra.online_stores.postgres_online_store.postgres",
    "feast.infra.online_stores.redis",
):
    with contextlib.suppress(ImportError, FeastError):  # Who lacks it is left out, by name.
        importlib.import_module(name)

MiB = 2**20
Vectors = npt.NDArray[np.float32]
Jobs = Mapping[str, Callable[..., dict[str, Any]]]


@dataclass
class Meter:
    """Wall and CPU seconds of the block, and by how much it raised the resident memory, in MiB.

    `touch` MiB are used and given back right before: a virtual machine gets memory from its host
    at the first touch, and slowly (2.2 s a GiB here, 0.17 s once it has it), which would be
    charged to whoever happens to come first.
    """

    connection: Connection
    touch: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> None:
        np.ones(int(self.touch * MiB) // 8)
        gc.collect()
        gc.freeze()  # As servers that fork do: else a collection copies every page of the imports.
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        self._baseline = _status("VmRSS")
        self._anonymous = _status("RssAnon")
        self.connection.send("begin")
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wall, cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        peak = _status("VmHWM")
        self.connection.send("end")
        self.figures = {
            "wall_s": wall,
            "cpu_s": cpu,
            "peak_mib": peak - self._baseline,
            "baseline_mib": self._baseline,
            "baseline_anonymous_mib": self._anonymous,
        }


def run(
    connection: Connection, job: str, arguments: dict[str, Any], touch: float, jobs: Jobs
) -> None:
    """Do a job and send its figures; what it prints is dropped."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    if not os.environ.get("BENCH_DEBUG"):
        os.dup2(silence, 2)
    meter = Meter(connection, touch)
    try:
        found = jobs[job](meter, **arguments)
    except Exception as error:  # Whatever failed is told in the table's place.
        connection.send({"error": f"{type(error).__name__}: {error}"[:500]})
        raise
    connection.send({**meter.figures, **found})


def point_in_time(
    meter: Meter,
    who: str,
    tables: Sequence[Table],
    rows: int,
    work: Path,
    form: str = "arrow",
    cold: bool = False,
    prefix: int | None = None,
) -> dict[str, Any]:
    """Join `rows` entity rows with each table's view; `form` is arrow or tensor.

    `prefix` asks for the first so many floats, which Feast's user cuts off afterwards.
    """
    with _home(work) as home:
        store = open_store(who, home)
        apply(store, tables, work)
        frame = entity_rows(tables, rows)
        features = [table.feature for table in tables]
        columns = [f"{table.view_name}__embedding" for table in tables]
        if cold:
            drop_cache([path for table in tables for path in files_of(table, work)])
        result: Any = None
        with meter:
            job: Any = store.get_historical_features(frame, features, full_feature_names=True)
            if prefix and who != "feast":
                job = job.at_dims({table.view_name: prefix for table in tables})
            if form == "arrow":
                result = job.to_arrow()
                if prefix and who == "feast":
                    result = _cut(result, columns, prefix)
            elif who == "feast":
                result = job.to_df()
                vectors = {name: torch.from_numpy(np.stack(result[name])) for name in columns}
            else:
                seen = 0
                for batch in job.tensors():
                    seen += len(batch.columns[columns[0]])
        digests = []
        for name in columns:
            if form == "arrow":
                digests.append(digest_of_table(result, name))
            elif who == "feast":
                digests.append(digest(result["row"].to_numpy(), vectors[name].numpy()))
            else:
                parts = (
                    digest(b.columns["row"].numpy(), b.columns[name].numpy()) for b in job.tensors()
                )
                digests.append(sum(parts) % 2**64)
        return {"digest": [str(d) for d in digests], "output_mib": _output(tables, rows, prefix)}


def stream(
    meter: Meter, tables: Sequence[Table], rows: int, work: Path, form: str
) -> dict[str, Any]:
    """Join a frame on disk into Parquet or tensor batches, larger than may be in memory."""
    with _home(work) as home:
        store = open_store("provender", home)
        apply(store, tables, work)
        path = work / "frame.parquet"
        seen = 0
        with meter:
            job: Any = store.get_historical_features(
                str(path), [table.feature for table in tables], full_feature_names=True
            )
            if form == "parquet":
                seen = job.to_parquet(home / "out.parquet")
            else:
                for batch in job.tensors():
                    seen += len(batch.columns["row"])
        if seen != rows:
            raise ValueError(f"{seen} rows came out of {rows}")
        return {"digest": None, "output_mib": _output(tables, rows)}


def lay_frame(meter: Meter, tables: Sequence[Table], rows: int, work: Path) -> dict[str, Any]:
    """Write the frame for `stream`, in another process, for this one's memory must not count."""
    with meter:
        pq.write_table(pa.Table.from_pandas(entity_rows(tables, rows)), work / "frame.parquet")
    return {"digest": None}


def materialize(meter: Meter, who: str, table: Table, database: str, work: Path) -> dict[str, Any]:
    """Bring the newest snapshot of a table into an empty online store."""
    with _home(work) as home:
        store = open_store(who, home, database)
        apply(store, [table], work)
        try:
            with meter:
                store.materialize(*last_day(table), feature_views=[table.view_name])
            keys = np.random.default_rng(0).integers(0, table.keys, 300)
            answer = _stock_answer(store, table, keys)
            found = digest(np.arange(len(keys)), _by_dict(answer))
        finally:
            store.teardown()
        return {"digest": [str(found)], "output_mib": table.keys * table.dim * 4 / MiB}


def fill(
    meter: Meter, who: str, database: str, tables: Sequence[Table], work: Path
) -> dict[str, Any]:
    """Make the online store that `requests` read, and leave it."""
    home = work / "online" / f"{who}_{database}"
    shutil.rmtree(home, ignore_errors=True)
    store = open_store(who, home, database)
    apply(store, tables, work)
    with meter:
        for table in tables:
            store.materialize(*last_day(table), feature_views=[table.view_name])
    file = home / "online.db"
    if file.exists():
        # As the end of `feast materialize` does, by closing; this process ends without.
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return {"digest": None}


def drain(meter: Meter, who: str, database: str, work: Path) -> dict[str, Any]:
    """Drop what `fill` made."""
    home = work / "online" / f"{who}_{database}"
    with meter:
        open_store(who, home, database).teardown()
    shutil.rmtree(home, ignore_errors=True)
    return {"digest": None}


def requests(
    meter: Meter,
    who: str,
    database: str,
    tables: Sequence[Table],
    how: str,
    count: int,
    candidates: int,
    work: Path,
) -> dict[str, Any]:
    """Time requests of one user and many pins, each from keys to what `how` names.

    `to_dict` and `values` end in float32 arrays, by Feast's public conversion or from its
    protobuf; `stock` is `get_online_features` alone; `tensor` is our own path.
    """
    user, pin = tables
    store = open_store(who, work / "online" / f"{who}_{database}", database)
    ask = _asker(store, how, tables)
    random = np.random.default_rng(3)
    pins = [random.choice(pin.keys, candidates, replace=False) for _ in range(count)]
    users = np.random.default_rng(4).integers(0, user.keys, count)
    for warm in range(min(20, count)):
        ask(users[warm : warm + 1], pins[warm])
    milliseconds = []
    with meter:
        for one, many in zip(users, pins, strict=True):
            started = time.perf_counter()
            ask(np.array([one]), many)
            milliseconds.append(1e3 * (time.perf_counter() - started))
    found = [
        digest(np.arange(len(part)), np.ascontiguousarray(part))
        for part in (_vectors(a, how) for a in ask(users[:1], pins[0]))
    ]
    size = (user.dim + candidates * pin.dim) * 4 / MiB
    return {"digest": [str(f) for f in found], "output_mib": size, "ms": milliseconds}


def floor(meter: Meter, mib: float, times: int = 1) -> dict[str, Any]:
    """Copy so many bytes once, into memory of its own."""
    source = np.ones(int(mib * MiB) // 4, np.float32)
    with meter:
        for _ in range(times):
            source.copy()
    return {"digest": None, "output_mib": mib, "copies": times}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    job.__name__: job
    for job in (point_in_time, lay_frame, stream, materialize, fill, drain, requests, floor)
}


def digest(rows: npt.NDArray[np.int64], vectors: Vectors) -> int:
    """Return a number that any other float or row changes, and another order of rows does not."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    odd = np.random.default_rng(1).integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * 2 + 1
    total = 0
    for start in range(0, len(rows), 16_384):
        words = vectors[start : start + 16_384].view(np.uint32).astype(np.uint64)
        weights = rows[start : start + 16_384].astype(np.uint64) * np.uint64(2) + np.uint64(1)
        total += int(((words * odd).sum(1, dtype=np.uint64) * weights).sum(dtype=np.uint64))
    return total % 2**64


def digest_of_table(table: pa.Table, name: str) -> int:
    total = 0
    for batch in table.select(["row", name]).to_batches():
        if batch.column(1).null_count:
            raise ValueError(f"{batch.column(1).null_count} rows without {name}")
        rows = batch.column(0).to_numpy()
        flat = batch.column(1).flatten().to_numpy()
        total += digest(rows, flat.reshape(len(rows), -1))
    return total % 2**64


def drop_cache(paths: Sequence[Path]) -> None:
    """Have the system forget the files' pages, so that the next reader waits for the disk."""
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _asker(
    store: FeatureStore, how: str, tables: Sequence[Table]
) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], list[Any]]:
    user, pin = tables
    if how == "tensor":
        online = ProvenderOnlineStore()
        views = [store.get_feature_view(table.view_name) for table in tables]
        return lambda one, many: [
            torch.from_numpy(
                online.read_columns(store.config, view, {table.join_key: keys}, ["embedding"])
                .columns["embedding"]
                .values
            )
            for view, table, keys in zip(views, tables, (one, many), strict=True)
        ]
    convert = {"to_dict": _by_dict, "values": _by_value, "stock": lambda response: response}[how]
    return lambda one, many: [
        convert(_stock_answer(store, user, one)),
        convert(_stock_answer(store, pin, many)),
    ]


def _stock_answer(store: FeatureStore, table: Table, keys: npt.NDArray[np.int64]) -> Any:
    return store.get_online_features([table.feature], {table.join_key: keys.tolist()})


def _by_dict(response: Any) -> Vectors:
    return np.array(response.to_dict()["embedding"], np.float32)


def _by_value(response: Any) -> Vectors:
    names = list(response.proto.metadata.feature_names.val)
    values = response.proto.results[names.index("embedding")].values
    return np.array([value.float_list_val.val for value in values], np.float32)


def _vectors(answer: Any, how: str) -> Vectors:
    if how == "stock":
        return _by_dict(answer)
    return answer.numpy() if how == "tensor" else answer


@contextlib.contextmanager
def _home(work: Path) -> Any:
    home = work / f"run{os.getpid()}_{time.monotonic_ns() % 10**9}"
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _cut(table: pa.Table, columns: Sequence[str], prefix: int) -> pa.Table:
    for name in columns:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pc.list_slice(table[name], 0, prefix))
    return table


def _output(tables: Sequence[Table], rows: int, prefix: int | None = None) -> float:
    return rows * sum(prefix or table.dim for table in tables) * 4 / MiB


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)
