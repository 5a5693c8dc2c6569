from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provender.plugin import hot_snapshot
from provender.plugin.errors import FetchError, SnapshotError
from provender.plugin.hot_files import checksums
from provender.plugin.hot_snapshot import (
    HotChunk,
    HotSnapshot,
    open_hot,
    publish,
    withdraw,
    withdrawn,
)


def chunk(keys: Sequence[Any], dim: int = 4, value: float = 0.0) -> HotChunk:
    """Rows whose every number tells their key and `value`."""
    text = len(keys) > 0 and isinstance(keys[0], str)
    numbers = np.array([len(key) for key in keys] if text else keys, dtype=np.int64)
    vectors = (numbers[:, None] + value + np.arange(dim) / 8).astype(np.float32)
    return HotChunk(keys if text else numbers, np.arange(len(keys)) + int(value), vectors)


def served(folder: Path) -> HotSnapshot:
    snapshot = open_hot(folder)
    assert snapshot is not None
    return snapshot


def generations(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*generation-*"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=st.booleans(), dim=st.integers(1, 9))
def test_equals_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, text: bool, dim: int
) -> None:
    folder = tmp_path_factory.mktemp("hot")
    key: st.SearchStrategy[Any] = st.integers(-(2**63), 2**63 - 1)
    if text:
        key = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    stored = data.draw(st.lists(key, unique=True, min_size=1, max_size=20))
    stored.sort(key=lambda each: each.encode() if text else each)
    bits = np.random.default_rng(len(stored)).integers(0, 2**32, (len(stored), dim), np.uint32)
    vectors = bits.view(np.float32)  # Any bits at all: NaN and Inf are not this file's to judge.
    times = np.arange(len(stored), dtype=np.int64) - 3
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stored)), max_size=3)))
    chunks = [
        HotChunk(stored[a:b] if text else np.array(stored[a:b]), times[a:b], vectors[a:b])
        for a, b in zip([0, *cuts], [*cuts, len(stored)], strict=True)
    ]
    assert publish(folder, chunks, prefixes=range(1, dim)) is not None

    wanted = data.draw(st.lists(st.sampled_from(stored) | key, max_size=30))
    width = data.draw(st.integers(1, dim))
    found = served(folder).read(wanted, None if width == dim else width)
    row = {each: i for i, each in enumerate(stored)}
    assert found.present.tolist() == [each in row for each in wanted]
    assert found.vectors.shape == (len(wanted), width)
    assert found.vectors.flags.c_contiguous
    for i, each in enumerate(wanted):
        expected = bits[row[each], :width].tolist() if each in row else [0] * width
        assert found.vectors[i].view(np.uint32).tolist() == expected
        assert found.event_us[i] == (times[row[each]] if each in row else 0)


def test_nothing_is_served_before_and_without_rows(tmp_path: Path) -> None:
    folder = tmp_path / "hot" / "view"
    assert open_hot(folder) is None
    assert publish(folder, []) is None
    assert publish(folder, [chunk([])]) is None
    assert open_hot(folder) is None
    publish(folder, [chunk([1])])
    assert publish(folder, []) is None
    assert open_hot(folder) is None


def test_a_generation_replaces_the_one_before(tmp_path: Path) -> None:
    publish(tmp_path, [chunk([1, 2])])
    old = served(tmp_path)
    assert served(tmp_path) is old
    publish(tmp_path, [chunk([2, 3], dim=2, value=100)])
    new = served(tmp_path)
    assert new.read([1, 2]).vectors.tolist() == [[0, 0], [102, 102.125]]
    # Who still has the former one mapped reads on.
    assert old.read([1, 2]).vectors[:, 0].tolist() == [1, 2]
    assert len(generations(tmp_path)) == 1


@pytest.mark.parametrize("keys", [["1"], [1.0], [True], [None], [2**63], np.array([1], np.uint64)])
def test_keys_that_are_not_integers_are_refused(tmp_path: Path, keys: Any) -> None:
    publish(tmp_path, [chunk([1])])
    with pytest.raises(FetchError, match="expected int64 keys"):
        served(tmp_path).read(keys)


@pytest.mark.parametrize("keys", [[1], ["a", None], ["\ud800"], np.array([1]), pa.array([b"a"])])
def test_keys_that_are_not_strings_are_refused(tmp_path: Path, keys: Any) -> None:
    publish(tmp_path, [chunk(["a"])])
    with pytest.raises(FetchError, match="expected string keys"):
        served(tmp_path).read(keys)


@pytest.mark.parametrize(
    "keys", [["a", "b"], np.array(["a", "b"]), pa.array(["a", "b"]), np.array(["a", "b"], object)]
)
def test_strings_may_come_in_any_form(tmp_path: Path, keys: Any) -> None:
    publish(tmp_path, [HotChunk(keys, np.array([1, 2]), np.eye(2, dtype=np.float32))])
    assert served(tmp_path).read(keys).vectors.tolist() == [[1, 0], [0, 1]]


