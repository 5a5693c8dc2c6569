"""What upstream towers are worth on later days, against trees, single sources and no contrast.

    python benchmarks/upstream_quality.py --set retailrocket --data path/to/retailrocket_mb
    python benchmarks/upstream_quality.py --set completejourney --data path/to/completejourney
    python benchmarks/upstream_quality.py --set simulator --seeds 5

Worlds, declarations and settings are those that ship in feature_repo/worlds. Of public data what
lies before the last as-of date is learned from, and the weeks of evaluation are judged: by all
three towers, by vectors, popularity, LightGBM on the same features of the same rows
(upstream_boosting.py), and the mean of its log-odds and the towers'. Each seed draws negatives and
rows anew. The simulator makes a world for each seed, of 3,000 users and pins and 14 days; in each
towers are trained on all sources, on all without the contrastive task, and on each source alone.

A run is a piece: its figures go into benchmarks/results/upstream_quality.{json,md} as soon as it
has ended, and it is not done again unless its declarations or settings are others (or with
--again). With --work a piece that was stopped is taken up where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from feast.cli.cli import cli as feast_cli
from upstream_boosting import boosted, table_of
from upstream_quality_tables import tables

from provender.plugin.cli import main as main_of_provender
from provender.plugin.home import Home
from provender.plugin.repo import lay_out, standing_in
from provender.plugin.world import World
from provender.producers.refresh import OnStage
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
from provender.producers.stages import stages
from provender.producers.upstream.config import UpstreamConfig
from provender.producers.upstream.task_figures import TaskFigures, probability_figures
from provender.producers.upstream.task_scores import score
from provender.producers.upstream.tower_evaluation import (
    Learned,
    TowerTask,
    judge,
    judge_alone,
    learn,
)
from provender.producers.upstream.tower_inputs import open_inputs
from provender.producers.upstream.tower_job import split
from provender.producers.upstream.tower_quality import TowerQuality
from provender.producers.upstream.tower_set import TowerSet
from provender.producers.work_folder import ROWS, held

RESULTS = Path(__file__).parent / "results"
WORLDS = Path(__file__).parents[1] / "feature_repo" / "worlds"
SIMULATED = {"users": 3000, "pins": 3000, "days": 14}
#: As the views that ship declare them.
DIMS = {"dim": 64, "nested_dims": (16, 32)}
TREES, BOTH = "LightGBM", "towers and LightGBM"
Found = dict[str, Any]
#: What makes a piece, of a task, its settings and where to tell how far it is.
Make = Callable[[TowerTask, UpstreamConfig, OnStage], Found]


def against_trees(task: TowerTask, config: UpstreamConfig, on_stage: OnStage) -> Found:
    """Towers and their vectors as an evaluation judges them, and LightGBM beside them."""
    learned = learn(task, config, "cpu", on_stage)
    quality = judge(task, learned, config, "cpu", on_stage)
    trees, shapes = _trees(task, learned, config, on_stage)
    return {**_told(quality.beside(trees)), "trees": shapes}


def jointly(task: TowerTask, config: UpstreamConfig, on_stage: OnStage) -> Found:
    """Towers of all sources."""
    learned = learn(task, config, "cpu", on_stage)
    return _told(judge(task, learned, config, "cpu", on_stage))


def without_contrast(task: TowerTask, config: UpstreamConfig, on_stage: OnStage) -> Found:
    """The same without the contrastive task."""
    contrastive = config.training.contrastive.model_copy(update={"weight": 0.0})
    training = config.training.model_copy(update={"contrastive": contrastive})
    return jointly(task, config.model_copy(update={"training": training}), on_stage)


def alone(source: str) -> Make:
    """Towers of one source."""

    def make(task: TowerTask, config: UpstreamConfig, on_stage: OnStage) -> Found:
        found = judge_alone(task.alone(source), config, "cpu", on_stage)
        return {"tasks": {name: {source: _figures(one)} for name, one in found.items()}}

    return make


def _trees(
    task: TowerTask, learned: Learned, config: UpstreamConfig, on_stage: OnStage
) -> tuple[dict[str, dict[str, TaskFigures]], dict[str, Any]]:
    """Figures of trees, and of both, by name and task; the trees' shapes by task."""
    seed, scratch = config.training.seed, task.work / "scratch"
    later = TowerSet.open(task.work / ROWS / task.name / "later")
    features = [
        open_inputs(
            rows, task.sources, learned.model.tables, None, scratch, seed, grow=False
        ).reader.using(learned.fitted)
        for rows in (learned.rows, later)
    ]
    scored = score(later, features[1], learned.model, "cpu")
    first, then = table_of(learned.rows, features[0]), table_of(later, features[1])
    found: dict[str, dict[str, TaskFigures]] = {TREES: {}, BOTH: {}}
    shapes = {}
    for column, name in enumerate(scored.tasks):
        on_stage("LightGBM", column, len(scored.tasks), "")
        odds, shapes[name] = boosted(first, then, column, seed)
        for who, each in ((TREES, odds), (BOTH, (odds + scored.logits[:, column]) / 2)):
            found[who][name] = _judged(then.labels, then.known, then.weight, column, each)
    on_stage("LightGBM", len(scored.tasks), len(scored.tasks), "")
    return found, shapes


