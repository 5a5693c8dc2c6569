"""From links to a report: settings, training judged by the validation links, ranking."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress as Bar

from provender.plugin.checked_yaml import load_yaml
from provender.plugin.console import progress
from provender.plugin.errors import ConfigError, MappingError
from provender.producers.checkpoint import load_checkpoint
from provender.producers.devices import pick_device
from provender.producers.graph import TripleGraph
from provender.producers.kg_data import LinkSets
from provender.producers.kg_defaults import PATIENCE, VALIDATE_EVERY, GraphSizes, defaults
from provender.producers.kg_judging import HeadJudge, LinkJudge, model_scorer
from provender.producers.kg_report import bars_of
from provender.producers.parameters import Parameters
from provender.producers.trainer import train
from provender.producers.training_curves import draw
from provender.producers.training_log import Pace, TrainingLog, in_words, read_metrics
from provender.producers.training_loop import Progress
from provender.producers.training_state import fingerprint
from provender.producers.transra_config import TransRAConfig
from provender.producers.validation import Validation

#: Of Recall@k and NDCG@k.
KS = (10, 20, 50)
#: What a judgement during training looks at, at most: links of a knowledge graph, or heads.
_SAMPLE = 3_000
_RECALL = 20
#: Beside the metrics of a log.
PICTURE = "curves.png"
#: Parameters to a figure, higher is better; and the figure's name.
Judge = Callable[[Parameters], float]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What came out: the parameters of the best epoch, their graph, and the report."""

    parameters: Parameters
    graph: TripleGraph
    report: dict[str, Any]


def configure(
    sets: LinkSets, model: str | None, path: Path | None, given: dict[str, Any]
) -> TransRAConfig:
    """The defaults for the model and graph, overridden by the YAML file and then by `given`.

    Raises ConfigError for a file that is no mapping, an unknown key, or two different models.
    """
    values = {} if path is None else _settings(path)
    named = values.get("model", model)
    if model is not None and named != model:
        raise ConfigError(
            f"{path}: model",
            found=repr(named),
            expected=f"{model!r}, as --model has it",
            remedy="Leave one of them out.",
        )
    counts = sets.train.relation.bincount()
    sizes = GraphSizes(
        entities=sum(sets.seen.values()),
        relations=sets.seen_relations,
        triples=len(sets.train),
        largest_relation=sets.relations[int(counts.argmax())].name,
    )
    base = defaults(named or "transra", sizes, sets.kind)
    return TransRAConfig.parse({**base, **values, **given}, str(path or "settings"))


def evaluate_links(
    sets: LinkSets,
    config: TransRAConfig,
    *,
    ks: Sequence[int] = KS,
    device: str = "auto",
    checkpoints: Path | None = None,
    every: int = VALIDATE_EVERY,
    patience: int = PATIENCE,
    log: Path | None = None,
) -> Evaluated:
    """Train on the training links, judged by the validation links where there are any, and rank.

    With `checkpoints` a run that was stopped goes on; the seconds are those of this process. With
    `log` that folder gets the metrics of training, and a picture of them beside the figures.
    """
    graph = sets.graph(config)
    started = _now()
    with TrainingLog(log) if log else nullcontext() as note:
        parameters, curve = fit(
            sets,
            graph,
            config,
            device=device,
            checkpoints=checkpoints,
            every=every,
            patience=patience,
            note=note,
        )
    trained = _now()
    metrics, per_head = _judged(sets, graph, parameters.to(pick_device(device)), ks)
    ranked = _now()
    report = {
        "model": config.model,
        "config": config.model_dump(mode="json"),
        "data": _counted(sets),
        "metrics": metrics,
        **per_head,
        "curve": curve,
        "seconds": {"training": trained[0] - started[0], "ranking": ranked[0] - trained[0]},
        "cpu_seconds": {"training": trained[1] - started[1], "ranking": ranked[1] - trained[1]},
    }
    if log:
        draw(log / PICTURE, read_metrics(log), *bars_of(report))
    return Evaluated(parameters, graph, report)


