"""Crawled pages from XADD to readable online, at several rates, on the simulator's home.

    OMP_NUM_THREADS=1 python benchmarks/linksage_stream.py --home HOME

HOME has a refreshed LinkSage with a view of pages; it is copied, not changed. `provender linksage
stream` runs as a process of its own beside Redis (--redis); this process adds pages that no refresh
knows, each with a pin that leads to it, and reads the online table until their vectors are there:
so the latency has everything in it, with what reading costs. Rates take turns in several rounds;
p50 and p99 are over all messages of a rate, their medians over the rounds. Beside them: how fast a
backlog is drained, by batches of one size, and what supplements cost that stand already, of which
a busy stream writes one a second until the next refresh.
Writes benchmarks/results/linksage_stream.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import redis
from feast.cli.cli import cli as feast_cli

from provender.plugin.home import Home
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.repo import open_store, standing_in, views_in_repo
from provender.plugin.world import World
from provender.producers.linksage.crawled_pages import ORDER
from provender.producers.linksage.page_inbox import Message
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_stream import Limits, PageStream
from provender.producers.linksage.page_supplements import write_supplement
from provender.producers.linksage.redis_pages import RedisPages
from provender.producers.online_refresh import OnlineRefresh

RESULTS = Path(__file__).parent / "results"
RATES, SECONDS, ROUNDS, BACKLOG = (1, 10, 100, 1000), 10.0, 3, 20_000
STANDING, SMALL = (0, 600, 3600), 10


class Pages:
    """New pages, each like a page of the simulator, with another image and a pin."""

    def __init__(self, home: Home) -> None:
        rows = pq.read_table(home.data / "pages.parquet").drop_columns(["crawled_timestamp"])
        self._rows = rows.to_pylist()
        self._pins = pq.read_table(home.data / "pins.parquet")["pin_id"].to_pylist()
        self._rng, self._next = np.random.default_rng(0), 10**12

    def new(self) -> dict[str, Any]:
        """A page with a key that no other has."""
        self._next += 1
        row = self._rows[self._next % len(self._rows)]
        image = self._rng.normal(size=len(row["image_vector"])).tolist()
        pins = [self._pins[self._next % len(self._pins)]]
        return {**row, "page_id": self._next, "image_vector": image, "pins": pins}


@contextmanager
def copied(home: Path) -> Iterator[Home]:
    """The same home elsewhere, registered there."""
    with tempfile.TemporaryDirectory() as work:
        place = Home(Path(work) / "home")
        shutil.copytree(home, place.path, symlinks=True)
        with standing_in(place.repo):
            feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)
        yield place


def job_of(home: Home) -> PageJob:
    world, views = World.load(home.world), views_in_repo(home.repo)
    return PageJob.declare(world, home.data, home, views, "cpu", family="linksage")


@contextmanager
def streaming(home: Home, url: str, stream: str) -> Iterator[None]:
    """`provender linksage stream`, which has begun to take messages."""
    command = "from provender.plugin.cli import main; main()"
    told = ["linksage", "stream", "--home", str(home.path), "--redis", url, "--stream", stream]
    process = subprocess.Popen([sys.executable, "-c", command, *told, "--device", "cpu"])
    client = redis.Redis.from_url(url)
    try:
        while not client.exists(stream) or not client.xinfo_groups(stream)[0]["consumers"]:
            if process.poll() is not None:
                raise SystemExit("the stream has ended")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        client.delete(stream, f"{stream}:bad")


def latencies(home: Home, url: str, stream: str, pages: Pages, rate: float) -> list[float]:
    """Seconds from XADD to readable, of each page that is sent in SECONDS at an even rate."""
    client, store = redis.Redis.from_url(url), open_store(home.repo)
    view, online = store.get_feature_view("page_linksage_v1"), ProvenderOnlineStore()
    sent: dict[int, float] = {}
    found: dict[int, float] = {}
    ready = [pages.new() for _ in range(round(rate * SECONDS))]
    texts = [json.dumps(page) for page in ready]
    over = Event()

    def send() -> None:
        begin = time.monotonic()
        for number, (page, text) in enumerate(zip(ready, texts, strict=True)):
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            now = time.monotonic()
            client.xadd(stream, {"page": text})
            sent[page["page_id"]] = now
        over.set()

    thread = Thread(target=send)
    thread.start()
    while not over.is_set() or len(found) < len(sent):
        waiting = [key for key in list(sent) if key not in found]
        if waiting:
            rows = online.read_columns(store.config, view, {"page_id": waiting}, hot=False)
            now = time.monotonic()
            there = zip(waiting, rows.present, strict=True)
            found |= {key: now for key, present in there if present}
        time.sleep(0.02)
    thread.join()
    return [found[key] - sent[key] for key in sent]


def drained(home: Home, url: str, stream: str, pages: Pages) -> float:
    """Pages a second from a backlog, in one process that streams `once`."""
    client = redis.Redis.from_url(url)
    inbox = RedisPages(url, stream, "drain", None, 60.0)
    with client.pipeline(transaction=False) as many:
        for _ in range(BACKLOG):
            many.xadd(stream, {"page": json.dumps(pages.new())})
        many.execute()
    worker = PageStream(job_of(home), OnlineRefresh(home.repo), inbox)
    begin = time.monotonic()
    worker.run(Event(), once=True)
    took = time.monotonic() - begin
    inbox.close()
    client.delete(stream)
    assert worker.counts.verdicts["changed"] == BACKLOG
    return BACKLOG / took


class _Nobody:
    """An inbox that needs no answers."""

    def done(self, messages: Any) -> None:
        """Nothing is to be acknowledged."""


def standing(home: Home, pages: Pages) -> list[dict[str, float]]:
    """What a batch of a few pages, a start and a join cost beside so many supplements."""
    job, online, found = job_of(home), OnlineRefresh(home.repo), []
    stream = PageStream(job, online, _Nobody(), Limits())  # type: ignore[arg-type]
    fresh, written = stream.fresh, 0
    for wanted in STANDING:
        while written < wanted:
            rows = fresh.columns.check(pages.new()) | {ORDER: 0}
            table = fresh.read(fresh.columns.table([rows]))
            written += 1
            as_of = fresh.base.as_of + timedelta(seconds=written)
            snapshot = write_supplement(fresh, as_of, table, fresh.embed(table))
            online.add(stream.spec, snapshot)
        begin = time.monotonic()
        stream = PageStream(job, online, _Nobody(), Limits())  # type: ignore[arg-type]
        opened, batches = time.monotonic() - begin, []
        for _ in range(5):
            some = [Message("0", pages.new(), 0, 0.0) for _ in range(SMALL)]
            stream._wait_for_second(None)
            begin = time.monotonic()
            stream.work(some)
            batches.append(time.monotonic() - begin)
        found.append(
            {
                "supplements": wanted,
                "start_s": opened,
                "batch_s": statistics.median(batches),
                "join_s": statistics.median(joined(home) for _ in range(3)),
            }
        )
    return found


def joined(home: Home) -> float:
    """Seconds of a join of a thousand rows after the ttl: of opening all that may be joined."""
    keys = pq.read_table(home.data / "pages.parquet")["page_id"].to_pandas()[:1000]
    frame = keys.to_frame().assign(event_timestamp="2100-01-01T00:00:00Z")
    frame["event_timestamp"] = frame.event_timestamp.astype("datetime64[us, UTC]")
    store = open_store(home.repo)
    begin = time.monotonic()
    store.get_historical_features(frame, ["page_linksage_v1:embedding"]).to_arrow()
    return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--redis", default="redis://127.0.0.1:6379")
    told = parser.parse_args()
    by_rate: dict[int, list[list[float]]] = {rate: [] for rate in RATES}
    with copied(told.home) as home:
        pages, stream = Pages(home), f"provender-bench-{uuid.uuid4().hex}"
        with streaming(home, told.redis, stream):
            for _ in range(ROUNDS):
                for rate in RATES:
                    by_rate[rate].append(latencies(home, told.redis, stream, pages, rate))
        rates = [drained(home, told.redis, f"{stream}-drain", pages) for _ in range(ROUNDS)]
    with copied(told.home) as home:
        beside = standing(home, Pages(home))
    found = {
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "latency": {
            rate: {
                "messages": sum(map(len, rounds)),
                **{
                    f"p{q}_s": statistics.median(float(np.percentile(one, q)) for one in rounds)
                    for q in (50, 99)
                },
                "most_s": max(max(one) for one in rounds),
            }
            for rate, rounds in by_rate.items()
        },
        "backlog": {"pages": BACKLOG, "pages_per_s": statistics.median(rates), "rounds": rates},
        "standing": beside,
    }
    (RESULTS / "linksage_stream.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "linksage_stream.md").write_text(shown(found))
    print(shown(found))


def shown(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"From XADD to readable online, medians of {found['rounds']} rounds of "
        f"{found['seconds']:.0f} s.",
        "",
        "| pages/s sent | p50 s | p99 s | most s |",
        "|---|---|---|---|",
        *(
            f"| {int(rate):,} | {one['p50_s']:.2f} | {one['p99_s']:.2f} | {one['most_s']:.2f} |"
            for rate, one in found["latency"].items()
        ),
        "",
        f"A backlog of {found['backlog']['pages']:,} pages is drained at "
        f"{found['backlog']['pages_per_s']:,.0f} pages/s.",
        "",
        f"| supplements that stand | start s | batch of {SMALL} s | join past the ttl, s |",
        "|---|---|---|---|",
        *(
            f"| {one['supplements']:,} | {one['start_s']:.2f} | {one['batch_s']:.3f} | "
            f"{one['join_s']:.2f} |"
            for one in found["standing"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