def test_a_slice_of_an_arrow_array_is_published_as_it_is(tmp_path: Path) -> None:
    keys = pa.array(["", "ä", "日本", "日本語"], pa.large_string())[1:3]
    publish(tmp_path, [chunk([""]), HotChunk(keys, np.array([1, 2]), np.ones((2, 4), np.float32))])
    found = served(tmp_path).read(["日本", "", "日本語", "ä"])
    assert found.present.tolist() == [True, True, False, True]


@pytest.mark.parametrize("dim", [0, 5, -1])
def test_a_dim_beyond_the_vectors_is_refused(tmp_path: Path, dim: int) -> None:
    publish(tmp_path, [chunk([1])])
    with pytest.raises(FetchError, match="expected 1 to 4"):
        served(tmp_path).read([1], dim)


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk([2, 1])],
        [chunk([1, 1])],
        [chunk([1]), chunk([1])],
        [chunk(["b"]), chunk(["a"])],
        [chunk([1]), chunk([2], dim=3)],
        [HotChunk(np.array([1]), np.array([1, 2]), np.ones((1, 2), np.float32))],
    ],
)
def test_chunks_that_do_not_fit_are_refused(tmp_path: Path, chunks: list[HotChunk]) -> None:
    publish(tmp_path, [chunk([1])])
    with pytest.raises(SnapshotError):
        publish(tmp_path, chunks)
    # Whatever was served may be older than the table by now.
    assert open_hot(tmp_path) is None
    assert generations(tmp_path) == []


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", ["keys", "offsets", "times", "checks", "vectors", "header.json"])
@pytest.mark.parametrize("damage", ["remove", "cut", "empty", "grow"])
def test_a_damaged_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, damage: str, text: bool
) -> None:
    published = publish(tmp_path, [chunk(["a", "bb"] if text else [1, 2])])
    assert published is not None
    path = published.path / name
    if not path.exists():
        return  # Integers need no offsets.
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes({"cut": content[:-1], "empty": b"", "grow": content + b"x"}[damage])
    with pytest.raises(SnapshotError, match=f"{name}: found"):
        open_hot(tmp_path)
    withdraw(tmp_path)
    assert open_hot(tmp_path) is None


@pytest.mark.parametrize("name", ["keys", "offsets", "times", "checks"])
def test_a_flipped_bit_is_found_when_a_snapshot_is_opened(tmp_path: Path, name: str) -> None:
    published = publish(tmp_path, [chunk(["a", "bb", "ccc"])])
    assert published is not None
    flip(published.path / name, -1)
    with pytest.raises(SnapshotError, match=f"{name}: found other bytes than were written"):
        open_hot(tmp_path)


def test_a_flipped_bit_in_a_vector_is_found_when_it_is_read(tmp_path: Path) -> None:
    published = publish(tmp_path, [chunk([7, 8, 9])], prefixes=[2])
    assert published is not None
    flip(published.path / "vectors", 16 + 3)  # In row 1, in the first of its 4 floats.
    for dim in (None, 1, 2, 3):
        with pytest.raises(SnapshotError, match="other bytes in the vector of key 8"):
            published.read([9, 8], dim)
        # Row 0 and a missing key, which stands before it, are well.
        assert published.read([7, 6, 9], dim).present.tolist() == [True, False, True]


def test_a_header_of_something_else_is_refused(tmp_path: Path) -> None:
    published = publish(tmp_path, [chunk([1, 2])])
    assert published is not None
    path = published.path / "header.json"
    header = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [{"rows": 3}, {"dims": [5]}, {"dims": []}, {"format": 2}]
    for change in [*changes, {"keys": "string"}, {"files": {}}]:
        path.write_text(json.dumps(header | change))
        with pytest.raises(SnapshotError, match=r"header\.json"):
            open_hot(tmp_path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6), st.data())
def test_a_checksum_sees_every_change_of_one_float_and_of_signs(
    bits: list[int], data: st.DataObject
) -> None:
    other = list(bits)
    at = data.draw(st.integers(0, len(bits) - 1))
    other[at] = data.draw(st.integers(0, 2**32 - 1))
    signs = [each ^ (1 << 31) for each in bits]
    rows = np.array([bits, other, signs], dtype=np.uint32).view(np.float32)
    sums = checksums(rows)
    assert (sums[0] == sums[1]) == (bits == other)
    assert sums[0] != sums[2]


def test_a_commit_during_a_scan_discards_what_was_scanned(tmp_path: Path) -> None:
    publish(tmp_path, [chunk([1])])

    def scan() -> Iterator[HotChunk]:
        yield chunk([1])
        with withdrawn(tmp_path):
            assert open_hot(tmp_path) is None
        yield chunk([2])

    assert publish(tmp_path, scan()) is None
    assert open_hot(tmp_path) is None
    assert generations(tmp_path) == []
    assert publish(tmp_path, [chunk([1])]) is not None


