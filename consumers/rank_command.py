"""The command `provender rank`: rankers without and with embeddings, side by side."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import click
import pyarrow as pa
from feast import FeatureStore
from rich.progress import Progress
from rich.table import Table

from provender.consumers.action_log import ActionLog
from provender.consumers.features import FeatureLayout
from provender.consumers.finetuning import correcting, correcting_tables, past_of
from provender.consumers.impressions import load_impressions, log_end, with_known_labels
from provender.consumers.metrics import Interval, TaskMetrics
from provender.consumers.ranker import RankerConfig, save_ranker
from provender.consumers.ranker_training import (
    Comparison,
    LiftReport,
    TrainingConfig,
    compare,
    evaluate_ranker,
    train_ranker,
)
from provender.consumers.ranking_task import PIN
from provender.consumers.training_join import TrainingSet, training_join
from provender.plugin.console import console, log, progress
from provender.plugin.errors import ConfigError
from provender.plugin.files import write_whole
from provender.plugin.home import Home
from provender.plugin.options import at_home
from provender.plugin.repo import open_store
from provender.plugin.world import World

WITHOUT, WITH, FINETUNED = "without", "with", "finetuned"
SERVICE = "ranker_transra"
NAMES = {"auc": "AUC", "log_loss": "log loss"}


@click.command(epilog="Example: provender rank --home demo --seeds 5 --backfills")
@at_home
@click.option("--baseline", default="ranker_baseline", show_default=True, help="Feature service.")
@click.option(
    "--service",
    default=SERVICE,
    show_default=True,
    help="Feature service with the embeddings; the first one keyed by pin_id is the candidate's.",
)
@click.option("--seeds", default=5, show_default=True, help="Rankers of each kind.")
@click.option("--epochs", default=8, show_default=True, help="Passes over the data, at most.")
@click.option(
    "--backfills",
    is_flag=True,
    help="Let vectors count that were written after an impression, as in a first run on old logs.",
)
@click.option(
    "--accept-anchored",
    is_flag=True,
    help="Let the rankers be served versions that are anchored to the one they learn from.",
)
@click.option(
    "--finetune",
    is_flag=True,
    help="Let the rankers with embeddings look at the users' past, if the world says what they "
    "did, and learn rows that correct the vectors of users and pins.",
)
@click.option(
    "--name",
    help="Of the rankers with embeddings: HOME/rankers/NAME-SEED.safetensors.  "
    f"[default: the service; of {SERVICE}: {WITH}; with --finetune: {FINETUNED}]",
)
def rank(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    baseline: str,
    service: str,
    seeds: int,
    epochs: int,
    backfills: bool,
    accept_anchored: bool,
    finetune: bool,
    name: str | None,
) -> None:
    """Train CTR and CVR rankers without and with embeddings, and judge them on later days."""
    place = Home(home)
    world = World.load(world_path or place.world)
    store = open_store(repo or place.repo)
    named = _name(name or (FINETUNED if finetune else None), service)
    layouts = {
        WITHOUT: FeatureLayout.of_service(store, baseline),
        WITH: FeatureLayout.of_service(store, service),
    }
    query = _candidate(layouts[WITH])
    with progress() as bar:
        where = (data or place.data, place.runs / "impressions")
        spans = _impressions(bar, world, *where)
        past = None
        if finetune:
            end = world.dates.evaluation()[1]
            past = past_of(store, world, *where, layouts[WITH], before=end, backfills=backfills)
        joined = {
            WITHOUT: _joined(bar, store, spans, layouts[WITHOUT], backfills, None),
            WITH: _joined(bar, store, spans, layouts[WITH], backfills, past),
        }
        configs = {
            WITHOUT: RankerConfig(),
            WITH: RankerConfig(
                query=query,
                tables=correcting(layouts[WITH]) if finetune else (),
                history=None if past is None else past.spec,
                accepts_anchored=accept_anchored,
            ),
        }
        how = TrainingConfig(epochs=epochs)
        files = {WITHOUT: place.rankers / WITHOUT, WITH: place.rankers / named}
        figures = {
            kind: _trained(bar, parts, configs[kind], how, seeds, files[kind])
            for kind, parts in joined.items()
        }
    report = compare(figures[WITHOUT], figures[WITH], *joined[WITH])
    rows = _rows(report)
    told = report.model_dump(mode="json", by_alias=True)
    told["table"] = [list(row) for row in rows]
    path = place.reports / ("lift.json" if named == WITH else f"lift-{named}.json")
    write_whole(path, json.dumps(told, indent=2).encode())
    console.print(_lift_table(rows, report))
    log.print(f"written to {path}")


def _name(name: str | None, service: str) -> str:
    """Return what the rankers with embeddings are called; the others are called WITHOUT."""
    if name == WITHOUT:
        raise ConfigError(
            "--name",
            found=repr(name),
            expected="another name than that of the rankers without embeddings",
            remedy="Leave it out, or give one of your own.",
        )
    return name or (WITH if service == SERVICE else service)


Spans = tuple[TrainingSet, TrainingSet]


def _joined(
    bar: Progress,
    store: FeatureStore,
    spans: tuple[pa.Table, pa.Table],
    layout: FeatureLayout,
    backfills: bool,
    past: ActionLog | None,
) -> Spans:
    """Join the training and the evaluation impressions with a service's features."""
    task = bar.add_task(f"join {layout.service}", total=2, note="")
    training = training_join(store, spans[0], layout, backfills=backfills, actions=past)
    bar.advance(task)
    evaluation = training_join(store, spans[1], layout, backfills=backfills, actions=past)
    bar.advance(task)
    return training, evaluation


