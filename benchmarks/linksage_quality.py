"""How well are pairs of pages and pins that were set aside found? By the command's own functions.

    python benchmarks/linksage_quality.py --set github --data path/to/data
    python benchmarks/linksage_quality.py --set upworthy --data path/to/data
    python benchmarks/linksage_quality.py --set simulator

linksage_sets.py says how the public sets become files; the simulator's world has 5,000 users and
8,000 pins of 48 planted topics, its boards are users' saves. A fifth of the pairs is set aside.
Settings are the command's defaults, but for --epochs. `two towers` are a hidden layer each over the
same text features, trained on the same pairs and as often, with the negatives of their batch. Each
run puts its figures into benchmarks/results/linksage_quality.{json,md} beside those of other sets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import torch
from linksage_sets import SETS, write_set
from torch import nn
from torch.nn import functional as F

from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.outcome_files import click_features, read_outcomes
from provender.producers.linksage.page_clicks import judge_clicks
from provender.producers.linksage.page_evaluation import (
    PageTask,
    baselines,
    compared,
    learn,
    prepare,
)
from provender.producers.linksage.page_files import declare_files
from provender.producers.linksage.quality import judge
from provender.producers.pin_ranking import Scorer, cosines
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.stages import stages

RESULTS = Path(__file__).parent / "results"
#: By set, what is left out to see what it is worth.
GROUPS = {
    "github": ("neighbours", "boards"),
    "upworthy": ("neighbours", "boards"),
    "simulator": ("neighbours", "boards"),
}
Found = dict[str, Any]


def study(name: str, data: Path | None, work: Path, settings: Mapping[str, Any]) -> Found:
    """Learn a set and everything it is compared with."""
    files = simulated(work) if data is None else write_set(data, name, work / "files")
    outcomes = files.pop("outcomes", None)
    config = LinkSageConfig.parse(settings)
    with stages(name) as on_stage:
        task = prepare(
            declare_files(files, {}, "settings", hold_out=0.2), work, config, work, on_stage
        )
        made = learn(task, config, work / "model", "cpu", on_stage)
        rankings = baselines(task) | compared(task, config, GROUPS[name], work, "cpu", on_stage)
        if task.features.pages.text.shape[1] and task.features.pins.text.any():
            rankings["two towers"] = two_towers(task, config)
        dims = config.model.nested_dims
        quality = judge(made.pages, made.pins, task.test, task.known, dims, baselines=rankings)
        found = {**quality.to_json(), "config": config.model_dump(mode="json")}
        if outcomes is not None:
            fared = read_outcomes(outcomes, task)
            clicks = judge_clicks(fared, click_features(task, made, fared))
            found["clicks"] = {name: asdict(one) for name, one in clicks.items()}
    return found


def simulated(work: Path) -> dict[str, Path]:
    simulate(SimulatorConfig.parse({"users": 5000, "pins": 8000, "days": 5}), work / "world")
    events = work / "world" / "events"
    boards = work / "boards.parquet"
    duckdb.sql(
        f"COPY (SELECT user_id AS board, pin_id AS pin FROM '{events}/engagements/*.parquet' "
        f"WHERE type = 'save') TO '{boards}'"
    )
    pins = events / "pins.parquet"
    return {"pages": events / "pages.parquet", "pins": pins, "pairs": pins, "boards": boards}


def two_towers(task: PageTask, config: LinkSageConfig) -> Scorer:
    training, dim, width = config.training, config.model.dim, config.model.width
    text = [
        torch.from_numpy(each.text.copy()) for each in (task.features.pages, task.features.pins)
    ]
    torch.manual_seed(0)
    towers = [
        nn.Sequential(nn.Linear(text[0].shape[1], width), nn.ReLU(), nn.Linear(width, dim))
        for _ in text
    ]
    optimizer = torch.optim.AdamW([p for t in towers for p in t.parameters()], 1e-3)
    graph = task.graph
    pins = graph.representative[graph.positive_pin]
    for _ in range(training.epochs):
        for batch in torch.randperm(len(pins)).split(training.batch_size):
            rows = (graph.positive_page[batch], pins[batch])
            page, pin = (
                F.normalize(tower(each[row]), dim=1)
                for tower, each, row in zip(towers, text, rows, strict=True)
            )
            loss = F.cross_entropy(page @ pin.T / training.temperature, torch.arange(len(batch)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        both = [tower(each).numpy() for tower, each in zip(towers, text, strict=True)]
    return cosines(*both)


def table(every: Mapping[str, Found]) -> str:
    lines = ["| set | ranked by | recall@10 | recall@100 |\n|---|---|---|---|\n"]
    for name, found in every.items():
        dims = found["dims"]
        lines += [
            _recalls(name, f"LinkSage, {dim} dims", dims[dim])
            for dim in sorted(dims, key=int)[::-1]
        ]
        lines += [_recalls(name, one, by_k) for one, by_k in found["baselines"].items()]
    lines.append(
        "\n| set | negatives below .25 | kurtosis of cosines | page and own pin | "
        "lost at 64 of the dims (recall@100) |\n|---|---|---|---|---|\n"
    )
    for name, found in every.items():
        metrics, lost = found["metrics"], found["dims"]["64"]["loss@100"]
        lines.append(
            f"| {name} | {metrics['negatives_below_0.25']:.1%} | {metrics['kurtosis']:.2f} | "
            f"{metrics['own_pin_cosine']:.2f} | {lost:.1%} |\n"
        )
    for name, found in every.items():
        if "clicks" in found:
            lines.append(f"\n| {name}: clicked more, by | ranked right | 95 % | more | 95 % |\n")
            lines.append("|---|---|---|---|---|\n")
            lines += [_clicks(one, verdict) for one, verdict in found["clicks"].items()]
    return "".join(lines)


def _recalls(name: str, what: str, found: Mapping[str, float]) -> str:
    return f"| {name} | {what} | {found['recall@10']:.4f} | {found['recall@100']:.4f} |\n"


def _clicks(name: str, found: Mapping[str, Any]) -> str:
    spans = [
        f"{low:.3f} to {high:.3f}" for low, high in (found["interval"], found["margin_interval"])
    ]
    return (
        f"| {name} | {found['accuracy']:.4f} | {spans[0]} | {found['margin']:+.4f} | {spans[1]} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=[*SETS, "simulator"], required=True)
    parser.add_argument("--data", type=Path, help="folder of the public data")
    parser.add_argument("--epochs", type=int, help="instead of the default")
    given = parser.parse_args()
    if (given.data is None) != (given.set == "simulator"):
        parser.error("--data goes with the public sets")
    settings = {"training": {"epochs": given.epochs}} if given.epochs else {}
    with tempfile.TemporaryDirectory() as work:
        found = study(given.set, given.data, Path(work), settings)
    path = RESULTS / "linksage_quality.json"
    every = json.loads(path.read_text()) if path.is_file() else {}
    every = dict(sorted({**every, given.set: found}.items()))
    path.write_text(json.dumps(every, indent=1) + "\n")
    (RESULTS / "linksage_quality.md").write_text(table(every))
    print(table(every))


if __name__ == "__main__":
    main()
