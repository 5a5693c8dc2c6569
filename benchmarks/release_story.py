"""Two weeks of one family, played on a simulated world: every move, every refusal, under load.

    python benchmarks/release_story.py --home /tmp/story                 # SQLite
    python benchmarks/release_story.py --home /tmp/story --url postgresql+psycopg://user@host/db

v1 is released and refreshed daily; v2, of another dim, is trained beside it; both are joined in one
training set and a ranker is trained on each; v2 is shadowed, given to a canary, promoted under
load, rolled back, promoted again; v1 is retired and collected. What must be refused is tried and
has to be refused with the right line. Readers compare every vector of every answer with the
snapshots of the version that the answer names. Anything else than what should happen stops it.

Writes benchmarks/results/release_story.{json,md}; a database adds its row to what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from story_home import StoryHome, say

from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import load_ranker
from provender.consumers.training_join import training_join
from provender.plugin.errors import VersionError
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.releases import Releases
from provender.plugin.snapshot import find_snapshots

RESULTS = Path(__file__).parent / "results"
FAMILY = "transra"
#: v1 lives from the first of these days on, v2 from the third.
DAYS = [datetime(2026, 3, day, tzinfo=UTC) for day in (10, 11, 12, 13, 14)]
NOON = f"{DAYS[-1] + timedelta(hours=12):%Y-%m-%dT%H:%M}"

V2_VIEWS = """