def _trained(
    bar: Progress,
    parts: Spans,
    config: RankerConfig,
    how: TrainingConfig,
    seeds: int,
    file: Path,
) -> list[dict[str, TaskMetrics]]:
    """Train, keep and judge a ranker for each seed; its file is `file` with the seed behind."""
    training, evaluation = parts
    task = bar.add_task(f"train {file.name}", total=seeds, note="")
    figures = []
    for seed in range(seeds):
        tables = correcting_tables(training) if config.tables else None
        trained = train_ranker(training, config, how, seed=seed, tables=tables)
        figures.append(evaluate_ranker(trained.ranker, evaluation))
        save_ranker(file.with_name(f"{file.name}-{seed}.safetensors"), trained.ranker)
        bar.update(task, advance=1, note=f"{trained.epochs} passes")
    return figures


def _candidate(layout: FeatureLayout) -> str:
    """Return the view whose vector asks in the attention head: the pin's."""
    for spec in layout.embeddings:
        if spec.join_key == PIN:
            return spec.view_name
    raise ConfigError(
        f"feature service {layout.service}",
        found="no embedding view keyed by pin_id",
        expected="the candidate's embedding among its views",
        remedy="Add one to the service, or name another service with --service.",
    )


def _impressions(bar: Progress, world: World, data: Path, work: Path) -> tuple[pa.Table, pa.Table]:
    """Return the impressions between the refreshes, and those after the last one."""
    first = world.dates.as_ofs()[0]
    last, end = world.dates.evaluation()
    task = bar.add_task("label impressions", total=2, note="")
    # What happened after the last refresh is not known to who trains on it.
    training = load_impressions(world, data, first, last, last, work)
    bar.advance(task)
    # The log may end before all that follows the last impressions has come.
    known = log_end(world, data, work)
    evaluation = load_impressions(world, data, last, end, known, work)
    bar.advance(task)
    return with_known_labels(training), with_known_labels(evaluation)


def _rows(report: LiftReport) -> list[tuple[str, str, str, str]]:
    """Return a row a figure: name, mean without, mean with, difference with its interval."""
    return [
        (f"{task} {NAMES[figure]}", *_row(comparison))
        for task, figures in report.tasks.items()
        for figure, comparison in figures.items()
    ]


def _row(comparison: Comparison) -> tuple[str, str, str]:
    if comparison.difference is None:
        return "–", "–", comparison.reason or "undefined"
    sides = [
        f"{statistics.fmean(value for value in side if value is not None):.4f}"
        for side in (comparison.without, comparison.with_)
    ]
    return sides[0], sides[1], _interval(comparison.difference)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.4f}"
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def _lift_table(rows: list[tuple[str, str, str, str]], report: LiftReport) -> Table:
    table = Table(
        title=f"rankers on {report.rows['evaluation']:,} later impressions "
        f"({report.positives['click']:,} clicks)",
        show_edge=False,
    )
    for column in ("", "without", "with embeddings", "difference (95% interval)"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        table.add_row(*row)
    return table
