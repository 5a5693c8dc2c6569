"""Checkpoints are whole or passed over, whatever becomes of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError
from provender.producers.checkpoint import (
    Checkpoint,
    Position,
    load_checkpoint,
    save_checkpoint,
)


def _checkpoint(step: int) -> Checkpoint:
    tensors = {"entity": torch.full((3, 2), float(step)), "steps": torch.tensor([step])}
    return Checkpoint(Position(1, 2, step), tensors)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new", "run", _checkpoint(7))
    loaded = load_checkpoint(tmp_path / "new", "run")
    assert loaded is not None
    assert loaded.position == Position(1, 2, 7)
    assert {name: t.tolist() for name, t in loaded.tensors.items()} == {
        "entity": [[7.0, 7.0]] * 3,
        "steps": [7],
    }


def test_no_folder_and_other_runs_are_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", "run") is None
    save_checkpoint(tmp_path, "other run", _checkpoint(1))
    assert load_checkpoint(tmp_path, "run") is None


def test_the_newest_two_stay_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / ".step-0000000001.safetensors.99").write_bytes(b"half")
    (tmp_path / "step-0000000002.safetensors").write_bytes(b"no json")
    for step in (3, 4, 5):
        save_checkpoint(tmp_path, "run", _checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-000000000{step}.{kind}" for step in (4, 5) for kind in ("json", "safetensors")
    ]


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "missing"])
def test_a_damaged_checkpoint_gives_way(tmp_path: Path, kind: str, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, "run", _checkpoint(step))
    path = tmp_path / f"step-0000000002.{kind}"
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
    else:
        changed = bytes([content[middle] ^ 0xFF])
        path.write_bytes(
            {
                "truncated": content[:middle],
                "empty": b"",
                "changed": content[:middle] + changed + content[middle + 1 :],
            }[damage]
        )
    loaded = load_checkpoint(tmp_path, "run")
    assert loaded is not None
    assert loaded.position.step == 1


def test_all_damaged_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "run", _checkpoint(1))
    path.with_suffix(".safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"SHA-256.*Delete the folder to train from"):
        load_checkpoint(tmp_path, "run")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_goes_unseen(tmp_path: Path, at: int, value: int) -> None:
    path = save_checkpoint(tmp_path, "run", _checkpoint(1)).with_suffix(".safetensors")
    content = bytearray(path.read_bytes())
    at %= len(content)
    if content[at] == value:
        value ^= 1
    content[at] = value
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path, "run")


def test_json_of_another_shape_is_damage(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "run", _checkpoint(1))
    for content in ("[]", "null", json.dumps({"format": 1, "fingerprint": "run"})):
        path.write_text(content)
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path, "run")
