from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from provender.plugin.ranker_stamp import STAMP, RankerStamp, TrainedOn, read_stamp, read_stamps
from tests.plugin.garbage_world import write_ranker
from tests.plugin.test_garbage import snapshot, spec

TRAINED = TrainedOn(spec=spec(1), runs=(snapshot(spec(1), 0).manifest.record,))


def test_it_is_read_back_from_a_checkpoint_of_safetensors(tmp_path: Path) -> None:
    stamp = write_ranker(tmp_path / "hand.safetensors", [TRAINED])
    path = tmp_path / "a.safetensors"
    tensors = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_file(tensors, path, metadata={"other": "x", STAMP: stamp.model_dump_json()})
    assert read_stamp(path) == stamp
    assert (load_file(path)["weights"] == tensors["weights"]).all()
    assert read_stamp(tmp_path / "hand.safetensors") == stamp
    assert stamp.views[0].runs[0].as_of.utcoffset() is not None


def test_of_a_folder_those_with_a_stamp(tmp_path: Path) -> None:
    stamps = {
        path: write_ranker(path, [TRAINED])
        for path in (tmp_path / "b.safetensors", tmp_path / "deep" / "a.safetensors")
    }
    save_file({"w": np.zeros(1)}, tmp_path / "plain.safetensors")
    (tmp_path / "notes.txt").write_bytes((tmp_path / "b.safetensors").read_bytes())
    assert read_stamps(tmp_path) == stamps
    assert list(read_stamps(tmp_path)) == sorted(stamps)
    assert read_stamps(tmp_path / "nowhere") == {}


def _with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x07",
        bytes(8),
        b"\xff" * 8 + b"{}",  # Longer than any header.
        _with_header(b"{}"),
        _with_header(b"[]"),
        _with_header(b"no JSON"),
        _with_header(b"\xff\xfe"),
        _with_header(json.dumps({"__metadata__": None}).encode()),
        _with_header(json.dumps({"__metadata__": {STAMP: "{}"}}).encode()),
        _with_header(json.dumps({"__metadata__": {STAMP: 7}}).encode()),
    ],
)
def test_other_files_have_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert read_stamp(path) is None
    assert read_stamps(tmp_path) == {}


def test_a_header_that_is_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_ranker(path, [TRAINED])
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert read_stamp(path) is None


def test_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    stamp = write_ranker(tmp_path / "a.safetensors", [TRAINED])
    with pytest.raises(ValidationError):
        RankerStamp.model_validate({**stamp.model_dump(), "seed": 7})
