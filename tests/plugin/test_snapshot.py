from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from provender.plugin.errors import SnapshotError
from provender.plugin.manifest import MANIFEST_NAME, Manifest, RunInfo
from provender.plugin.snapshot import (
    ROW_GROUP,
    content_checksum,
    find_snapshot,
    find_snapshots,
    write_snapshot,
)
from provender.plugin.spec import EmbeddingSpec

T = datetime(2026, 3, 10, tzinfo=UTC)
RUN = RunInfo("run-1", "transra", "c0ffee", T - timedelta(days=9), T, {"mrr": 0.25}, "run-0")


def spec(dim: int = 4) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name="user_transra",
        version=1,
        entity="user",
        join_key="user_id",
        dim=dim,
        space="transra_v1",
        producer="transra",
        ttl=timedelta(days=3),
    )


def some(n: int = 5, dim: int = 4, seed: int = 0) -> tuple[pa.Array, npt.NDArray[np.float32]]:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return pa.array(range(0, 2 * n, 2), pa.int64()), vectors


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    vectors=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 12), st.integers(1, 9)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    strings=st.booleans(),
)
def test_what_is_written_is_read_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, vectors: npt.NDArray[np.float32], strings: bool
) -> None:
    keys = pa.array(sorted(f"ключ-{i:03d}" for i in range(len(vectors))), pa.string())
    keys = keys if strings else pa.array(range(len(vectors)), pa.int64())
    root = tmp_path_factory.mktemp("snapshots")
    write_snapshot(root, spec(vectors.shape[1]), T, keys, vectors, RUN)
    found = find_snapshot(root, "user_transra_v1", T)
    assert found is not None
    found.verify()
    read_keys, read = found.read()
    assert read_keys == keys
    assert read.tobytes() == vectors.tobytes()


def test_several_row_groups_and_any_engine_read_the_same(tmp_path: Path) -> None:
    keys, vectors = some(ROW_GROUP + 7, 3)
    snapshot = write_snapshot(tmp_path, spec(3), T, keys, vectors, RUN)
    assert (snapshot.read()[1] == vectors).all()
    view = tmp_path / "user_transra_v1"
    rows = duckdb.execute(f"from '{view}/*/*.parquet' order by user_id").fetchnumpy()
    assert (np.stack(list(rows["embedding"])) == vectors).all()
    table = ds.dataset(view, format="parquet").to_table()
    assert table.num_rows == len(keys)
    assert set(table["event_timestamp"].to_pylist()) == {T}


@pytest.mark.parametrize("strings", [False, True])
def test_a_checksum_in_blocks_is_that_of_the_whole(strings: bool) -> None:
    numbers, vectors = some(2 * ROW_GROUP + 7, 3)
    keys = numbers
    digest = hashlib.sha256()
    if strings:
        words = [f"ключ-{key:06d}" for key in numbers.to_pylist()]
        keys = pa.array(words)
        digest.update(np.array([len(word.encode()) for word in words], "<i8").tobytes())
        digest.update("".join(words).encode())
    else:
        digest.update(np.array(numbers, "<i8").tobytes())
    digest.update(vectors.tobytes())
    assert content_checksum(keys, vectors) == digest.hexdigest()


def test_what_is_not_finite_is_named_in_whatever_block_it_is(tmp_path: Path) -> None:
    keys, vectors = some(2 * ROW_GROUP, 3)
    vectors[ROW_GROUP + 5, 1] = np.nan
    with pytest.raises(SnapshotError, match=f"in the vector of {2 * (ROW_GROUP + 5)};"):
        write_snapshot(tmp_path, spec(3), T, keys, vectors, RUN)


