"""Checkpoints of a training run: safetensors with a JSON beside it, written whole or not at all.

`step-<n>.safetensors` is written first, `step-<n>.json` last and by rename: without its JSON a
checkpoint does not exist. The JSON holds the SHA-256 of the tensors and the fingerprint of the run
(configuration, graph, parent), so that nobody resumes from something else. The newest two stay,
and a damaged one gives way to the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from provender.plugin.console import log
from provender.plugin.errors import CheckpointError
from provender.plugin.files import sha256_of, whole_file, write_whole

_FORMAT = 1
_KEPT = 2


@dataclass(frozen=True)
class Position:
    """Where a run stands: the next chunk to train, and the chunks trained in all."""

    epoch: int
    chunk: int
    step: int


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A position and every tensor that training needs to go on from it."""

    position: Position
    tensors: Mapping[str, Tensor]


def save_checkpoint(folder: Path, fingerprint: str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, drop all but the newest two, and return the path of its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"step-{checkpoint.position.step:010d}"
    with whole_file(folder / f"{stem}.safetensors") as staged:
        save_file(
            {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}, staged
        )
        digest = sha256_of(staged)
    about = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "sha256": digest,
        "position": asdict(checkpoint.position),
    }
    write_whole(folder / f"{stem}.json", json.dumps(about, indent=1).encode())
    _sweep(folder)
    return folder / f"{stem}.json"


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The newest whole checkpoint of this run, or None where the run has none.

    Checkpoints of another run are passed over. Damaged ones are too, with a warning, as long as an
    older one is whole; CheckpointError if there is none.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            checkpoint = _read(path, fingerprint)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if checkpoint is not None:
            for line in damaged:
                log.print(f"Passing over a damaged checkpoint. {line}", style="yellow")
            return checkpoint
    if damaged:
        raise CheckpointError(
            str(folder),
            found=f"no whole checkpoint ({damaged[0].rstrip('.')})",
            expected="at least one",
            remedy="Delete the folder to train from the beginning.",
        )
    return None


def _read(path: Path, fingerprint: str) -> Checkpoint | None:
    """None if it is another run's; CheckpointError if it is damaged."""
    try:
        about = json.loads(path.read_bytes())
        if about["format"] != _FORMAT or about["fingerprint"] != fingerprint:
            return None
        tensors = path.with_suffix(".safetensors")
        position = Position(**about["position"])
        if sha256_of(tensors) != about["sha256"]:
            raise ValueError("the tensors' SHA-256 is another")
        return Checkpoint(position, load_file(tensors))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(path),
            found=f"{type(error).__name__}: {error}",
            expected="a whole checkpoint",
            remedy="Delete it.",
        ) from None


def _sweep(folder: Path) -> None:
    """Drop old checkpoints and what killed writers left; JSONs first, so that none dangles."""
    for path in sorted(folder.glob("step-*.json"), reverse=True)[_KEPT:]:
        path.unlink(missing_ok=True)
    kept = {path.stem for path in folder.glob("step-*.json")}
    for path in [*folder.glob("step-*.safetensors"), *folder.glob(".step-*")]:
        if path.stem not in kept:
            path.unlink(missing_ok=True)
