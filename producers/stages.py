"""What a command shows of a refresh while it runs: a bar a stage, and the rows put aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from provender.plugin.console import log, progress
from provender.producers.event_set import REJECTED, EventSet
from provender.producers.refresh import OnStage


@contextmanager
def stages(title: str, version: int | None = None) -> Iterator[OnStage]:
    """Show one progress bar a stage, with the version in its name where there are several."""
    name = title if version is None else f"{title} v{version}"
    with progress() as bar:
        tasks: dict[str, TaskID] = {}

        def on_stage(stage: str, done: int, total: int, note: str) -> None:
            _advance(bar, tasks, f"{name} {stage}", done, total, note)

        yield on_stage


def tell_bad_rows(events: EventSet | None) -> None:
    """Say which rows were set aside, and where they lie."""
    for name, count in events.report.events.items() if events else ():
        if events and count.bad:
            reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in count.bad.items())
            log.print(
                f"events.{name}: {reasons} of {count.kept + sum(count.bad.values()):,} rows, "
                f"put aside in {events.folder / REJECTED / name}.parquet",
                style="yellow",
            )


def _advance(
    bar: Progress, tasks: dict[str, TaskID], name: str, done: int, total: int, note: str
) -> None:
    if name not in tasks:
        tasks[name] = bar.add_task(name, total=total, note=note)
    bar.update(tasks[name], completed=done, total=total, note=note)
