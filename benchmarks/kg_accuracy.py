"""How well are held-out links predicted? Public data by `provender evaluate kg`'s own functions.

    python benchmarks/kg_accuracy.py --data path/to/data --set fb15k237 --model transra
    python benchmarks/kg_accuracy.py --data path/to/data --set pinterest --model peers \\
        --implicit-python /tmp/peers/implicit/bin/python

kg_sets.py says how the sets are split. Settings are those of --config, else of
kg_configs/SET_MODEL.yaml where there is one, else the command's defaults. Of users and items the
model `peers` stands for item_peers.py. Each run puts its row into
benchmarks/results/kg_accuracy.{json,md} beside those of other runs.

Users' items are ranked as the command ranks them: what a user is known to have is no candidate. Not
so the products of completejourney, where all are ranked: a good part of a week's groceries are
what a household has bought before, and whoever sets them aside predicts the rest of a purchase
alone. (Training is stopped by the command's own judgement all the same.)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from item_peers import Judges, Row, peer_rows
from kg_sets import INTERACTIONS, OPENKE, read_set

from provender.producers.kg_data import Links, LinkSets
from provender.producers.kg_defaults import PATIENCE, VALIDATE_EVERY
from provender.producers.kg_evaluation import KS, configure, evaluate_links
from provender.producers.kg_judging import HeadJudge, model_scorer
from provender.producers.link_ranking import Filter
from provender.producers.scores import SCORES

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parent / "kg_configs"
#: Where what a head has already is ranked as well.
REPEATED = {"completejourney"}
#: What peers' settings are chosen by, on the validation links of so many heads.
HEADS = 5_000


def judges(sets: LinkSets, name: str) -> Judges:
    """By the heads of a set; those of `kg_judging` where what is known is left out."""
    of = everything if name in REPEATED else HeadJudge.of
    reported = {part: of(sets, part) for part in sets.held_out}
    some = reported["valid"] if name in REPEATED else HeadJudge.of(sets, "valid", most=HEADS)
    return Judges(some, reported)


def everything(sets: LinkSets, part: str) -> HeadJudge:
    """Ranks all tails for each head, those that it is known to have too."""
    links, tails = sets.held_out[part], sets.size("tail")
    pairs = torch.stack([links.head, links.tail]).unique(dim=1)
    return HeadJudge(
        links=Links(pairs[0], torch.zeros_like(pairs[0]), pairs[1]),
        candidates=torch.arange(tails.known),
        aside=Filter.of([], "tail", heads=sets.size("head"), tails=tails),
        counts=sets.train.tail.bincount(minlength=tails.seen),
    )


def model_row(sets: LinkSets, given: argparse.Namespace) -> Row:
    own = CONFIGS / f"{given.set}_{given.model}.yaml"
    path = given.config or (own if own.is_file() else None)
    overrides = {"epochs": given.epochs} if given.epochs else {}
    config = configure(sets, given.model, path, overrides)
    done = evaluate_links(
        sets,
        config,
        device=given.device,
        checkpoints=given.checkpoints,
        every=given.validate_every,
        patience=given.patience,
    )
    report = done.report
    per_head = {name: one["model"] for name, one in report.get("per_head", {}).items()}
    if given.set in REPEATED:
        scorer = model_scorer(done.parameters, done.graph)
        reported = judges(sets, given.set).reported
        per_head = {part: judge.figures(scorer, KS) for part, judge in reported.items()}
    return {
        "config": path.stem if path else "defaults",
        "settings": report["config"],
        "metrics": {name: _flat(one) for name, one in report["metrics"].items()},
        "per_head": per_head,
        "curve": report["curve"],
        "seconds": report["seconds"],
        "cpu_seconds": report["cpu_seconds"],
    }


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not isinstance(value, dict)}


def keep(rows: dict[str, Row]) -> None:
    """Put rows, by `set/model`, beside those of other runs; write both files."""
    path = RESULTS / "kg_accuracy.json"
    every = json.loads(path.read_text()) if path.is_file() else {}
    every = dict(sorted({**every, **rows}.items()))
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(every, indent=2) + "\n")
    (RESULTS / "kg_accuracy.md").write_text(table(every))


def table(rows: dict[str, Row]) -> str:
    links = ["mrr", "hits@1", "hits@3", "hits@10", "mean_rank"]
    heads = [f"{figure}@{k}" for figure in ("recall", "ndcg") for k in KS]
    graphs = {name: row["metrics"]["test"] for name, row in rows.items() if not row["per_head"]}
    items = {name: row["per_head"]["test"] for name, row in rows.items() if row["per_head"]}
    told = []
    for columns, chosen in ((links, graphs), (heads, items)):
        if chosen:
            told.append(
                f"| set | model | {' | '.join(columns)} |\n" + "|---" * (len(columns) + 2) + "|\n"
            )
            told += [_line(name, figures, columns) for name, figures in chosen.items()]
            told.append("\n")
    return "".join(told[:-1])


def _line(name: str, figures: dict[str, float], columns: list[str]) -> str:
    cells = (f"{figures[c]:,.0f}" if c == "mean_rank" else f"{figures[c]:.4f}" for c in columns)
    return f"| {' | '.join(name.split('/'))} | {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data")
    parser.add_argument("--set", choices=[*OPENKE, *INTERACTIONS], required=True)
    parser.add_argument("--model", choices=[*SCORES, "peers"], default="transra")
    parser.add_argument("--config", type=Path, help="YAML of settings")
    parser.add_argument("--epochs", type=int, help="instead of the settings'")
    parser.add_argument("--validate-every", type=int, default=VALIDATE_EVERY)
    parser.add_argument("--patience", type=int, default=PATIENCE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoints", type=Path, help="folder in which a run finds its place")
    parser.add_argument(
        "--implicit-python", help="the python of an environment with the library implicit, for ALS"
    )
    given = parser.parse_args()
    if given.model == "peers" and given.set not in INTERACTIONS:
        parser.error("the peers are those of interactions: choose another --set")
    sets = read_set(given.data, given.set)
    if given.model == "peers":
        rows = peer_rows(sets, judges(sets, given.set), given.implicit_python)
    else:
        rows = iter([(given.model, model_row(sets, given))])
    for name, row in rows:
        keep({f"{given.set}/{name}": row})
    print((RESULTS / "kg_accuracy.md").read_text())


if __name__ == "__main__":
    main()
