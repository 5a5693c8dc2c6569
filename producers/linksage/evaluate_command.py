"""`provender evaluate linksage`: learn a page set from files, and find pairs that were set aside.

provender evaluate linksage --pages pages.jsonl --pins pins.csv --pairs pairs.csv --report out.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import click
from rich.table import Table

from provender.plugin.checked_yaml import load_yaml
from provender.plugin.console import console, log
from provender.plugin.files import STAGING, remove_empty, whole_folder, write_whole
from provender.plugin.options import FOLDER
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.declarations import PageSources
from provender.producers.linksage.dropped_rows import dropped_rows, unreadable_images
from provender.producers.linksage.outcome_files import click_features, read_outcomes
from provender.producers.linksage.page_clicks import Verdict, differing, judge_clicks
from provender.producers.linksage.page_embedding import pins_with_vectors
from provender.producers.linksage.page_evaluation import (
    GROUPS,
    Embeddings,
    PageTask,
    baselines,
    check_groups,
    compared,
    judged,
    learn,
    prepare,
)
from provender.producers.linksage.page_files import declare_files
from provender.producers.linksage.quality import Quality
from provender.producers.linksage.quality_report import write_report
from provender.producers.linksage.top_pins import top_pins
from provender.producers.stages import stages
from provender.producers.vectors import Vectors, save_vectors
from provender.producers.work_folder import check_new, held

_FILE = click.Path(dir_okay=False, path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])
_TABLES = ("pages", "pins", "pairs", "boards", "test")


def _file(name: str, help_text: str, *, required: bool = False) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=_FILE, required=required, help=help_text)


@click.command(
    epilog="Example: provender evaluate linksage --pages pages.jsonl --pins pins.jsonl "
    "--pairs pairs.csv --report report.json --html report"
)
@_file("pages", "Pages: a key, text, perhaps url, images or vectors.", required=True)
@_file("pins", "Pins: a key, text, images or vectors, perhaps target.", required=True)
@_file("pairs", "Which pin leads to which page: pin, page, perhaps cohesion.", required=True)
@_file("boards", "Which pin is on which board: board, pin.")
@_file("test", "Pairs to find, instead of some that are held out.")
@_file("outcomes", "How pins fared: pin, page, shown, clicked, time; who is clicked more?")
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Without --test, the share of the pairs to find.",
)
@click.option(
    "--data", type=FOLDER, help="What image files are relative to.  [default: the folder of --pins]"
)
@click.option("--config", "config_path", type=_FILE, help="YAML of settings, and of column names.")
@click.option(
    "--without",
    "groups",
    type=click.Choice(GROUPS),
    multiple=True,
    help="Train again without it, to see what it is worth; may be given several times.",
)
@click.option("--report", "report_path", type=_FILE, help="Where to write all figures, as JSON.")
@click.option("--html", type=FOLDER, help="Folder for the report as a page, with its pictures.")
@click.option("--save", type=FOLDER, help="Folder for the vectors by key, as Parquet.")
@click.option("--work", type=FOLDER, help="Folder in which a run that was stopped finds its place.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the config's.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the config's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def linksage(
    outcomes: Path | None,
    hold_out: float,
    data: Path | None,
    config_path: Path | None,
    groups: tuple[str, ...],
    report_path: Path | None,
    html: Path | None,
    save: Path | None,
    work: Path | None,
    epochs: int | None,
    seed: int | None,
    device: str,
    **given: Path | None,
) -> None:
    """Learn pages and pins, and find the pairs that were set aside.

    Files are Parquet, CSV, TSV or JSON lines; columns go by their names, or by the sections pages,
    pins, pairs, boards and test of --config. Pairs of the test are no edges of the graph, are not
    learned from, and each is ranked among all pins but those that its page is known to have.
    """
    files = {name: path for name in _TABLES if (path := given[name]) is not None}
    images = data or files["pins"].absolute().parent
    where = str(config_path or "settings")
    content = load_yaml(config_path) if config_path else {}
    config = _config(content, where, {"epochs": epochs, "seed": seed})
    declared = declare_files(files, content, where, hold_out=hold_out, seed=config.training.seed)
    if save is not None:
        check_new("--save", save)
    with (
        TemporaryDirectory() as scratch,
        held(work or Path(scratch), "linksage") as place,
        stages("linksage") as on_stage,
    ):
        task = prepare(declared, images, config, place, on_stage)
        for line in (*dropped_rows(task.rows.report), *unreadable_images(task.features.report)):
            log.print(line, style="yellow")
        config = config.following(_length(task), where)
        check_groups(task, groups)
        fared = read_outcomes(outcomes, task) if outcomes is not None else None
        if fared is not None:
            differing(fared)  # what can't be judged is said before anything is trained
        made = learn(task, config, place / "model", device, on_stage)
        rankings = baselines(task) | compared(task, config, groups, place, device, on_stage)
        on_stage("judge", 0, 1, "")
        quality = judged(task, made, config, rankings)
        on_stage("judge", 1, 1, "")
        clicks: dict[str, Verdict] = {}
        if fared is not None:
            clicks = judge_clicks(fared, click_features(task, made, fared), config.training.seed)
        if html is not None:
            shown = top_pins(task.rows, made.pages, made.pins, task.test, task.known)
            page = write_report(html, quality, title="LinkSage", pictures=shown, data=images)
            log.print(f"written to {page}")
    if save is not None:
        _save(save, task, made)
    console.print(_table(quality))
    if clicks:
        console.print(_clicks(clicks))
    if report_path is not None:
        write_whole(
            report_path, json.dumps(_told(quality, config, clicks, task), indent=2).encode()
        )
        log.print(f"written to {report_path}")


def _config(content: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> LinkSageConfig:
    sections = {k: v for k, v in content.items() if k not in {*PageSources.model_fields, "test"}}
    config = LinkSageConfig.parse(sections, where)
    changed = {name: value for name, value in given.items() if value is not None}
    training = config.training.model_copy(update=changed)
    return config.model_copy(update={"training": training})


def _length(task: PageTask) -> int | None:
    """Of the pins' given vectors."""
    targets = task.features.targets
    return None if targets is None else targets.shape[1]


