"""The command `provender explain`: which facet and which past action carried a score."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from rich.table import Table

from provender.consumers.action_log import ActionLog
from provender.consumers.explanation import Explanation, explain, one_row
from provender.consumers.explanation_page import age_of, charts_of, explanation_page
from provender.consumers.impressions import load_impressions
from provender.consumers.key_option import key_like
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker, load_ranker
from provender.consumers.ranking_task import PIN, USER, context_columns
from provender.consumers.user_history import Action
from provender.plugin.console import console, log, print_table
from provender.plugin.errors import ConfigError, FetchError
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.online_rows import EPOCH, MICROSECOND
from provender.plugin.options import FORMAT, UtcTime, at_home
from provender.plugin.repo import open_store
from provender.plugin.world import World

Key = int | str


class PastOfRequest(BaseModel):
    """One action in a request."""

    model_config = ConfigDict(extra="forbid")

    pin: Key
    kind: str
    time: AwareDatetime


class ExplainRequest(BaseModel):
    """A ranking request to explain; what is not said is drawn from the last days.

    Attributes:
        user: its key; one of the evaluation by default.
        pins: the candidates; pins of the evaluation by default.
        at: time of the request.
        context: column -> value of all candidates; an impression's by default.
        history: what the user did; what the world's logs say by default.
    """

    model_config = ConfigDict(extra="forbid")

    user: Key | None = None
    pins: list[Key] = []
    at: AwareDatetime | None = None
    context: dict[str, Any] | None = None
    history: list[PastOfRequest] | None = None


@click.command(
    name="explain",
    epilog="Example: provender explain --home demo --user 1000000007 --pin 2000000012 "
    "--pin 2000000040",
)
@click.argument(
    "asked",
    metavar="[REQUEST]",
    required=False,
    type=click.Path(path_type=Path),
    help="JSON file; all that it leaves out is drawn.",
)
@at_home
@click.option("--user", help="Key of the user; default: one of the last evaluation day.")
@click.option("--pin", "pins", multiple=True, help="A candidate; may be given several times.")
@click.option(
    "--at", type=UtcTime(), help="Time of the request.  [default: the last as-of time of the world]"
)
@click.option(
    "--ranker",
    "ranker_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="[default: HOME/rankers/with-0.safetensors]",
)
@click.option(
    "--candidates", default=100, show_default=True, help="Pins to draw, if none is given."
)
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
@FORMAT
def explain_request(
    asked: Path | None,
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    user: str | None,
    pins: tuple[str, ...],
    at: datetime | None,
    ranker_path: Path | None,
    candidates: int,
    seed: int,
    form: str,
) -> None:
    """Show what carried the score of a request's best candidate.

    REQUEST is a JSON file: {"user": 7, "pins": [12, 40], "at": "2026-03-14T12:00:00Z",
    "context": {...}, "history": [{"pin": 3, "kind": "click", "time": ...}]}; all of it can be left
    out. Writes HOME/reports/explain.json, explain.html and the pictures.
    """
    place = Home(home)
    world = World.load(world_path or place.world)
    path = ranker_path or place.rankers / "with-0.safetensors"
    ranker = load_ranker(path)
    told = _read(asked) if asked is not None else ExplainRequest()
    given = {"user": user, "pins": list(pins) or None, "at": at}
    told = told.model_copy(update={name: v for name, v in given.items() if v is not None})
    data = data or place.data
    told = _drawn(told, world, data, place, candidates, seed)
    if told.history is None and ranker.config.history is not None:
        told = told.model_copy(update={"history": _past(world, data, told)})
    pin, found = _explained(ranker, told, repo or place.repo)
    about = {
        "ranker": str(path),
        "user": told.user,
        "pin": pin,
        "at": _time(told).isoformat(),
        "candidates": len(told.pins),
        **found.model_dump(mode="json"),
    }
    charts = charts_of(found)
    for name, one in charts.items():
        write_whole(place.reports / f"explain-{name}.png", one.png)
    html = explanation_page(
        found, charts, told.user, pin, f"{_time(told):%Y-%m-%d %H:%M}", path.name
    )
    write_whole(place.reports / "explain.html", html.encode())
    write_whole(place.reports / "explain.json", json.dumps(about, indent=1).encode())
    if form == "json":
        click.echo(json.dumps(about, indent=1))
    else:
        _print(found, told.user, pin)
    log.print(f"written to {place.reports / 'explain.html'}")


def _read(path: Path) -> ExplainRequest:
    try:
        return ExplainRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        found = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise FetchError(
            f"request {path}",
            found=found,
            expected="JSON with any of user, pins, at, context, history",
            remedy="Correct the file; `provender explain --help` shows one.",
        ) from None


def _drawn(
    told: ExplainRequest, world: World, data: Path, place: Home, candidates: int, seed: int
) -> ExplainRequest:
    """Fill in what the request does not say from the days of the evaluation, by the seed."""
    start, end = world.dates.evaluation()
    shown = load_impressions(world, data, start, end, end, place.runs / "impressions")
    if not shown.num_rows:
        raise ConfigError(
            "provender explain",
            found="no impressions in the last days of the world",
            expected="some, to draw a request's context from",
            remedy="Let the world's dates end where the impressions do.",
        )
    generator = np.random.default_rng(seed)
    row = int(generator.integers(shown.num_rows))
    user, pins, context = told.user, list(told.pins), told.context
    examples = {key: shown[key][row].as_py() for key in (USER, PIN)}
    if user is None:
        user = examples[USER]
    if not pins:
        known = shown[PIN].unique().sort()
        chosen = generator.choice(len(known), size=min(candidates, len(known)), replace=False)
        pins = known.take(pa.array(chosen)).to_pylist()
    if context is None:
        names = context_columns(shown.column_names)
        context = {name: shown[name][row].as_py() for name in names}
    return told.model_copy(
        update={
            "user": key_like("request, user", user, examples[USER]),
            "pins": [key_like("request, pin", pin, examples[PIN]) for pin in pins],
            "at": told.at or start,
            "context": context,
        }
    )


def _past(world: World, data: Path, told: ExplainRequest) -> list[PastOfRequest]:
    """What the world's logs say that the user did before the request."""
    at = _time(told)
    with tempfile.TemporaryDirectory() as work:
        actions = ActionLog.load(world, data, Path(work), before=at)
    since = np.array([(at - EPOCH) // MICROSECOND], dtype=np.int64)
    users = pa.array([told.user], actions.users.type)
    found = actions.histories(users, since)
    return [
        PastOfRequest(
            pin=found.keys[int(item)].as_py(),
            kind=actions.spec.kinds[int(kind)],
            time=at - timedelta(seconds=float(age)),
        )
        for item, kind, age in zip(
            found.items[0], found.kinds[0], found.age_seconds[0], strict=True
        )
        if item >= 0
    ]


def _time(told: ExplainRequest) -> datetime:
    assert told.at is not None, "a drawn request has its time"
    return told.at


def _explained(ranker: Ranker, told: ExplainRequest, repo: Path) -> tuple[Key, Explanation]:
    """Rank the candidates as a request does, and explain the best."""
    store = open_store(repo)
    assert told.user is not None, "a drawn request has its user"
    fetcher = OnlineFetcher(store, ranker.layout.service, ranker=ranker, now=_time(told))
    past = [Action(one.pin, one.kind, one.time) for one in told.history or ()]
    batch = fetcher.fetch(told.user, told.pins, told.context, past)
    best = int(ranker.score(batch).click.argmax())
    row = one_row(batch, best)
    return told.pins[best], explain(ranker, replace(row, labels={}, weights={}))


def _print(told: Explanation, user: Key | None, pin: Key) -> None:
    table = Table(title=f"pin {pin} for user {user}: p(click) {told.score:.4f}", show_edge=False)
    for column in ("", "contribution", "p(click) without", "attention"):
        table.add_column(column, justify="left" if not column else "right")
    for part in told.facets:
        name = part.name if part.present else f"{part.name} (missing)"
        table.add_row(
            name, f"{part.contribution:+.3f}", f"{part.score_without:.4f}", _share(part.looked)
        )
    for action in told.actions:
        name = f"  {action.kind} {action.pin}, {age_of(action.age_seconds)} before"
        table.add_row(name, f"{action.contribution:+.3f}", "", _share(action.looked))
    print_table(table)
    console.print(
        "A contribution is the logit of a click less that with the part hidden; attention, the "
        "mean of the heads, says what was looked at."
    )


def _share(looked: float | None) -> str:
    return "" if looked is None else f"{looked:.0%}"
