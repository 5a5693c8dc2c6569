"""A seeded ads world written as Parquet, whose hidden truth is known, at any size.

    provender simulate --users 3000 --pins 3000 --days 14 --seed 7 --out world

Day after day and, within a day, block of users after block of users, so that memory holds the
entities, one block and one row group a file, whatever the number of days. The random numbers of a
block are keyed by (seed, day, block): the files of a day are the same bytes however many days
follow. Within a file, rows are in order of block and user, not of time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from provender.plugin.errors import SimulationError
from provender.plugin.files import STAGING, whole_folder
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.simulator_day_files import DayFiles, EntityFiles
from provender.producers.simulator_days import (
    Baseline,
    Market,
    serve,
    sigmoid,
    simulate_block,
)
from provender.producers.simulator_files import (
    CONVERSIONS,
    DAY_US,
    ENGAGEMENTS,
    ENTITY_TABLES,
    RowGroupFile,
)
from provender.producers.simulator_streams import Stream, generator
from provender.producers.simulator_topics import Doubles
from provender.producers.simulator_users import USER_BLOCK
from provender.producers.simulator_world import AdsWorld

SIMULATION = "simulation.json"
FORMAT = 1
"""Moves whenever the same config gives other bytes."""
PAST_US = 60 * DAY_US
"""The first cohort came within this time before the start."""
ARRIVALS_US = DAY_US // 20 * 19
"""New entities come in this first part of a day, so that new users still see something."""

Progress = Callable[[int, int], None]


class WrittenFile(BaseModel):
    """A file of the world: its path in the folder, its rows and its size."""

    model_config = ConfigDict(frozen=True)
    name: str
    rows: int
    bytes: int


class SimulationReport(BaseModel):
    """What was simulated: also the content of simulation.json.

    `counts`: rows of each table and of each kind of event ("click", "organic page_visit", ...).
    `rates`: click_rate, conversion_rate (events that clicks caused, landed within the days),
    long_click_rate, save_rate and hide_rate, all per impression.
    """

    model_config = ConfigDict(frozen=True)
    format: int
    config: SimulatorConfig
    counts: dict[str, int]
    rates: dict[str, float]
    files: tuple[WrittenFile, ...]


def simulate(
    config: SimulatorConfig, out: Path, on_progress: Progress | None = None
) -> SimulationReport:
    """Simulate the world of `config` into the folder `out`, which is whole or not there at all.

    Writes `out`/events, `out`/truth and `out`/simulation.json (columns: `simulator_files.SCHEMAS`).
    Where `out` already holds this very simulation, returns its report at once. `on_progress` is
    told (blocks done, blocks in all).

    Raises:
        SimulationError: `out` holds something else, or cannot be written.
    """
    out = Path(out).absolute()
    done = _find_finished(config, out)
    if done:
        return done
    try:
        with _staged(out) as folder:
            return _simulate_into(config, folder, on_progress or (lambda done, total: None))
    except FileExistsError as error:
        raise SimulationError(
            f"simulation folder {out}",
            found="files that appeared in the meantime",
            expected="a folder that is absent or empty",
            remedy="Give another folder, or run it again if the other writer has finished.",
        ) from error
    except MemoryError as error:
        raise SimulationError(
            "simulator",
            found=f"too little memory for {config.users:,} users and {config.pins:,} pins",
            expected=f"about {config.topics * 4} bytes a user and 60 a pin, all days together",
            remedy="Ask for fewer users and more impressions_per_user, or for fewer topics.",
        ) from error
    except OSError as error:
        raise SimulationError(
            f"simulation folder {out}",
            found=str(error.strerror or error),
            expected="a place that can be written, with room enough",
            remedy="Give another folder, or make room.",
        ) from error


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    try:
        with whole_folder(out.parent, out) as folder:
            yield folder
    finally:
        with suppress(OSError):  # another simulation beside this one still uses it
            (out.parent / STAGING).rmdir()


def _find_finished(config: SimulatorConfig, out: Path) -> SimulationReport | None:
    """The report of this simulation if `out` holds it; None if `out` is free."""
    thing = f"simulation folder {out}"
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise SimulationError(
            thing, found="a file", expected="a folder", remedy="Give another folder."
        )
    if not any(out.iterdir()):
        return None
    remedy = f"Give another folder, or remove it first: rm -r {out}"
    try:
        report = SimulationReport.model_validate_json((out / SIMULATION).read_bytes())
    except (OSError, ValidationError) as error:
        raise SimulationError(
            thing, found="other files", expected="nothing, or this simulation", remedy=remedy
        ) from error
    if report.config != config or report.format != FORMAT:
        found = _difference(report, config)
        raise SimulationError(
            thing, found=found, expected="nothing, or this very simulation", remedy=remedy
        )
    for file in report.files:
        path = out / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise SimulationError(
                thing,
                found=f"{file.name} missing or of another size",
                expected=f"the {file.bytes} bytes that were simulated",
                remedy=f"Remove the folder and simulate it again: rm -r {out}",
            )
    return report


def _difference(report: SimulationReport, config: SimulatorConfig) -> str:
    old, new = report.config.model_dump(mode="json"), config.model_dump(mode="json")
    differing = [f"{name}={old[name]} (not {new[name]})" for name in new if old[name] != new[name]]
    return "another simulation: " + (", ".join(differing) or f"format {report.format}")


def _simulate_into(
    config: SimulatorConfig, folder: Path, on_progress: Progress
) -> SimulationReport:
    world = AdsWorld(config)
    entities = EntityFiles(folder, config)
    days = DayFiles(folder, config, _midnight(config.start, 0))
    entities.add([("advertisers", world.advertisers())])
    start = _midnight(config.start, 0)
    entities.add(world.grow(0, start - PAST_US, start))
    baseline = _calibrate(world, _open_market(world, 0))
    blocks = [_blocks_on(config, day) for day in range(config.days)]
    for day in range(config.days):
        if day:
            world.users.drift(day)
        # What arrives today is on the market tomorrow; new users look around at once.
        market = _open_market(world, day)
        entities.add(world.grow(day + 1, market.midnight, market.midnight + ARRIVALS_US))
        days.open(day)
        for block in range(world.users.blocks):
            rows = world.users.block(block)
            days.add(simulate_block(world, market, block, baseline), rows)
            on_progress(sum(blocks[:day]) + block + 1, sum(blocks))
        days.close()
    written = entities.close() + days.finished
    return _report(config, folder, written, days.counts)


def _midnight(start: date, day: int) -> int:
    """The beginning of a day, in microseconds since 1970."""
    return int(np.datetime64(start + timedelta(days=day), "us").astype(np.int64))


def _blocks_on(config: SimulatorConfig, day: int) -> int:
    return -(-config.size(config.users, config.user_growth, day + 1) // USER_BLOCK)


def _open_market(world: AdsWorld, day: int) -> Market:
    midnight = _midnight(world.config.start, day)
    return Market(day, midnight, world.pin_index(), world.item_index(), world.pins, world.items)


def _calibrate(world: AdsWorld, market: Market) -> Baseline:
    """Solve for the log-odds that give the asked-for rates on a trial day of the first block."""
    config, rows = world.config, world.users.block(0)
    rng = generator(config.seed, Stream.PILOT)
    trial = serve(world, market, rows, world.users.interests(rows), rng)
    weight = np.ones(len(trial.user))
    click = _solve(trial.click_odds, weight, config.click_rate)
    clicks = sigmoid(trial.click_odds + click)
    conversion = _solve(trial.conversion_odds, clicks, config.conversion_rate / config.click_rate)
    return Baseline(click, conversion)


def _solve(odds: Doubles, weight: Doubles, rate: float) -> float:
    """The baseline at which the weighted mean of sigmoid(odds + baseline) is `rate`."""
    low, high = -60.0, 60.0
    if not len(odds):  # a trial day without an impression, in a tiny world
        return float(np.log(max(rate, 1e-26) / (1 - rate)))
    for _ in range(60):
        middle = (low + high) / 2
        above = np.average(sigmoid(odds + middle), weights=weight) > rate
        low, high = (low, middle) if above else (middle, high)
    return low


def _report(
    config: SimulatorConfig, folder: Path, written: list[RowGroupFile], counts: Counter[str]
) -> SimulationReport:
    files = [
        WrittenFile(
            name=file.path.relative_to(folder).as_posix(),
            rows=file.rows,
            bytes=file.path.stat().st_size,
        )
        for file in written
    ]
    entities = {file.path.stem: file.rows for file in written if file.path.stem in ENTITY_TABLES}
    report = SimulationReport(
        format=FORMAT,
        config=config,
        counts=dict(sorted({**counts, **entities}.items())),
        rates=_rates(counts),
        files=tuple(sorted(files, key=lambda file: file.name)),
    )
    text = json.dumps(report.model_dump(mode="json"), indent=1)
    (folder / SIMULATION).write_text(text + "\n", encoding="utf-8")
    return report


def _rates(counts: Counter[str]) -> dict[str, float]:
    """Per impression; of the conversions, those that impressions led to."""
    impressions = max(counts["impressions"], 1)
    caused = sum(counts[kind] for kind in CONVERSIONS)
    engaged = {f"{kind}_rate": counts[kind] / impressions for kind in ENGAGEMENTS}
    return {**engaged, "conversion_rate": caused / impressions}
