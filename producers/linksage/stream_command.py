"""`provender linksage stream`: crawled pages, embedded and readable a moment later."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, current_thread, main_thread

import click
import numpy as np

from provender.plugin.console import console, log
from provender.plugin.home import Home
from provender.plugin.options import at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.world import World
from provender.producers.linksage.page_inbox import PageInbox
from provender.producers.linksage.page_job import PRODUCER, PageJob
from provender.producers.linksage.page_stream import Limits, PageStream, StreamCounts
from provender.producers.linksage.page_supplements import page_view
from provender.producers.linksage.pushed_pages import PushedPages
from provender.producers.linksage.redis_pages import RedisPages
from provender.producers.online_refresh import OnlineRefresh

#: Seconds from one line of progress to the next.
_TELL_EVERY = 5.0


@click.command(
    epilog="Example: provender linksage stream --home demo --redis redis://127.0.0.1:6379 "
    "--stream pages"
)
@at_home
@click.option("--family", default=PRODUCER, show_default=True, help="Whose view of pages.")
@click.option("--version", type=int, help="Of the family.  [default: the newest declared]")
@click.option(
    "--redis",
    "url",
    envvar="PROVENDER_REDIS",
    default="redis://127.0.0.1:6379",
    show_default=True,
    help="The server, also by the environment's PROVENDER_REDIS.",
)
@click.option(
    "--stream",
    "name",
    help="The Redis stream; a message's field `page` is JSON.  [default: pages]",
)
@click.option(
    "--group", help="The group of consumers that share it.  [default: provender-FAMILY-vVERSION]"
)
@click.option(
    "--consumer",
    help="A name under which it comes back to what it has not finished.  "
    "[default: one for this process]",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="What another consumer has held so long is taken over.",
)
@click.option("--push-source", help="A Feast push source over local Parquet, instead of --stream.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=5000, show_default=True, help="Pages, at most."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="How long a batch waits for more pages.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--once", is_flag=True, help="Embed what is there, and end.")
def stream(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    family: str,
    version: int | None,
    url: str,
    name: str | None,
    group: str | None,
    consumer: str | None,
    idle_seconds: float,
    push_source: str | None,
    batch: int,
    seconds: float,
    device: str,
    once: bool,
) -> None:
    """Embed pages as they are crawled, and serve them a second later.

    Pages come from a Redis stream, as JSON with the columns of the declared pages' table and
    perhaps `pins`, keys of pins that lead to the page; or from what is pushed into a Feast push
    source. The newest refresh's model embeds them; a newer refresh is taken up as it comes. A page
    is acknowledged when its vector is readable online and known to joins. Messages that are no
    pages are kept in the stream NAME:bad, of a push source in HOME/streams, with the reasons.
    """
    if name and push_source:
        raise click.UsageError("give either --stream NAME or --push-source NAME")
    place = Home(home)
    views, world = views_in_repo(repo or place.repo), World.load(world_path or place.world)
    job = PageJob.declare(
        world, data or place.data, place, views, device, family=family, version=version
    )
    online = OnlineRefresh(repo or place.repo)
    online.check_registered(page_view(job), place.snapshots)
    reader = f"{job.family}-v{job.version}"
    inbox: PageInbox
    if push_source is not None:
        inbox = PushedPages(online.store, push_source, place, reader)
    else:
        group = group or f"provender-{reader}"
        inbox = RedisPages(url, name or "pages", group, consumer, idle_seconds)
    stop = Event()
    try:
        with _ended_by_signals(stop):
            pages = PageStream(job, online, inbox, Limits(batch, seconds))
            log.print(f"{pages.spec.view_name}: as of {pages.fresh.base.as_of:%Y-%m-%d %H:%M}")
            pages.run(stop, once=once, on_batch=_Teller(pages.counts, inbox))
    finally:
        inbox.close()
    console.print(summary(pages.counts))


class _Teller:
    """A line of progress every few seconds in which anything happened."""

    def __init__(self, counts: StreamCounts, inbox: PageInbox) -> None:
        self._counts, self._inbox = counts, inbox
        self._told_at, self._told = time.monotonic(), 0

    def __call__(self) -> None:
        now, done = time.monotonic(), self._counts.messages
        if done == self._told or now - self._told_at < _TELL_EVERY:
            return
        rate = (done - self._told) / (now - self._told_at)
        waiting = self._inbox.waiting()
        lag = "" if waiting is None else f", {waiting:,} waiting"
        log.print(f"{rate:,.1f} pages/s{lag}; {summary(self._counts)}")
        self._told_at, self._told = now, done


def summary(counts: StreamCounts) -> str:
    """One line of all that was done."""
    told = ", ".join(f"{number:,} {verdict}" for verdict, number in counts.verdicts.items())
    line = f"{counts.messages:,} messages" + (f": {told}" if told else "")
    if counts.latencies:
        middle, high = np.percentile(list(counts.latencies), [50, 99])
        line += f"; sent to readable p50 {middle:.2f} s, p99 {high:.2f} s"
    return line


@contextmanager
def _ended_by_signals(stop: Event) -> Iterator[None]:
    """SIGINT and SIGTERM let the batch come to its end; a second SIGINT does not wait."""
    if current_thread() is not main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
