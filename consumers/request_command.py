"""The command `provender request`: one ranking request, answered and timed."""

from __future__ import annotations

import json
import statistics
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from rich.table import Table

from provender.consumers.impressions import load_impressions
from provender.consumers.key_option import key_like
from provender.consumers.logged_requests import check_shown
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import load_ranker
from provender.consumers.ranking_request import Ranked
from provender.consumers.ranking_request import rank as rank_pins
from provender.consumers.ranking_task import context_columns
from provender.plugin.console import console
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.options import UtcTime, at_home
from provender.plugin.repo import open_store
from provender.plugin.world import World


@click.command(epilog="Example: provender request --home demo --user 1000000007 --candidates 500")
@at_home
@click.option("--user", help="Key of the user; default: one of the last evaluation day.")
@click.option(
    "--ranker",
    "ranker_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="[default: HOME/rankers/with-0.safetensors]",
)
@click.option("--candidates", default=500, show_default=True, help="Pins to rank.")
@click.option(
    "--at", type=UtcTime(), help="Time of the request.  [default: the last as-of time of the world]"
)
@click.option("--repeat", default=50, show_default=True, help="Requests to take the median of.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of candidates.")
@click.option("--top", default=5, show_default=True, help="Pins to print.")
def request(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    user: str | None,
    ranker_path: Path | None,
    candidates: int,
    at: datetime | None,
    repeat: int,
    seed: int,
    top: int,
) -> None:
    """Rank candidates for one user from the online store, and time it."""
    place = Home(home)
    world = World.load(world_path or place.world)
    ranker = load_ranker(ranker_path or place.rankers / "with-0.safetensors")
    store = open_store(repo or place.repo)
    start, end = world.dates.evaluation()
    shown = load_impressions(world, data or place.data, start, end, end, place.runs / "impressions")
    pins, who, context = _draw(shown, candidates, seed)
    key = who if user is None else key_like("--user", user, who)
    fetcher = OnlineFetcher(store, ranker.layout.service, ranker=ranker, now=at or start)
    answers = [rank_pins(fetcher, ranker, key, pins, context) for _ in range(max(repeat, 1))]
    told = _timed(answers, key, len(pins))
    write_whole(place.reports / "request.json", json.dumps(told, indent=2).encode())
    console.print(_answer(answers[-1], told, top))
    console.print(
        f"{told['candidates']} candidates in {told['milliseconds']:.1f} ms at the median of "
        f"{told['requests']} requests, of which fetch {told['fetch_milliseconds']:.1f} ms"
    )


def _draw(
    shown: pa.Table, candidates: int, seed: int
) -> tuple[list[int | str], int | str, dict[str, pa.Array]]:
    """Draw a user of the evaluation, candidates among its pins and the context of one impression.

    The context is what the page would say of a place: all candidates are asked for in the same one.
    """
    check_shown("provender request", shown)
    generator = np.random.default_rng(seed)
    pins = shown["pin_id"].unique().sort()
    chosen = generator.choice(len(pins), size=min(candidates, len(pins)), replace=False)
    row = int(generator.integers(shown.num_rows))
    context = {
        name: pa.repeat(shown[name][row], len(chosen))
        for name in context_columns(shown.column_names)
    }
    return pins.take(pa.array(chosen)).to_pylist(), shown["user_id"][row].as_py(), context


def _timed(answers: list[Ranked], user: int | str, candidates: int) -> dict[str, Any]:
    whole = [1000 * (one.fetch_seconds + one.score_seconds) for one in answers]
    fetch = [1000 * one.fetch_seconds for one in answers]
    return {
        "user": user,
        "candidates": candidates,
        "requests": len(answers),
        "milliseconds": statistics.median(whole),
        "milliseconds_p99": float(np.quantile(whole, 0.99)),
        "fetch_milliseconds": statistics.median(fetch),
        "missing": answers[-1].missing,
    }


def _answer(answer: Ranked, told: dict[str, Any], top: int) -> Table:
    table = Table(title=f"user {told['user']}", show_edge=False)
    table.add_column("pin")
    table.add_column("p(click)", justify="right")
    for pin, score in list(zip(answer.pins, answer.scores, strict=True))[:top]:
        table.add_row(str(pin), f"{score:.4f}")
    return table
