"""Crawled pages that were pushed: rows of a push source's batch source, a local Parquet folder.

``FeatureStore.push(name, pages, to=PushMode.OFFLINE)`` appends rows to a file, or files to a
folder; so may anything else. How many rows of each file have been worked on is kept in the home,
and moves on when their vectors are online. One process at a time reads a push source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FileSource, PushSource
from feast.errors import DataSourceObjectNotFoundException

from provender.plugin.errors import ConfigError, SourceError
from provender.plugin.feature_rows import source_uri
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.producers.linksage.page_inbox import Message

#: Where a home keeps how far streams have come.
STREAMS = "streams"
#: Seconds from one look into the folder to the next.
_EVERY = 0.25


class PushedPages:
    """An inbox of the rows behind a push source."""

    def __init__(self, store: FeatureStore, name: str, home: Home, reader: str) -> None:
        """Go on where the last stream of this reader has stopped.

        Args:
            store: whose registry has the push source.
            name: of the push source.
            home: takes the watermark, and rows that are no pages.
            reader: who reads, such as a version of a family: each reads all rows.

        Raises ConfigError where there is no such push source over local Parquet, or another
        process reads it.
        """
        self._source = _batch_source(store, name)
        self._place = Path(source_uri(self._source, store.config.repo_path))
        self._file = home.path / STREAMS / f"{reader}-{name}.json"
        self._bad = self._file.with_suffix(".bad.jsonl")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = ExitStack()
        self._lock.enter_context(home.locked(f"stream-{reader}-{name}"))
        self._done: dict[str, int] = {}
        if self._file.is_file():
            self._done = json.loads(self._file.read_bytes())
        self._taken = dict(self._done)

    def take(self, most: int, seconds: float, stop: Event, *, wait: bool) -> list[Message]:
        """The next rows, file by file as they were written."""
        found = self._new(most)
        while wait and not found and not stop.wait(_EVERY):
            found = self._new(most)
        if wait and len(found) < most and found and not stop.wait(seconds):
            found += self._new(most - len(found))
        return found

    def done(self, messages: Sequence[Message]) -> None:
        """Move the watermark behind all rows that were handed out."""
        for name, row in (message.id.rsplit(":", 1) for message in messages):
            self._done[name] = max(self._done.get(name, 0), int(row) + 1)
        write_whole(self._file, json.dumps(self._done, indent=1).encode())

    def refuse(self, message: Message, reason: str) -> None:
        """Append a row that is no page to a file beside the watermark."""
        told = {"row": message.id, "reason": reason, "page": message.page}
        with self._bad.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told, default=str) + "\n")
        self.done([message])

    def waiting(self) -> int | None:
        """Rows that have not been handed out."""
        return sum(rows - self._taken.get(name, 0) for name, _, rows, _ in self._files())

    def close(self) -> None:
        """Let others read."""
        self._lock.close()

    def _new(self, most: int) -> list[Message]:
        found: list[Message] = []
        for name, file, rows, written in self._files():
            start = self._taken.get(name, 0)
            if start < rows and len(found) < most:
                part = self._read(file).slice(start, most - len(found))
                found += self._messages(name, part, start, written)
                self._taken[name] = start + len(part)
        return found

    def _messages(self, name: str, part: pa.Table, start: int, written: float) -> Iterator[Message]:
        orders = self._orders(part, written)
        for row, (page, order) in enumerate(zip(part.to_pylist(), orders, strict=True), start):
            yield Message(f"{name}:{row}", page, order, written)

    def _orders(self, part: pa.Table, written: float) -> list[int]:
        """The times of the rows in microseconds; when they were written where they have none."""
        never, field = round(written * 1e6), self._source.timestamp_field
        times = part[field] if field in part.column_names else pa.nulls(len(part))
        if not pa.types.is_timestamp(times.type):
            return [never] * len(part)
        micros = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
        found: list[int] = pc.fill_null(micros, never).to_pylist()
        return found

    def _files(self) -> list[tuple[str, Path, int, float]]:
        """Name, path, rows and time of writing of each file, as they were written."""
        place = self._place
        paths = [place] if place.is_file() else place.rglob("*.parquet")
        shown = [path for path in paths if not path.name.startswith(".")]
        timed = sorted((path.stat().st_mtime, str(path), path) for path in shown)
        return [
            (path.name if path == place else str(path.relative_to(place)), path, rows, time)
            for time, _, path in timed
            if (rows := self._rows(path)) is not None
        ]

    def _rows(self, path: Path) -> int | None:
        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, pa.ArrowException):  # It is being written by something that has no care.
            return None

    def _read(self, path: Path) -> pa.Table:
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"file {path}",
                found=str(error).splitlines()[0],
                expected="Parquet",
                remedy="Correct it, or take it away.",
            ) from None


def _batch_source(store: FeatureStore, name: str) -> FileSource:
    """The local Parquet behind a push source."""
    found: Any = None
    with suppress(DataSourceObjectNotFoundException):
        found = store.get_data_source(name)
    batch = found.batch_source if isinstance(found, PushSource) else None
    path = batch.path if isinstance(batch, FileSource) else "://"
    if not isinstance(batch, FileSource) or "://" in path.removeprefix("file://") or "*" in path:
        known = [s.name for s in store.list_data_sources() if isinstance(s, PushSource)]
        raise ConfigError(
            f"push source {name}",
            found=f"a {type(found).__name__} over {type(batch).__name__}"
            if found
            else f"only the push sources {', '.join(known) or '(none)'}",
            expected="a PushSource whose batch source is a local Parquet file or folder",
            remedy="Declare it in the Feast repo and run `feast apply`.",
        )
    return batch
