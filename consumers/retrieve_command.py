"""`provender retrieve`: the nearest pins of one user, or of all of them."""

from __future__ import annotations

import hashlib
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from feast import FeatureStore
from rich.table import Table

from provender.consumers.approximate_index import IndexConfig, recall_at
from provender.consumers.released_retrieval import ReleasedRetrieval
from provender.consumers.retrieval import Retrieval, Retrieved, Seen
from provender.consumers.retrieval_files import Plan, write_all
from provender.consumers.retrieval_views import versions_of
from provender.plugin.console import console, log, print_table, progress
from provender.plugin.embedding_view import embedding_specs
from provender.plugin.errors import ConfigError, FetchError, SourceError
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_repo
from provender.plugin.releases import Releases
from provender.plugin.repo import open_store

#: Users by which the recall of an index is judged.
_JUDGED = 200
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: provender retrieve --home demo --user 1000000007 --at 2026-03-14 --backfills"
)
@at_repo
@click.option("--user", help="Key of the user who asks.")
@click.option("--all", "everybody", is_flag=True, help="For all users; needs --at and --to.")
@click.option("--to", type=_FILE, help="With --all: the Parquet file to write.")
@click.option("--k", default=20, show_default=True, type=click.IntRange(1), help="Pins a user.")
@click.option(
    "--view",
    default="transra",
    show_default=True,
    help="Embedding of both, without entity and version.",
)
@click.option("--version", type=click.IntRange(1), help="[default: what is live, else the newest]")
@click.option(
    "--at", type=UtcTime(), help="As of a time, from snapshots.  [default: now, from what serves]"
)
@click.option("--backfills", is_flag=True, help="With --at: let later written snapshots count.")
@click.option("--metric", help="inner_product, cosine, l2, l1.  [default: the space's]")
@click.option(
    "--approximate",
    type=click.Choice(["hnsw", "ivf"]),
    help="Search by an index of faiss; its recall against the exact search is told.",
)
@click.option("--pins", "only", type=_FILE, help="Parquet or CSV of the pins that count.")
@click.option("--seen", type=_FILE, help="Parquet or CSV of users and pins not to be answered.")
def retrieve(
    home: Path,
    repo: Path | None,
    user: str | None,
    everybody: bool,
    to: Path | None,
    k: int,
    view: str,
    version: int | None,
    at: datetime | None,
    backfills: bool,
    metric: str | None,
    approximate: Any,
    only: Path | None,
    seen: Path | None,
) -> None:
    """Find the pins that are nearest to users, by two views of one space."""
    store = open_store(repo or Home(home).repo)
    _check(user, everybody, to, at)
    index = IndexConfig(kind=approximate) if approximate else None
    live = _column(only, "pin_id") if only else None
    hidden = _seen(seen) if seen else None
    options: dict[str, Any] = {"metric": metric, "only": live, "approximate": index}
    if at is None:
        released = ReleasedRetrieval(store, view, version=version, **options)
        _show(released, user, k, hidden)
        return
    number = version or _version(store, view)
    found = Retrieval.at(store, view, number, at, backfills=backfills, **options)
    if index is not None:
        _judge(found, k)
    if to is None:
        _show(found, user, k, hidden)
    else:
        _write(found, to, k, _plan(found, k, index, only, seen), hidden)


def _check(user: str | None, everybody: bool, to: Path | None, at: datetime | None) -> None:
    """Refuse options that do not go together."""
    found = None
    if everybody == (user is not None):
        found = "both --user and --all" if everybody else "neither --user nor --all"
    elif everybody and (to is None or at is None):
        found = "--all without --to or --at"
    elif not everybody and to is not None:
        found = "--to without --all"
    if found is not None:
        raise ConfigError(
            "provender retrieve",
            found=found,
            expected="--user KEY, or --all --at TIME --to FILE",
            remedy="See `provender retrieve --help`.",
        )


def _version(store: FeatureStore, view: str) -> int:
    """The live version, else the newest; a name that is not known is refused later on."""
    specs = embedding_specs(store)
    known = versions_of(specs, view, "user")
    families = {spec.family for spec in specs.values() if spec.name == f"user_{view}"}
    for family in families:
        release = Releases.of(store).current(family)
        if release is not None and release.live in known:
            return release.live
    return known[-1] if known else 1


