"""`provender evaluate kg`: learn a knowledge graph or interactions, and predict held-out links.

provender evaluate kg --train train.tsv --valid valid.tsv --test test.tsv --report report.json
provender evaluate kg --train clicks.tsv --test later.tsv --relation click
"""

from __future__ import annotations

from pathlib import Path

import click

from provender.plugin.console import log, print_table
from provender.plugin.options import FOLDER
from provender.producers.devices import pick_device
from provender.producers.followers import over_ranks
from provender.producers.kg_data import LinkSets, read_link_sets
from provender.producers.kg_defaults import PATIENCE, VALIDATE_EVERY
from provender.producers.kg_evaluation import KS, configure, evaluate_links
from provender.producers.kg_report import head_table, link_table, write_report
from provender.producers.kg_saving import check_free, save_embeddings
from provender.producers.scores import SCORES

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: provender evaluate kg --train train.tsv --valid valid.tsv --test test.tsv "
    "--model transra --report report.json"
)
@click.option("--train", "train_path", type=_FILE, required=True, help="Links to learn from.")
@click.option(
    "--valid",
    "valid_path",
    type=_FILE,
    help="Links by which training is judged, and stopped early.  [default: train to the end]",
)
@click.option("--test", "test_path", type=_FILE, required=True, help="Links to predict.")
@click.option(
    "--model",
    type=click.Choice(list(SCORES)),
    help="The score function.  [default: that of --config, else transra]",
)
@click.option(
    "--config",
    "config_path",
    type=_FILE,
    help="YAML of training's settings (dim, epochs, ...).  [default: by the model and the graph]",
)
@click.option(
    "--relation",
    help="Rank the tails of this relation for each head, by Recall@k and NDCG@k; in files of two "
    "columns it is the name of all links.",
)
@click.option(
    "--k", "ks", type=click.IntRange(min=1), multiple=True, help="Of Recall@k.  [default: 10 20 50]"
)
@click.option(
    "--one-type/--two-types",
    default=None,
    help="Whether a head and a tail of one name are one entity.  "
    "[default: so with three columns, not so with two]",
)
@click.option("--report", "report_path", type=_FILE, help="Where to write all figures, as JSON.")
@click.option("--save", type=FOLDER, help="Folder for vectors by name, and for the relations.")
@click.option(
    "--checkpoints", type=FOLDER, help="Folder in which a run that was stopped finds its place."
)
@click.option(
    "--log",
    "log_folder",
    type=FOLDER,
    help="Folder for what training tells of itself: metrics.jsonl, TensorBoard's, curves.png.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="At most; instead of the config's.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the config's.")
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    default=VALIDATE_EVERY,
    show_default=True,
    help="Judge by --valid after so many epochs ...",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=PATIENCE,
    show_default=True,
    help="... and stop after so many judgements that are no better.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@over_ranks
def kg(
    train_path: Path,
    valid_path: Path | None,
    test_path: Path,
    model: str | None,
    config_path: Path | None,
    relation: str | None,
    ks: tuple[int, ...],
    one_type: bool | None,
    report_path: Path | None,
    save: Path | None,
    checkpoints: Path | None,
    log_folder: Path | None,
    epochs: int | None,
    seed: int | None,
    validate_every: int,
    patience: int,
    device: str,
) -> None:
    """Predict held-out links of a knowledge graph, or of users and items.

    Files hold head, relation and tail by name, tab separated (.csv, .parquet and .gz too), or head
    and tail alone. Ranks are filtered by all links of all files and ties are judged by expectation.
    What training has never seen is ranked last.
    """
    if save is not None:
        check_free(save)
    place = pick_device(device)
    sets = read_link_sets(train_path, valid_path, test_path, relation=relation, one_type=one_type)
    _tell_headers(sets)
    _tell_unseen(sets)
    given = {"epochs": epochs, "seed": seed}
    config = configure(sets, model, config_path, {k: v for k, v in given.items() if v is not None})
    done = evaluate_links(
        sets,
        config,
        ks=sorted(set(ks)) or KS,
        device=str(place),
        checkpoints=checkpoints,
        every=validate_every,
        patience=patience,
        log=log_folder,
    )
    if save is not None:
        save_embeddings(save, done.parameters, done.graph)
        log.print(f"vectors and relations are in {save}")
    if report_path is not None:
        files = {"train": train_path, "valid": valid_path, "test": test_path}
        told = {name: str(path) for name, path in files.items() if path is not None}
        write_report(report_path, {**done.report, "files": told})
        log.print(f"written to {report_path}")
    print_table(link_table(done.report))
    if "per_head" in done.report:
        print_table(head_table(done.report))


def _tell_headers(sets: LinkSets) -> None:
    """Say so if every file begins with the same link: no split of links would."""
    firsts = {(int(e.head[0]), int(e.relation[0]), int(e.tail[0])) for e in sets.all}
    if len(firsts) == 1:
        ((head, relation, tail),) = firsts
        one = sets.relations[relation]
        log.print(
            f"Every file begins with {sets.keys[one.head][head]} and {sets.keys[one.tail][tail]}, "
            "taken for a link: if it is a header, name its columns head, relation and tail.",
            style="yellow",
        )


def _tell_unseen(sets: LinkSets) -> None:
    for name, links in sets.held_out.items():
        unseen = sets.unseen(links)
        if unseen["links"]:
            log.print(
                f"{name}: {unseen['links']:,} of {len(links):,} links hold entities "
                f"({unseen['entities']:,}) or relations ({unseen['relations']:,}) that the "
                "training links lack; these are ranked last",
                style="yellow",
            )