def test_writing_copies_no_more_than_a_block_of_the_vectors(tmp_path: Path) -> None:
    """NumPy's arrays are what tracemalloc sees; Arrow gets them row group by row group."""
    keys, vectors = some(16 * ROW_GROUP, 16)
    tracemalloc.start()
    try:
        write_snapshot(tmp_path, spec(16), T, keys, vectors, RUN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 8


def test_the_manifest_tells_the_whole_story(tmp_path: Path) -> None:
    keys, vectors = some()
    manifest = write_snapshot(tmp_path, spec(), T, keys, vectors, RUN).manifest
    told = (manifest.run_id, manifest.config_hash, manifest.parent, manifest.metrics)
    assert told == ("run-1", "c0ffee", "run-0", {"mrr": 0.25})
    assert (manifest.view, manifest.dim, manifest.rows) == ("user_transra_v1", 4, 5)
    assert (manifest.as_of, manifest.window_start) == (T, T - timedelta(days=9))
    assert manifest.checksum == content_checksum(keys, vectors)


def test_snapshots_are_found_in_order_of_their_time(tmp_path: Path) -> None:
    keys, vectors = some()
    for days in (2, 0, 1):
        write_snapshot(tmp_path, spec(), T + timedelta(days=days), keys, vectors, RUN)
    found = find_snapshots(tmp_path, "user_transra_v1")
    assert [each.manifest.as_of.day for each in found] == [10, 11, 12]
    assert find_snapshots(tmp_path, "pin_transra_v1") == []


def test_the_same_again_is_no_change_and_another_is_refused(tmp_path: Path) -> None:
    keys, vectors = some()
    first = write_snapshot(tmp_path, spec(), T, keys, vectors, RUN)
    assert write_snapshot(tmp_path, spec(), T, keys, vectors, RUN) == first
    with pytest.raises(SnapshotError, match="a snapshot never changes"):
        write_snapshot(tmp_path, spec(), T, keys, vectors + 1, RUN)
    assert (first.read()[1] == vectors).all()
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "vectors", "message"),
    [
        (pa.array([1, 2]), np.ones((2, 3), np.float32), r"shape \(2, 3\)"),
        (pa.array([1, 2]), np.ones((3, 4), np.float32), r"shape \(3, 4\)"),
        (pa.array([1, 2]), np.ones((2, 4)), "float64"),
        (pa.array([1, 2]), np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]], np.float32), "vector of 2"),
        (pa.array([1, 2]), np.full((2, 4), np.inf, np.float32), "NaN or Inf in the vector of 1"),
        (pa.array([2, 1]), np.ones((2, 4), np.float32), "out of order"),
        (pa.array([1, 1]), np.ones((2, 4), np.float32), "repeated"),
        (pa.array([1, None]), np.ones((2, 4), np.float32), "1 null keys"),
        (pa.array([1.0, 2.0]), np.ones((2, 4), np.float32), "keys of type double"),
    ],
)
def test_a_bad_refresh_leaves_nothing(
    tmp_path: Path, keys: pa.Array, vectors: npt.NDArray[np.float32], message: str
) -> None:
    with pytest.raises(SnapshotError, match=message):
        write_snapshot(tmp_path, spec(), T, keys, vectors, RUN)
    assert list(tmp_path.iterdir()) == []


def test_other_bytes_are_noticed(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, spec(), T, *some(), RUN)
    part = snapshot.path / "part-0.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(SnapshotError, match=r"other bytes in part-0\.parquet"):
        snapshot.verify()
    part.write_bytes(bytes(data[:40]))
    with pytest.raises(SnapshotError):
        snapshot.read()
    part.unlink()
    with pytest.raises(SnapshotError, match=r"no file part-0\.parquet"):
        snapshot.verify()


def test_without_its_manifest_a_snapshot_does_not_exist(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, spec(), T, *some(), RUN)
    (snapshot.path / MANIFEST_NAME).unlink()
    assert find_snapshot(tmp_path, "user_transra_v1", T) is None
    assert find_snapshots(tmp_path, "user_transra_v1") == []


@pytest.mark.parametrize("change", ["{", '{"format": 2}', "names"])
def test_a_broken_manifest_is_one_line(tmp_path: Path, change: str) -> None:
    path = write_snapshot(tmp_path, spec(), T, *some(), RUN).path / MANIFEST_NAME
    if change == "names":  # a file outside the snapshot's own folder
        told = json.loads(path.read_text())
        told["files"][0]["name"] = "../../secret.parquet"
        change = json.dumps(told)
    path.write_text(change)
    with pytest.raises(SnapshotError, match="run the producer again") as refusal:
        Manifest.read(path.parent)
    assert "\n" not in str(refusal.value)


WRITER = """
import sys, numpy as np, pyarrow as pa
from pathlib import Path
sys.path.insert(0, {here!r})
from test_snapshot import RUN, T, spec
from datetime import timedelta
from provender.plugin.snapshot import write_snapshot
print("ready", flush=True)
for day in range(1000):
    keys, vectors = pa.array(range(60_000)), np.full((60_000, 8), day, np.float32)
    write_snapshot(Path({root!r}), spec(8), T + timedelta(days=day), keys, vectors, RUN)
"""


def test_killed_at_random_points_only_whole_snapshots_stand(tmp_path: Path) -> None:
    code = WRITER.format(here=str(Path(__file__).parent), root=str(tmp_path))
    pauses = np.random.default_rng(5).uniform(0.05, 0.4, size=4)
    killed = 0
    for pause in pauses:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(pause)
            os.kill(writer.pid, signal.SIGKILL)
            killed += writer.wait() == -signal.SIGKILL
        for snapshot in find_snapshots(tmp_path, "user_transra_v1"):
            snapshot.verify()
            day = (snapshot.manifest.as_of - T).days
            assert (snapshot.read()[1] == day).all()
    assert killed == len(pauses)
    assert len(find_snapshots(tmp_path, "user_transra_v1")) > 0
    folders = list((tmp_path / "user_transra_v1").iterdir())
    assert all((path / MANIFEST_NAME).is_file() for path in folders)
    write_snapshot(tmp_path, spec(), T - timedelta(days=1), *some(), RUN)
    assert list((tmp_path / ".staging").iterdir()) == []
