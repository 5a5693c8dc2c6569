"""`provender evaluate upstream`: learn towers up to a time, and judge them by what follows.

provender evaluate upstream --events events.csv.gz --report report.json --html report
provender evaluate upstream --home demo
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.table import Table

from provender.plugin.checked_yaml import load_yaml
from provender.plugin.console import console, log
from provender.plugin.errors import ConfigError
from provender.plugin.files import STAGING, remove_empty, whole_folder, write_whole
from provender.plugin.home import Home
from provender.plugin.options import FOLDER, UtcTime, at_home
from provender.plugin.repo import views_in_repo
from provender.plugin.world import World
from provender.producers.stages import stages
from provender.producers.training_log import read_metrics
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.event_files import declare_events
from provender.producers.upstream.quality_report import write_report
from provender.producers.upstream.task_figures import TaskFigures
from provender.producers.upstream.tower_evaluation import TowerTask, judge, judge_alone, learn
from provender.producers.upstream.tower_job import TowerJob, split
from provender.producers.upstream.tower_quality import TowerQuality
from provender.producers.vectors import save_vectors
from provender.producers.work_folder import check_new, held

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: provender evaluate upstream --events events.csv.gz --report report.json"
)
@at_home
@click.option("--family", help="Whose views.  [default: the only one of upstream towers]")
@click.option("--version", type=int, help="Of its views.  [default: the newest]")
@click.option(
    "--events",
    type=click.Path(path_type=Path),
    help="Instead of a home: a file of events with user, item, time and behaviour, or a folder.",
)
@click.option(
    "--config",
    "config_path",
    type=_FILE,
    help="With --events: YAML of a section `upstream`, and of `columns`.",
)
@click.option(
    "--negatives",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="With --events: drawn beside each event.",
)
@click.option(
    "--learned-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="With --events and no --cut: so much of the events lies before the cut.",
)
@click.option(
    "--cut",
    type=UtcTime(),
    help="Learn from what lies before.  [default: the world's first as-of date]",
)
@click.option(
    "--end",
    type=UtcTime(),
    help="Judge by what lies before.  [default: the world's last day of evaluation]",
)
@click.option(
    "--alone",
    "names",
    multiple=True,
    help="Train towers of this source or task alone, too; may be given several times.",
)
@click.option("--report", "report_path", type=_FILE, help="Where to write all figures, as JSON.")
@click.option("--html", type=FOLDER, help="Folder for the report as a page, with its pictures.")
@click.option("--save", type=FOLDER, help="Folder for the vectors by key, as Parquet.")
@click.option("--work", type=FOLDER, help="Folder in which a run that was stopped finds its place.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the config's.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the config's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def upstream(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    family: str | None,
    version: int | None,
    events: Path | None,
    config_path: Path | None,
    negatives: int,
    learned_share: float,
    cut: datetime | None,
    end: datetime | None,
    names: tuple[str, ...],
    report_path: Path | None,
    html: Path | None,
    save: Path | None,
    work: Path | None,
    epochs: int | None,
    seed: int | None,
    device: str,
) -> None:
    """Learn upstream towers up to a time, and judge them by what follows.

    Each task's figures are those of all three towers, of the vectors alone with what is known at
    each row's time, of the vectors as of the cut, and of popularity. Recall is of the pins that
    users like later, each among all pins but those that the user is known to like.
    """
    with TemporaryDirectory() as scratch, held(work or Path(scratch), "upstream") as place:
        if events is not None:
            given = _of_events(events, config_path, negatives, learned_share, cut, end, place)
        else:
            if config_path is not None:
                raise click.UsageError("--config goes with --events; a home has its world file")
            given = _of_home(home, world_path, data, repo, family, version, cut, end, place)
        config = _changed(given.config, {"epochs": epochs, "seed": seed})
        task = given.task
        narrowed = {name: task.alone(name) for name in names}
        if save is not None:
            check_new("--save", save)
        with stages("upstream") as on_stage:
            learned = learn(task, config, device, on_stage)
            quality = judge(task, learned, config, device, on_stage)
            for name, one in narrowed.items():
                found = judge_alone(one, config, device, on_stage)
                quality = quality.beside({f"{name} alone": found})
        if html is not None:
            page = write_report(
                html, quality, title="Upstream towers", curve=read_metrics(learned.log)
            )
            log.print(f"written to {page}")
        if save is not None:
            with whole_folder(save.parent, save) as staged:
                save_vectors(staged, learned.vectors)
            remove_empty(save.parent / STAGING)
            log.print(f"written to {save}")
    console.print(_table(quality))
    console.print(_recall(quality))
    if report_path is not None:
        told = {**quality.to_json(), "config": config.model_dump(mode="json")}
        write_whole(report_path, json.dumps(told, indent=2).encode())
        log.print(f"written to {report_path}")


@dataclass(frozen=True)
class _Given:
    task: TowerTask
    config: UpstreamConfig


def _of_events(
    path: Path,
    config_path: Path | None,
    negatives: int,
    share: float,
    cut: datetime | None,
    end: datetime | None,
    work: Path,
) -> _Given:
    content = load_yaml(config_path) if config_path else {}
    where = str(config_path or path)
    found = declare_events(path, content, where, negatives=negatives, learned_share=share)
    sources, settings = split(found.world.upstream, found.world, where)
    config = UpstreamConfig.parse(settings, where)
    span = _checked(cut or found.cut, end or found.end)
    return _Given(TowerTask(found.world, Path.cwd(), sources, None, *span, work), config)


def _of_home(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    family: str | None,
    version: int | None,
    cut: datetime | None,
    end: datetime | None,
    work: Path,
) -> _Given:
    place = Home(home)
    world = World.load(world_path or place.world)
    chosen = repo or place.repo
    job = TowerJob.declare(
        world, data or place.data, place, views_in_repo(chosen), family=family, version=version
    )
    span = _checked(cut or world.dates.as_ofs()[0], end or world.dates.evaluation()[1])
    return _Given(TowerTask(world, job.data, job.sources, chosen, *span, work), job.config)


def _checked(cut: datetime, end: datetime) -> tuple[datetime, datetime]:
    if cut >= end:
        raise ConfigError(
            "--cut and --end",
            found=f"{cut:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M}",
            expected="a cut before the end: what lies between is judged",
            remedy="Give other times.",
        )
    return cut, end


def _changed(config: UpstreamConfig, given: Mapping[str, Any]) -> UpstreamConfig:
    changed = {name: value for name, value in given.items() if value is not None}
    training = config.training.model_copy(update=changed)
    return config.model_copy(update={"training": training})


def _table(quality: TowerQuality) -> Table:
    title = "labels that became known after the cut"
    columns = ("task", "rows", "positives", "by", "AUC", "log loss", "expected / observed")
    table = Table(*columns, title=title, show_edge=False)
    for task, by in quality.tasks.items():
        for place, (who, one) in enumerate(by.items()):
            first = (task, f"{one.rows:,}", f"{one.positives:,}") if not place else ("", "", "")
            table.add_row(*first, who, *_cells(one))
    return table


def _cells(one: TaskFigures) -> tuple[str, ...]:
    values = (one.auc, one.log_loss, one.calibration)
    return tuple("-" if value is None else f"{value:.4f}" for value in values)


def _recall(quality: TowerQuality) -> Table:
    title = f"{quality.pairs:,} pairs, each pin among {quality.candidates:,}"
    ks = next(iter(quality.recall.values()), {})
    table = Table("pins by", *(f"recall@{k}" for k in ks), title=title, show_edge=False)
    for who, by_k in quality.recall.items():
        table.add_row(who, *(f"{value:.4f}" for value in by_k.values()))
    return table