def _judged(labels: Any, known: Any, weight: Any, column: int, odds: Any) -> TaskFigures:
    rows = known[:, column]
    return probability_figures(labels[rows, column], 1 / (1 + np.exp(-odds[rows])), weight[rows])


def _told(quality: TowerQuality) -> Found:
    tasks = {
        task: {who: _figures(one) for who, one in by.items()} for task, by in quality.tasks.items()
    }
    told = quality.to_json()
    kept = ("lift_kept", "recall", "pairs", "candidates")
    notes = quality.notes
    about = {"cut": notes["cut"], "end": notes["end"]}
    return {"tasks": tasks, **{name: told[name] for name in kept}, **about}


def _figures(one: TaskFigures) -> Found:
    """All but the bins."""
    return {name: value for name, value in one.to_json().items() if name != "bins"}


def declared(
    world_path: Path, data: Path, cut: datetime | None, seed: int, given: Mapping[str, Any]
) -> tuple[TowerTask, UpstreamConfig]:
    """What a world file says is to be learned and judged, and how; `given` goes before it.

    Without a cut it is the last as-of date.
    """
    world = World.load(world_path)
    sources, settings = split(world.upstream, world, str(world_path))
    merged = {
        name: {**settings.get(name, {}), **given.get(name, {})} for name in {*settings, *given}
    }
    merged["model"] = {**merged.get("model", {}), **DIMS}
    merged["training"] = {**merged.get("training", {}), "seed": seed}
    dates = world.dates
    span = (cut or dates.as_ofs()[-1], dates.evaluation()[1])
    task = TowerTask(world, data, sources, None, *span, Path())
    return task, UpstreamConfig.parse(merged)


def pieces(
    name: str, data: Path | None, seed: int, work: Path, given: Mapping[str, Any]
) -> tuple[TowerTask, UpstreamConfig, dict[str, Make]]:
    """What there is to do for one seed of a set."""
    path = WORLDS / f"{name}.yaml"
    if data is not None:
        task, config = declared(path, data, None, seed, given)
        return task, config, {"towers": against_trees}
    place = work / f"world {seed}"
    if not place.is_dir():
        simulate(SimulatorConfig.parse({**SIMULATED, "seed": seed}), place)
    first = World.load(path).dates.as_ofs()[0]
    task, config = declared(path, place / "events", first, seed, given)
    task = replace(task, repo=_with_transra(work / f"home {seed}", path, place / "events", first))
    singles = {f"{source} alone": alone(source) for source in task.sources.sources}
    return task, config, {"joint": jointly, "without contrast": without_contrast, **singles}


def _with_transra(place: Path, world: Path, data: Path, as_of: datetime) -> Path:
    """A Feast repo with the views that id rows start from, produced as of the cut."""
    home = Home(place)
    if lay_out(home.repo):
        home.world.write_bytes(world.read_bytes())
        with standing_in(home.repo):
            feast_cli.main(args=["apply"], prog_name="feast", standalone_mode=False)
    words = ["produce", "--home", str(place), "--data", str(data), "--family", "transra"]
    main_of_provender(args=[*words, "--as-of", as_of.isoformat()], standalone_mode=False)
    return home.repo


def _mark(task: TowerTask, config: UpstreamConfig) -> str:
    """Of what a piece is of, as far as it is declared."""
    said = f"{config.hash} {task.sources.model_dump_json()} {task.cut} {task.end}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("retailrocket", "completejourney", "simulator")
    parser.add_argument("--set", choices=names, required=True)
    parser.add_argument("--data", type=Path, help="folder of the public set")
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 on")
    parser.add_argument("--only", nargs="+", help="names of pieces, such as joint")
    parser.add_argument("--again", action="store_true", help="do pieces again that are there")
    parser.add_argument("--settings", default="{}", help="YAML of settings instead of the world's")
    parser.add_argument("--work", type=Path, help="folder in which stopped pieces go on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if (given.data is None) != (given.set == "simulator"):
        parser.error("--data goes with the public sets")
    torch.set_num_threads(1)
    path = given.results / "upstream_quality.json"
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        for seed in range(given.seeds):
            made = pieces(given.set, given.data, seed, work, yaml.safe_load(given.settings))
            task, config, makes = made
            for name, make in makes.items():
                if given.only and name not in given.only:
                    continue
                key, mark = f"{name}, seed {seed}", _mark(task, config)
                every = json.loads(path.read_text()) if path.is_file() else {}
                of_set = every.setdefault(given.set, {})
                if of_set.get(key, {}).get("mark") == mark and not given.again:
                    continue
                place = work / f"{given.set} {key}"
                with held(place, "upstream") as folder, stages(key) as on_stage:
                    one = TowerTask(**{**vars(task), "work": folder})
                    of_set[key] = {**make(one, config, on_stage), "mark": mark}
                every[given.set] = dict(sorted(of_set.items()))
                path.write_text(json.dumps(dict(sorted(every.items())), indent=1) + "\n")
                (given.results / "upstream_quality.md").write_text(tables(every))
    print((given.results / "upstream_quality.md").read_text())


if __name__ == "__main__":
    main()