def test_publishing_waits_for_a_commit_on_its_way(tmp_path: Path) -> None:
    """Its epoch is drawn, its rows not there yet: a scan that began now would miss them."""
    table = [1.0]

    def scan() -> Iterator[HotChunk]:
        yield chunk([1], value=table[-1])

    with withdrawn(tmp_path):
        publisher = threading.Thread(target=publish, args=(tmp_path, scan()))
        publisher.start()
        publisher.join(0.2)
        assert publisher.is_alive()
        table.append(5.0)
    publisher.join()
    assert served(tmp_path).read([1]).vectors[0, 0] == 6.0


def test_publishing_gives_up_among_endless_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_snapshot, "_PATIENCE_SECONDS", 0.05)
    publish(tmp_path, [chunk([1])])
    with withdrawn(tmp_path):
        assert publish(tmp_path, [chunk([1])]) is None
    assert open_hot(tmp_path) is None


def test_what_readers_see_is_never_older_than_the_table(tmp_path: Path) -> None:
    """Pushes and loads race; a table of one number, which only grows, is the oracle."""
    table, seen, stop = [0], [0], threading.Event()

    def scan() -> Iterator[HotChunk]:
        yield chunk([1], value=table[0])

    def push() -> None:
        for _ in range(300):
            with withdrawn(tmp_path):
                table[0] += 1
            stop.wait(0.0005)
        stop.set()

    def load() -> None:
        while not stop.is_set():
            publish(tmp_path, scan())

    # Daemons, for a failure below must not wait for them.
    threads = [threading.Thread(target=work, daemon=True) for work in (push, load, load)]
    for thread in threads:
        thread.start()
    while not stop.is_set():
        before = table[0]
        snapshot = open_hot(tmp_path)
        if snapshot is not None:
            seen[0] += 1
            # A push draws its epoch before its commit, so what is still served holds it.
            assert snapshot.read([1]).vectors[0, 0] >= 1 + before
    for thread in threads:
        thread.join()
    publish(tmp_path, scan())
    assert served(tmp_path).read([1]).vectors[0, 0] == 1 + table[0]


def _read_for_a_while(folder: Path, turns: int, wrong: Any) -> None:
    keys = np.arange(2000)
    for _ in range(turns):
        snapshot = open_hot(folder)
        if snapshot is None:
            continue
        vectors = snapshot.read(keys).vectors
        expected = vectors[0, 0] + keys
        if not (vectors[:, 0] == expected).all():
            wrong.value += 1


def test_forked_readers_see_whole_generations_only(tmp_path: Path) -> None:
    publish(tmp_path, [chunk(range(2000), value=1000)])
    served(tmp_path)  # Opened before the fork, as in a server that preloads.
    context = multiprocessing.get_context("fork")
    wrong = context.Value("i", 0)
    readers = [
        context.Process(target=_read_for_a_while, args=(tmp_path, 300, wrong)) for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    for turn in range(40):
        publish(tmp_path, [chunk(range(2000), value=1000 * turn)])
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert wrong.value == 0


def test_a_killed_writer_leaves_nothing_that_is_served(tmp_path: Path) -> None:
    publish(tmp_path, [chunk([1])])
    script = f"""
import numpy as np, sys, time
from pathlib import Path
from provender.plugin.hot_snapshot import HotChunk, publish
def chunks():
    yield HotChunk(np.arange(9), np.arange(9), np.ones((9, 4), np.float32))
    print("half", flush=True)
    time.sleep(60)
publish(Path({str(tmp_path)!r}), chunks())
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    assert len(generations(tmp_path)) == 2
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert served(tmp_path).read([1]).present.tolist() == [True]
    publish(tmp_path, [chunk([2])])
    assert len(generations(tmp_path)) == 1
    assert served(tmp_path).read([1, 2]).present.tolist() == [False, True]


def test_a_scan_that_fails_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path, [chunk([1])])

    def scan() -> Iterator[HotChunk]:
        yield chunk([1])
        raise ConnectionError("the database went away")

    with pytest.raises(ConnectionError):
        publish(tmp_path, scan())
    assert open_hot(tmp_path) is None
    assert generations(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for it: the write fails after some bytes."""
    script = f"""
import errno, numpy as np, resource, signal
from pathlib import Path
from provender.plugin.hot_snapshot import HotChunk, open_hot, publish
folder = Path({str(tmp_path)!r})
rows = lambda n: [HotChunk(np.arange(n), np.arange(n), np.ones((n, 64), np.float32))]
publish(folder, rows(10))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    publish(folder, rows(1000))
except OSError as error:
    assert error.errno == errno.EFBIG, error
    assert open_hot(folder) is None
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
    assert generations(tmp_path) == []
