from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from provender.plugin.files import STAGING, remove_empty, remove_folder, stale, sweep, whole_folder


def dead() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def staged(root: Path, pid: int, name: str = "view-20260310T000000Z") -> Path:
    folder = root / STAGING / f"{name}.{pid}"
    folder.mkdir(parents=True)
    (folder / "part-0.parquet").write_bytes(b"half")
    return folder


def test_what_the_dead_left_is_swept_and_the_living_keep_their_own(tmp_path: Path) -> None:
    left, own = staged(tmp_path, dead()), staged(tmp_path, os.getpid())
    assert stale(tmp_path) == [left]
    sweep(tmp_path)
    assert (left.exists(), own.exists()) == (False, True)
    assert stale(tmp_path) == []
    assert stale(tmp_path / "nowhere") == []


def test_a_removed_folder_is_gone_and_so_is_what_the_dead_left(tmp_path: Path) -> None:
    left = staged(tmp_path, dead())
    for name in ("one", "two"):
        (tmp_path / "view" / name).mkdir(parents=True)
        (tmp_path / "view" / name / "file").write_text(name)
    remove_folder(tmp_path, tmp_path / "view" / "one")
    assert [path.name for path in (tmp_path / "view").iterdir()] == ["two"]
    assert list((tmp_path / STAGING).iterdir()) == []
    assert not left.exists()
    remove_folder(tmp_path, tmp_path / "view" / "one")  # It is gone already.
    assert (tmp_path / "view" / "two" / "file").read_text() == "two"


def test_who_looks_on_sees_all_of_a_folder_or_nothing(tmp_path: Path) -> None:
    place = tmp_path / "view" / "one"
    names = {f"file-{number}" for number in range(50)}
    seen: set[frozenset[str]] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            with suppress(FileNotFoundError):
                folder = place.stat().st_ino
                found = frozenset(path.name for path in place.iterdir())
                if place.stat().st_ino == folder:  # It stood all the while.
                    seen.add(found)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(100):
        with whole_folder(tmp_path, place) as folder:
            for name in names:
                (folder / name).touch()
        remove_folder(tmp_path, place)
    ended.set()
    reader.join()
    assert seen == {frozenset(names)}


@pytest.mark.parametrize("content", [None, "file"])
def test_only_an_empty_folder_is_removed_as_empty(tmp_path: Path, content: str | None) -> None:
    place = tmp_path / "view"
    place.mkdir()
    if content:
        (place / content).touch()
    remove_empty(place)
    assert place.exists() == bool(content)
    remove_empty(tmp_path / "nowhere")