# Written by the story: a model of half the width, in a space of its own.
user_transra_v2 = embedding_view(
    name="user_transra", version=2, entity=user, dim=32, nested_dims=(16,), space="transra_v2",
    producer="transra", ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
pin_transra_v2 = embedding_view(
    name="pin_transra", version=2, entity=pin, dim=32, nested_dims=(16,), space="transra_v2",
    producer="transra", ttl=timedelta(days=30), snapshots=SNAPSHOTS,
)
"""
V2_SERVICES = """
from embedding_views import pin_transra_v2, user_transra_v2

ranker_transra_v2 = FeatureService(
    name="ranker_transra_v2",
    features=[user_counters, pin_counters, user_transra_v2, pin_transra_v2],
)
vectors_v1 = FeatureService(name="vectors_v1", features=[user_transra_v1, pin_transra_v1])
vectors_v2 = FeatureService(name="vectors_v2", features=[user_transra_v2, pin_transra_v2])
ranker_both = FeatureService(
    name="ranker_both",
    features=[
        user_counters, pin_counters,
        user_transra_v1, pin_transra_v1, user_transra_v2, pin_transra_v2,
    ],
)
"""
#: What must not change under a version, as edits of embedding_views.py.
CHANGES = {
    "dim": ("dim=64", "dim=48"),
    "nested dims": ("nested_dims=(16, 32)", "nested_dims=(16,)"),
    "dtype": ("dim=64", 'dtype="float16", dim=64'),
    "space": ('space="transra_v1"', 'space="other"'),
    "producer": ('producer="transra"', 'producer="linksage"'),
    "entity": ("entity=pin", "entity=user"),
}


def day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


def v1_goes_live(story: StoryHome, users: int) -> None:
    """A world, the first embeddings, and everything that is not yet allowed."""
    size = ["--users", users, "--pins", users, "--days", 14]
    story.run("simulate", "--out", story.place.simulation, *size, home=False)
    shutil.copyfile(story.place.repo / "worlds" / "simulator.yaml", story.place.world)
    story.feast("apply")
    promote = ["release", "promote", FAMILY]
    story.refuse("no former version", "release", "rollback", FAMILY)
    story.refuse("materialized", *promote, 1, "--at", day(DAYS[0]))
    story.refuse("expected one of the versions 1", *promote, 7, "--at", day(DAYS[0]))
    story.refuse("expected one of linksage, transra, upstream", "release", "promote", "other", 1)
    story.run("refresh", FAMILY, "--as-of", day(DAYS[0]))
    story.run(*promote, 1, "--at", day(DAYS[0]))
    story.refuse("live", *promote, 1, "--at", day(DAYS[0]))
    story.refuse("live", "release", "retire", FAMILY, 1)
    story.run("refresh", FAMILY, "--as-of", day(DAYS[1]))
    story.run("lineage", "user_transra_v1")


def versions_keep_their_meaning(story: StoryHome) -> None:
    """Feast's own commands refuse what would give version 1 a second meaning."""
    for what, (old, new) in CHANGES.items():
        with story.changed("embedding_views.py", lambda text, o=old, n=new: text.replace(o, n)):
            for command in ("plan", "apply"):
                why = f", with another {what}"
                story.feast_refuses("Declare it as version 2", command, why=why)


def v2_grows_beside_it(story: StoryHome) -> None:
    """A second version of another dim: declared, refreshed three times, judged by its gates."""
    for name, text in (("embedding_views.py", V2_VIEWS), ("services.py", V2_SERVICES)):
        path = story.place.repo / name
        path.write_text(path.read_text() + text)
    story.feast("apply")
    promote = ["release", "promote", FAMILY, 2, "--at", NOON]
    story.refuse("materialized", *promote)
    story.run("refresh", FAMILY, "--as-of", day(DAYS[2]))
    story.refuse("quality", *promote)
    with story.changed("releases.yaml", lambda text: "transra: {drift: {cosine: 0.99999}}\n"):
        story.refuse("cosine", "refresh", FAMILY, "--as-of", day(DAYS[3]))
    story.run("refresh", FAMILY, "--as-of", day(DAYS[3]))
    story.run("refresh", FAMILY, "--as-of", day(DAYS[4]))


def gates_refuse_v2(story: StoryHome) -> None:
    """Each gate on its own, by what it is there for."""
    promote = ["release", "promote", FAMILY, 2]
    story.refuse("fresh", *promote, "--at", "2026-06-01")
    with story.changed("releases.yaml", lambda text: "transra: {quality: 1.5}\n"):
        story.refuse("quality", *promote, "--at", NOON)
    with online_rows_lost(story, "pin_transra_v2", 0.5):
        story.refuse("coverage", *promote, "--at", NOON)
    with online_rows_lost(story, "pin_transra_v2", 0.03):
        story.refuse("online", *promote, "--at", NOON)
    story.refuse("--reason", *promote, "--at", NOON, "--force")


class online_rows_lost:  # noqa: N801
    """Some of a view's online rows are gone for a while, behind everybody's back."""

    def __init__(self, story: StoryHome, view: str, share: float) -> None:
        config = story.store.config
        online = ProvenderOnlineStore()
        self.engine = online.database(config).engine
        (record,) = [r for r in online.records(config).values() if r.view == view]
        self.table, self.share = record.name, share
        self.hot = config.online_store.hot and config.repo_path / config.online_store.hot

    def __enter__(self) -> None:
        name = self.engine.dialect.identifier_preparer.quote_identifier(self.table)
        key = self.engine.dialect.identifier_preparer.quote_identifier("key")
        self.name = name
        with self.engine.begin() as connection:
            connection.execute(sa.text(f"create table story_kept as select * from {name}"))
            chosen = f"{key} % 1000 < {int(1000 * self.share)}"
            connection.execute(sa.text(f"delete from {name} where {chosen}"))
        self._withdraw()

    def __exit__(self, *error: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(f"delete from {self.name}"))
            connection.execute(sa.text(f"insert into {self.name} select * from story_kept"))
            connection.execute(sa.text("drop table story_kept"))
        self._withdraw()

    def _withdraw(self) -> None:
        """The hot copy does not see what a hand changes: it goes, and the table is read."""
        if self.hot:
            (self.hot / self.table / "current").unlink(missing_ok=True)


def rankers_are_trained(story: StoryHome, seeds: int) -> dict[str, Any]:
    """One training join with both versions, and a ranker on each."""
    rank = ["rank", "--seeds", seeds, "--backfills"]
    story.run(*rank)
    story.run(*rank, "--service", "ranker_transra_v2")
    rows = pa.table(
        {
            "user_id": pa.array([1_000_000_000 + n for n in range(200)], pa.int64()),
            "pin_id": pa.array([2_000_000_000 + n for n in range(200)], pa.int64()),
            "event_timestamp": pa.array([DAYS[-1]] * 200, pa.timestamp("us", tz="UTC")),
        }
    )
    both = training_join(story.store, rows, "ranker_both", backfills=True)
    return {view: {"dim": v.shape[1]} for view, v in both.rows.vectors.items()}


def rankers_are_held_to_releases(story: StoryHome, rankers: dict[int, Path]) -> None:
    """With v1 live the ranker of v2 is refused, and the other way round after a promotion."""
    store = story.store
    learned_v2 = load_ranker(rankers[2])
    fetcher = OnlineFetcher(store, "ranker_transra_v2", ranker=learned_v2, now=DAYS[-1])
    what = "online fetch for a ranker of v2 while v1 is live"
    pins = [2_000_000_000, 2_000_000_001]
    context = {"position": 1, "surface": "home"}
    line = "as the ranker learned"
    story.raises(VersionError, line, what, lambda: fetcher.fetch(1_000_000_000, pins, context))
    what = "a service of v1 for a ranker of v2"
    story.raises(
        VersionError,
        line,
        what,
        lambda: OnlineFetcher(store, "ranker_transra", ranker=learned_v2),
    )


def moved_under_load(story: StoryHome, rankers: dict[int, Path], requests: int) -> dict[str, Any]:
    """Promote and roll back while readers read; returns what they counted."""
    readers, outs = [], []
    for number in range(2):
        out = story.place.path / f"read-{number}.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, str(Path(__file__).with_name("story_readers.py"))]
        options = ["--home", story.place.path, "--requests", requests // 2, "--seed", number]
        options += ["--out", out, "--now", f"{NOON}+00:00", "--rankers", *rankers.values()]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        readers.append(subprocess.Popen([*command, *map(str, options)], env=environment))
        outs.append(out)
    moves = 0
    started = time.perf_counter()
    while any(reader.poll() is None for reader in readers):
        live = Releases.of(story.store).current(FAMILY)
        assert live is not None
        if live.live == 1 and moves % 4 == 0:
            story.run("release", "promote", FAMILY, 2, "--at", NOON)
        else:
            story.run("release", "rollback", FAMILY, "--at", NOON)
        moves += 1
        time.sleep(0.2)  # Two cores are the readers'.
    if any(reader.returncode for reader in readers):
        raise AssertionError("a reader stopped")
    told = [json.loads(out.read_text()) for out in outs]
    total = {name: sum(one[name] for one in told) for name in ("requests", "mixed", "failed")}
    total["milliseconds"] = max(one["milliseconds"] for one in told)
    total["first_error"] = next((one["first_error"] for one in told if one["failed"]), "")
    total["versions"] = {v: sum(one["versions"].get(v, 0) for one in told) for v in ("1", "2")}
    total |= {"moves": moves, "seconds": time.perf_counter() - started}
    if total["mixed"] or total["failed"] or not all(total["versions"].values()):
        raise AssertionError(f"under load: {total}")
    return total


def killed_moves(story: StoryHome, times: int, generator: random.Random) -> dict[str, int]:
    """Promotions killed at random moments: the former state or the new one, never another."""
    releases, outcome = Releases.of(story.store), {"before": 0, "after": 0}
    back_to(story, 1)
    usual = _seconds_of(story, "release", "promote", FAMILY, 2, "--at", NOON)
    for _ in range(times):
        back_to(story, 1)
        before = releases.history(FAMILY)
        process = story.start("release", "promote", FAMILY, 2, "--at", NOON)
        time.sleep(generator.uniform(0.6, 1.05) * usual)
        process.kill()
        process.wait()
        after = releases.history(FAMILY)
        moved = after != before
        if after[: len(before)] != before or len(after) - len(before) != moved:
            raise AssertionError("a killed promotion changed the past")
        if moved and (after[-1].live, after[-1].former, after[-1].action) != (2, 1, "promote"):
            raise AssertionError(f"a killed promotion left {after[-1]}")
        outcome["after" if moved else "before"] += 1
    back_to(story, 1)
    return outcome


def _seconds_of(story: StoryHome, *words: object) -> float:
    """How long a command takes in a process of its own, most of it to start."""
    started = time.perf_counter()
    story.start(*words).wait()
    return time.perf_counter() - started


def back_to(story: StoryHome, version: int) -> None:
    state = Releases.of(story.store).current(FAMILY)
    if state is not None and state.live != version:
        story.run("release", "rollback", FAMILY, "--to", version, "--at", NOON)


def v1_is_retired(story: StoryHome) -> None:
    """Retired once nothing needs it, and never live again."""
    retire = ["release", "retire", FAMILY]
    story.refuse("live", *retire, 2)
    story.refuse("ranker", *retire, 1)
    story.run(*retire, 1, "--force", "--reason", "its rankers are gone next")
    story.refuse("retired", "release", "promote", FAMILY, 1, "--at", NOON)
    story.refuse("retired", "release", "rollback", FAMILY, "--to", 1, "--at", NOON)


def tree(root: Path) -> dict[str, bytes]:
    """What lies in a folder, by path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def v1_is_collected(
    story: StoryHome, rankers: dict[int, Path], times: int, generator: random.Random
) -> dict[str, Any]:
    """gc: nothing while a ranker or the repo needs v1, then all of it, killed in between."""
    place = story.place
    v2_before = {
        view: tree(place.snapshots / view) for view in ("user_transra_v2", "pin_transra_v2")
    }
    story.run("gc", "--apply")
    if len(find_snapshots(place.snapshots, "user_transra_v1")) != len(DAYS):
        raise AssertionError("gc dropped what a ranker and the repo need")
    for path in place.rankers.glob("*.safetensors"):
        if path != rankers[2]:
            path.unlink()
    for name in ("embedding_views.py", "services.py"):
        path = place.repo / name
        path.write_text(without_v1(path.read_text()))
    story.feast("apply")
    dry = story.run("gc")
    if "user_transra_v1" not in dry or not (place.snapshots / "user_transra_v1").is_dir():
        raise AssertionError(f"a dry run: {dry}")
    usual = _seconds_of(story, "gc")
    for _ in range(times):
        process = story.start("gc", "--apply")
        time.sleep(generator.uniform(0.6, 1.3) * usual)
        process.kill()
        process.wait()
        for view in v2_before:
            if tree(place.snapshots / view) != v2_before[view]:
                raise AssertionError(f"gc touched {view}")
    story.run("gc", "--apply")
    tables = {record.view for record in ProvenderOnlineStore().records(story.store.config).values()}
    left = {path.name for path in place.snapshots.iterdir() if not path.name.startswith(".")}
    if any("transra_v1" in name for name in (*tables, *left)):
        raise AssertionError(f"gc left {tables} and {left}")
    return {"killed": times, "snapshot folders left": sorted(left)}


def without_v1(text: str) -> str:
    """A repo's file less what it says of version 1."""
    text = re.sub(r"(?ms)^(user|pin)_transra_v1 = embedding_view\(.*?^\)\n", "", text)
    text = re.sub(r"(?ms)^ranker_(transra|both) = FeatureService\(.*?^\)\n", "", text)
    text = re.sub(r"(?m)^vectors_v1 = .*\n", "", text)
    return text.replace("from embedding_views import pin_transra_v1, user_transra_v1\n", "")


def play(
    home: Path, url: str | None, *, users: int, requests: int, seeds: int, kills: int
) -> dict[str, Any]:
    """Play all of it; returns what was counted."""
    started = time.perf_counter()
    generator = random.Random(7)
    story = StoryHome(home, url)
    v1_goes_live(story, users)
    versions_keep_their_meaning(story)
    v2_grows_beside_it(story)
    gates_refuse_v2(story)
    joined = rankers_are_trained(story, seeds)
    rankers = {
        1: story.place.rankers / "with-0.safetensors",
        2: story.place.rankers / "ranker_transra_v2-0.safetensors",
    }
    rankers_are_held_to_releases(story, rankers)
    story.run("release", "canary", FAMILY, 2, 0.1, "--at", NOON)
    story.refuse("of the requests read it", "release", "retire", FAMILY, 2)
    story.run("shadow", FAMILY, "--requests", 200)
    story.run("release", "promote", FAMILY, 2, "--at", NOON)
    read = moved_under_load(story, rankers, requests)
    killed = killed_moves(story, kills, generator)
    story.run("release", "promote", FAMILY, 2, "--at", NOON)
    story.run("release", "status", FAMILY)
    v1_is_retired(story)
    collected = v1_is_collected(story, rankers, kills, generator)
    story.run("lineage", "pin_transra_v2", "--format", "mermaid")
    story.run("release", "history", FAMILY)
    told = {
        "online store": sa.make_url(story.store.config.online_store.url).get_backend_name(),
        "users": users,
        "joined in one training set": joined,
        "under load": read,
        "promotions killed": killed,
        "gc": collected,
        "refused": story.refused,
        "moves in the log": len(Releases.of(story.store).history(FAMILY)),
        "seconds": time.perf_counter() - started,
    }
    story.feast("teardown")
    return told


def table(stories: dict[str, dict[str, Any]]) -> str:
    """The figures of each database as Markdown."""
    head = (
        "| online store | requests | answered by v1 | by v2 | of two versions | failed "
        "| moves meanwhile | promotions killed | of them moved | gc killed | refusals, all right |"
    )
    lines = [head, "|---" * 11 + "|"]
    for name, told in stories.items():
        read, killed = told["under load"], told["promotions killed"]
        lines.append(
            f"| {name} | {read['requests']:,} | {read['versions']['1']:,} "
            f"| {read['versions']['2']:,} | {read['mixed']} | {read['failed']} | {read['moves']} "
            f"| {sum(killed.values())} | {killed['after']} | {told['gc']['killed']} "
            f"| {len(told['refused'])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="a new folder")
    parser.add_argument("--url", help="the online store's; SQLite in the home by default")
    parser.add_argument("--users", type=int, default=1000, help="and as many pins")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10, help="of promotions, and of gc")
    given = parser.parse_args()
    told = play(
        given.home,
        given.url,
        users=given.users,
        requests=given.requests,
        seeds=given.seeds,
        kills=given.kills,
    )
    path = RESULTS / "release_story.json"
    stories = json.loads(path.read_text())["stories"] if path.exists() else {}
    stories[told["online store"]] = told
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    path.write_text(json.dumps({"machine": machine, "stories": stories}, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(stories))
    say(table(stories))


if __name__ == "__main__":
    main()