def _told(
    quality: Quality, config: LinkSageConfig, clicks: Mapping[str, Verdict], task: PageTask
) -> dict[str, Any]:
    told = {name: asdict(one) for name, one in clicks.items()}
    return {
        **quality.to_json(),
        "clicks": told,
        "rows": task.rows.report,
        "features": task.features.report,
        "config": config.model_dump(mode="json"),
    }


def _save(folder: Path, task: PageTask, made: Embeddings) -> None:
    """Write the vectors of pages and pins, whole or not at all."""
    vectors = {
        "page": Vectors(task.features.pages.keys, made.pages),
        "pin": pins_with_vectors(task.features, made.pins),
    }
    with whole_folder(folder.parent, folder) as staged:
        save_vectors(staged, vectors)
    remove_empty(folder.parent / STAGING)
    log.print(f"written to {folder}")


def _clicks(clicks: Mapping[str, Verdict]) -> Table:
    (pairs,) = {one.pairs for one in clicks.values()}
    title = f"which of two pins of a page is clicked more: {pairs:,} pairs that differ, later on"
    table = Table("by", "ranked right", "95 %", "more", "95 %", title=title, show_edge=False)
    for name, one in clicks.items():
        spans = [f"{low:.4f} to {high:.4f}" for low, high in (one.interval, one.margin_interval)]
        table.add_row(name, f"{one.accuracy:.4f}", spans[0], f"{one.margin:+.4f}", spans[1])
    return table


def _table(quality: Quality) -> Table:
    title = f"{quality.pairs:,} pairs, each pin among {quality.candidates:,}"
    table = Table("", *(f"recall@{k}" for k in quality.ks), title=title, show_edge=False)
    for dim in reversed(quality.dims):
        table.add_row(f"LinkSage, {dim} dims", *(f"{r:.4f}" for r in quality.recall[dim].values()))
    for name, by_k in quality.baselines.items():
        table.add_row(name, *(f"{recall:.4f}" for recall in by_k.values()))
    return table
