"""What a training leaves to be looked at: metrics by time, as JSON lines and for TensorBoard.

`metrics.jsonl` gets a line every few seconds and one for each judgement; TensorBoard shows the same
after `tensorboard --logdir FOLDER`. A run that goes on after a kill appends to both.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"


class Step(Protocol):
    """How far a training is."""

    @property
    def epoch(self) -> int:
        """The epoch, from 0 on."""
        ...

    @property
    def step(self) -> int:
        """Steps taken."""
        ...

    @property
    def total(self) -> int:
        """Steps in all."""
        ...

    @property
    def count(self) -> int:
        """What the last step was trained on: so many triples, or others."""
        ...

    @property
    def loss(self) -> float:
        """Its mean loss."""
        ...


class Pace:
    """Triples, or others, a second, over all of this process's training so far."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._count = 0

    def after(self, at: Step) -> float:
        """The pace; 0 until there is a second step, for the first one's beginning is not known."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            return 0.0
        self._count += at.count
        return self._count / max(now - self._began, 1e-9)


def in_words(at: Step, rate: float, unit: str = "triples") -> str:
    """A progress for a progress bar, `rate` in triples, or another unit, a second."""
    return f"loss {at.loss:.3f}, {rate:,.0f} {unit}/s"


class TrainingLog:
    """Writes what a training tells of itself into a folder, every so many seconds.

    Call it with each progress, and :meth:`judged` with each judgement; leaving the context writes
    the last progress too.
    """

    def __init__(self, folder: Path, every: float = 5.0, unit: str = "triples") -> None:
        self._folder, self._unit = folder, unit
        self._board: SummaryWriter | None = None
        self._every, self._pace = every, Pace()
        self._due, self._rate = 0.0, 0.0
        self._last: Step | None = None

    def __call__(self, at: Step) -> str:
        """Note a progress; returns it in words, for a progress bar."""
        self._rate, self._last = self._pace.after(at), at
        if time.monotonic() >= self._due:
            self._write()
        return in_words(at, self._rate, self._unit)

    def judged(self, epoch: int, figure: str, value: float) -> None:
        """Note what an epoch was judged by, such as ("mrr", 0.3)."""
        self._put(epoch, {"epoch": epoch, figure: value}, {f"judged/{figure}": value})

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._last is not None:
            self._write()
        if self._board is not None:
            self._board.close()

    def _write(self) -> None:
        at = self._last
        if at is None:
            return
        self._due, self._last = time.monotonic() + self._every, None
        told = {
            "step": at.step,
            "of": at.total,
            "epoch": at.epoch,
            "loss": at.loss,
            f"{self._unit}_per_second": self._rate,
        }
        shown = {"train/loss": at.loss, f"train/{self._unit}_per_second": self._rate}
        self._put(at.step, told, shown)

    def _put(self, step: int, told: dict[str, Any], shown: dict[str, float]) -> None:
        if self._board is None:  # Not before there is something to tell.
            self._folder.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(self._folder))
        with (self._folder / METRICS).open("a") as lines:
            lines.write(json.dumps({"time": time.time(), **told}) + "\n")
        for name, value in shown.items():
            self._board.add_scalar(name, value, step)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; a last line that a kill cut short is left out."""
    path = folder / METRICS
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
