"""The command `provender study`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table

from provender.consumers.ranker_training import TrainingConfig
from provender.consumers.study.data import StudyData, study_data
from provender.consumers.study.figures import ALL, Study, answers_of, means_of
from provender.consumers.study.pieces import Piece, pieces
from provender.consumers.study.report import write_report
from provender.consumers.study.tables import difference
from provender.consumers.study.variants import Variant, questions, variants_of
from provender.plugin.console import log, print_table, progress
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.options import at_home
from provender.plugin.repo import open_store
from provender.plugin.world import World

#: What is done before the first piece: reading the past, labels and joins of both spans.
_PREPARING = 5
#: Passes without progress before a training stops.
_PATIENCE = 2


@click.command(epilog="Example: provender study --home demo --seeds 5 --backfills")
@at_home
@click.option(
    "--service",
    default="ranker_baseline",
    show_default=True,
    help="Feature service of the ordinary features, which every ranker has.",
)
@click.option(
    "--family",
    "families",
    multiple=True,
    help="Whose vectors are looked at; may be given again.  [default: all that have any]",
)
@click.option(
    "--variant",
    "names",
    multiple=True,
    help="Only these rankers, by their names in the table; may be given again.  [default: all]",
)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Of each kind.")
@click.option("--epochs", default=12, show_default=True, help="Passes over the data, at most.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Impressions a step.  [default: for 64 steps a pass, within 256 and 2,048]",
)
@click.option(
    "--backfills",
    is_flag=True,
    help="Let vectors count that were written after an impression, as in a first run on old logs.",
)
def study(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    service: str,
    families: tuple[str, ...],
    names: tuple[str, ...],
    seeds: int,
    epochs: int,
    batch_size: int | None,
    backfills: bool,
) -> None:
    """Compare ways to use embeddings in a ranker, on later days: HOME/reports/study.

    The same ranker learns the same impressions without embeddings, with frozen ones, with learned
    rows of users and pins that begin as nothing or as a snapshot, and with attention finetuning
    over all of it. Each trained ranker is kept as a piece: a study that was stopped goes on.
    """
    place = Home(home)
    world = World.load(world_path or place.world)
    with progress() as bar:
        preparing = bar.add_task("prepare", total=_PREPARING, note="")

        def tell(what: str) -> None:
            bar.update(preparing, advance=1, note=what)

        found = study_data(
            open_store(repo or place.repo),
            world,
            data or place.data,
            place.runs / "study",
            service=service,
            families=families,
            backfills=backfills,
            tell=tell,
        )
        bar.update(preparing, completed=_PREPARING, note="")
        chosen = _chosen(variants_of(found.families, history=found.has_history), names)
        training = bar.add_task("train", total=len(chosen) * seeds, note="")

        def on_piece(done: int, total: int, name: str) -> None:
            bar.update(training, completed=done, total=total, note=name)

        made = list(
            pieces(
                found,
                chosen,
                TrainingConfig(
                    epochs=epochs,
                    patience=_PATIENCE,
                    batch_size=batch_size or _batch_size(len(found.training)),
                ),
                range(seeds),
                place.reports / "study" / "pieces",
                on_piece,
            )
        )
    told = _study(home.resolve().name, found, chosen, made, range(seeds))
    page = write_report(place.reports / "study", told, questions(chosen))
    print_table(_variants(told))
    print_table(_answers(told, chosen))
    log.print(f"written to {page}")


def _batch_size(rows: int) -> int:
    """A power of two: few rows want small steps, or a pass is over before anything is learned."""
    return min(2048, max(256, 1 << max(rows // 64, 1).bit_length() - 1))


def _chosen(variants: Sequence[Variant], names: Sequence[str]) -> list[Variant]:
    known = {one.name: one for one in variants}
    for name in names:
        if name not in known:
            raise ConfigError(
                "--variant",
                found=repr(name),
                expected=f"one of: {'; '.join(known)}",
                remedy="Correct the name, or leave it out to have them all.",
            )
    return [one for one in variants if not names or one.name in names]


def _study(
    name: str, data: StudyData, variants: Sequence[Variant], made: list[Piece], seeds: Sequence[int]
) -> Study:
    first, _ = data.training.window()
    start, end = data.evaluation.window()
    counts = made[0].figures
    epochs = {one.name: [p.epochs for p in made if p.variant == one.name] for one in variants}
    return Study(
        world=name,
        seeds=list(seeds),
        training_rows=len(data.training),
        window=(f"{first:%Y-%m-%d}", f"{start:%Y-%m-%d}", f"{end:%Y-%m-%d}"),
        rows={part: {t: m.rows for t, m in tasks.items()} for part, tasks in counts.items()},
        positives={
            part: {t: m.positives for t, m in tasks.items()} for part, tasks in counts.items()
        },
        coverage=data.evaluation.coverage(),
        means=means_of(made),
        answers=answers_of(made, questions(variants)),
        epochs={name: sum(passes) / len(passes) for name, passes in epochs.items()},
    )


def _variants(study: Study) -> Table:
    table = Table(
        title=f"rankers on {study.rows[ALL]['click']:,} later impressions "
        f"({study.positives[ALL]['click']:,} clicks), means of {len(study.seeds)}",
        show_edge=False,
    )
    table.add_column("")
    for task in study.tasks:
        for column in (f"{task} AUC", "log loss", "calibration"):
            table.add_column(column, justify="right")
    for variant, segments in study.means.items():
        cells = []
        for task in study.tasks:
            one = segments[ALL][task]
            for figure, digits in (("auc", 4), ("log_loss", 4), ("calibration", 2)):
                mean = one[figure]
                cells.append("–" if mean is None else f"{mean.mean:.{digits}f}")
        table.add_row(variant, *cells)
    return table


def _answers(study: Study, variants: Sequence[Variant]) -> Table:
    table = Table(title="differences in AUC (95% interval)", show_edge=False)
    table.add_column("better")
    table.add_column("than")
    for task in study.tasks:
        table.add_column(task, justify="right")
    for question in questions(variants):
        found = [study.answer(question, task, "auc") for task in study.tasks]
        cells = ["–" if one is None else difference(one.difference) for one in found]
        table.add_row(question.better, question.than, *cells)
    return table