def _show(retrieval: Retrieval | ReleasedRetrieval, user: str | None, k: int, seen: Any) -> None:
    started = time.perf_counter()
    key = _as_key(user or "")
    answer = _answer(retrieval, key, k, seen)
    if not answer.known[0]:
        raise _unknown(retrieval, user)
    table = Table(title=f"user {user}, version {answer.version}", show_edge=False)
    for name in ("rank", "pin", _shown(answer)):
        table.add_column(name, justify="right")
    for rank, pin in enumerate(answer.pins[0]):
        near = _near(float(answer.distances[0, rank]), answer)
        table.add_row(str(rank + 1), str(pin), f"{near:.6f}")
    print_table(table)
    log.print(f"{len(answer.pins[0])} pins in {1e3 * (time.perf_counter() - started):.1f} ms")


def _unknown(retrieval: Retrieval | ReleasedRetrieval, user: str | None) -> FetchError:
    """Say that a user can't be asked for, and of snapshots which could."""
    keys = retrieval.users.keys[:1].to_pylist() if isinstance(retrieval, Retrieval) else []
    example = f", such as {keys[0]}" if keys else ""
    return FetchError(
        f"user {user}",
        found="no vector of this user that may be used at that time",
        expected=f"a key with one that is not past its ttl{example}",
        remedy="Correct the key, ask for another time with --at, or materialize a newer refresh.",
    )


def _answer(retrieval: Retrieval | ReleasedRetrieval, key: Any, k: int, seen: Any) -> Retrieved:
    """Ask by the number that a key looks like, or where keys are strings by its text."""
    try:
        return retrieval.for_users([key], k, seen=seen)
    except FetchError:
        if isinstance(key, str):
            raise
        return retrieval.for_users([str(key)], k, seen=seen)


def _as_key(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _shown(answer: Retrieved) -> str:
    return {"l2": "distance", "l1": "distance", "cosine": "cosine"}.get(answer.metric, "product")


def _near(far: float, answer: Retrieved) -> float:
    if answer.metric in ("l1", "l2"):
        return far
    return 1 - far if answer.metric == "cosine" else -far


def _judge(found: Retrieval, k: int) -> None:
    """Tell what share of the exact answers the index finds, of users spread over all."""
    vectors = found.users.vectors
    asked = vectors[:: max(1, len(vectors) // _JUDGED)][:_JUDGED]
    if not len(asked):
        return
    rows = found.search.search(asked, k).rows
    share = recall_at(rows, found.search.exactly(asked, k).rows)
    log.print(f"the index finds {share:.1%} of the nearest {k} (of {len(asked)} users)")


def _plan(
    found: Retrieval, k: int, index: IndexConfig | None, only: Path | None, seen: Path | None
) -> Plan:
    def digest(path: Path | None) -> str | None:
        return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()

    return Plan(
        users=found.users.stamp,
        pins=found.search.pins.stamp,
        k=k,
        metric=found.search.metric,
        only=digest(only),
        seen=digest(seen),
        index=None if index is None else index.model_dump_json(),
    )


def _write(found: Retrieval, to: Path, k: int, plan: Plan, seen: Seen | None) -> None:
    with progress() as bar:
        task = bar.add_task("users", total=len(found.users.keys), note="")
        rows = write_all(
            found, plan, to, seen=seen, progress=lambda users: bar.advance(task, users)
        )
    console.print(f"{rows:,} rows: {k} pins for each of {len(found.users.keys):,} users, in {to}")


def _column(path: Path, name: str) -> pa.Array:
    return _read(path, [name])[name].combine_chunks()


def _seen(path: Path) -> dict[Any, list[Any]]:
    table = _read(path, ["user_id", "pin_id"])
    seen: dict[Any, list[Any]] = {}
    for user, pin in zip(table["user_id"].to_pylist(), table["pin_id"].to_pylist(), strict=True):
        seen.setdefault(user, []).append(pin)
    return seen


def _read(path: Path, names: list[str]) -> pa.Table:
    """Read some columns of a file; raises SourceError where it has not got them."""
    try:
        if path.suffix == ".csv":
            return pa_csv.read_csv(path).select(names)
        return pq.read_table(path, columns=names)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise SourceError(
            str(path),
            found=str(error).splitlines()[0],
            expected=f"a Parquet or CSV file with the columns {', '.join(names)}",
            remedy="Correct the file or its path.",
        ) from None