def fit(
    sets: LinkSets,
    graph: TripleGraph,
    config: TransRAConfig,
    *,
    device: str,
    checkpoints: Path | None,
    every: int,
    patience: int,
    note: TrainingLog | None = None,
) -> tuple[Parameters, list[dict[str, float]]]:
    """Train; returns the parameters of the best epoch, and the judgements by epoch."""
    figure, judge = _judge(sets, graph)
    with progress() as bar:
        watch = _Watch(bar, figure, note)

        def judged(parameters: Parameters) -> float:
            return watch.judged(judge(parameters))

        validation = None if sets.valid is None else Validation(judged, every, patience)
        parameters = train(
            graph,
            config,
            device=device,
            checkpoint_dir=checkpoints,
            validation=validation,
            on_progress=watch,
        )
    curve = watch.curve
    if checkpoints is not None and (
        done := load_checkpoint(checkpoints, fingerprint(graph, config, None))
    ):
        curve = done.tensors["curve"].tolist()  # With those of before the run was stopped.
    epochs = [e for e in range(1, config.epochs + 1) if e % every == 0 or e == config.epochs]
    return parameters, [
        {"epoch": epoch, figure: value} for epoch, value in zip(epochs, curve, strict=False)
    ]


def _judge(sets: LinkSets, graph: TripleGraph) -> tuple[str, Judge]:
    """What training is judged by on the validation links, and the figure's name."""
    if sets.valid is None:
        return "", lambda _: 0.0
    if sets.ranked is None:
        links = LinkJudge.of(sets, "valid", most=_SAMPLE)
        return "mrr", lambda parameters: links.mrr(model_scorer(parameters, graph))
    heads, name = HeadJudge.of(sets, "valid", most=_SAMPLE), f"recall@{_RECALL}"
    return name, lambda parameters: heads.figures(model_scorer(parameters, graph), [_RECALL])[name]


def _judged(
    sets: LinkSets, graph: TripleGraph, parameters: Parameters, ks: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of links by held-out set, and those per head if there is a relation to rank."""
    scorer = model_scorer(parameters, graph)
    metrics = {name: LinkJudge.of(sets, name).figures(scorer) for name in sets.held_out}
    if sets.ranked is None:
        return metrics, {}
    per_head = {}
    for name in sets.held_out:
        heads = HeadJudge.of(sets, name)
        per_head[name] = {"model": heads.figures(scorer, ks), "popularity": heads.popularity(ks)}
    return metrics, {"relation": sets.relations[sets.ranked].name, "per_head": per_head}


def _settings(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path)
    except MappingError as error:
        raise ConfigError(
            error.thing,
            found=error.found,
            expected="a YAML mapping of settings, such as `dim: 128`",
            remedy="Correct the file or its path.",
        ) from None


def _counted(sets: LinkSets) -> dict[str, Any]:
    """The sizes of the data, and what of the held-out links training has never seen."""
    return {
        "kind": sets.kind,
        "entities": {entity: len(keys) for entity, keys in sets.keys.items()},
        "relations": len(sets.relations),
        "train": len(sets.train),
        **{name: len(links) for name, links in sets.held_out.items()},
        "unseen": {name: sets.unseen(links) for name, links in sets.held_out.items()},
    }


class _Watch:
    """Shows how far a training is, and how it was judged last; writes both into the log."""

    def __init__(self, bar: Bar, figure: str, log: TrainingLog | None) -> None:
        self._bar, self._figure, self._log = bar, figure, log
        self._task = bar.add_task("train", total=None, note="")
        self._pace, self._epoch = Pace(), 0
        #: The judgements of this process.
        self.curve: list[float] = []

    def __call__(self, at: Progress) -> None:
        self._epoch = at.epoch + 1
        note = self._log(at) if self._log else in_words(at, self._pace.after(at))
        if self.curve:
            note += f", {self._figure} {self.curve[-1]:.4f}, best {max(self.curve):.4f}"
        self._bar.update(self._task, completed=at.step, total=at.total, note=note)

    def judged(self, value: float) -> float:
        self.curve.append(value)
        if self._log:
            self._log.judged(self._epoch, self._figure, value)
        return value


def _now() -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    return time.perf_counter(), time.process_time()
