"""The command `provender dataset`: training rows of a world, or of any query, as one file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from provender.consumers.dataset_files import Frame, to_parquet
from provender.consumers.impression_sources import DatabaseQuery, Source
from provender.consumers.impressions import labelled_log, log_end, with_known_labels
from provender.consumers.ranking_task import RankingTask
from provender.consumers.time_split import split_by_time
from provender.consumers.training_stream import TrainingStream
from provender.plugin.console import log, progress
from provender.plugin.errors import ConfigError
from provender.plugin.home import Home
from provender.plugin.options import at_home
from provender.plugin.repo import open_store
from provender.plugin.world import World

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: provender dataset --home demo --service ranker_transra "
    "--to training.parquet --frame flat --backfills"
)
@at_home
@click.option("--service", required=True, help="Feature service whose features are joined.")
@click.option("--to", "target", type=_FILE, required=True, help="Parquet file to write.")
@click.option(
    "--frame",
    type=click.Choice(["flat", "vectors"]),
    default="vectors",
    show_default=True,
    help="Embeddings as lists, or each number in a column, with dot products and cosines.",
)
@click.option(
    "--part",
    type=click.Choice(["training", "held-back", "evaluation"]),
    default="training",
    show_default=True,
    help="Which of the world's impressions; they are parted by time.",
)
@click.option(
    "--impressions", type=click.Path(path_type=Path), help="Parquet file or folder, in their place."
)
@click.option("--query", help="SQL that gives the impressions: DuckDB's, or that of --url.")
@click.option("--url", help="Of a database, for SQLAlchemy; ${NAME} is from the environment.")
@click.option(
    "--negatives",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the rows without a positive to keep.  [default: the world's, in training]",
)
@click.option("--backfills", is_flag=True, help="Let vectors count that were written later.")
@click.option("--seed", default=0, show_default=True, help="Of the negatives that are kept.")
def dataset(
    home: Path,
    world_path: Path | None,
    data: Path | None,
    repo: Path | None,
    service: str,
    target: Path,
    frame: Frame,
    part: str,
    impressions: Path | None,
    query: str | None,
    url: str | None,
    negatives: float | None,
    backfills: bool,
    seed: int,
) -> None:
    """Write impressions with their labels, weights and features as of their times.

    Without --impressions and --query they are the world's own, labelled by its logs: see
    `ranking` in the world file. Those whose labels are not known yet are left out.
    """
    place = Home(home)
    store = open_store(repo or place.repo)
    given = _given(impressions, query, url)
    world = World.load(world_path or place.world) if given is None else None
    if negatives is None and world is not None and part == "training":
        negatives = RankingTask.of_world(world).negatives
    with tempfile.TemporaryDirectory(prefix="provender-dataset-") as folder, progress() as bar:
        task = bar.add_task("label impressions", total=None, note="")
        with _source(given, world, data or place.data, part, Path(folder)) as source:
            stream = TrainingStream(
                store,
                source,
                service,
                backfills=backfills,
                negatives=negatives or 1.0,
                seed=seed,
                work=Path(folder),
                rank=0,
                ranks=1,
            )
        bar.update(task, description=f"join {service}", total=len(stream.impressions))
        rows = to_parquet(stream, target, frame=frame, on_rows=lambda n: bar.advance(task, n))
    log.print(f"{rows:,} rows written to {target}")


def _given(impressions: Path | None, query: str | None, url: str | None) -> Source | None:
    """The source that the options name; None for the world's own."""
    if (impressions is not None and query is not None) or (url is not None and query is None):
        raise ConfigError(
            "provender dataset",
            found="--url without --query" if query is None else "--impressions and --query",
            expected="--impressions, or --query with or without --url, or neither",
            remedy="Leave one out.",
        )
    if query is not None and url is not None:
        return DatabaseQuery(url, query)
    return impressions or query


@contextmanager
def _source(
    given: Source | None, world: World | None, data: Path, part: str, folder: Path
) -> Iterator[Source]:
    if given is not None or world is None:
        yield given if given is not None else ""
        return
    split = split_by_time(world)
    span = {
        "training": split.training, "held-back": split.held_back, "evaluation": split.evaluation,
    }[part]  # fmt: skip
    later = part == "evaluation"
    known = log_end(world, data, folder / "log_end") if later else split.known
    with labelled_log(world, data, span, known, folder / "log") as labelled:
        if labelled.left_out:
            log.print(f"{labelled.left_out} rows without a readable id, key or time left out")
        yield (with_known_labels(table) for table in labelled.tables)
