"""The figures of upstream_quality.py as Markdown: means of seeds, with Student's 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from provender.consumers.metrics import paired_interval
from provender.producers.upstream.tower_quality import POPULARITY, TOWERS, VECTORS

Runs = Mapping[str, Mapping[str, Any]]
TREES = "LightGBM"


def tables(every: Mapping[str, Runs]) -> str:
    """Of all sets that there are."""
    parts = [_real(name, runs) for name, runs in every.items() if name != "simulator"]
    if "simulator" in every:
        runs = every["simulator"]
        parts += [_joint(runs), _contrast(runs), _kept(runs)]
    return "\n".join(part for part in parts if part)


def _real(name: str, runs: Runs) -> str:
    found = list(_of(runs, "towers").values())
    first = found[0]
    lines = [
        f"{name}, learned before {first['cut'][:10]}, judged until {first['end'][:10]}; "
        f"{len(found)} seeds.",
        "",
        "| task | rows | positives | by | AUC | log loss | AUC less that of LightGBM |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, by in first["tasks"].items():
        for who, one in by.items():
            aucs, losses = (
                [run["tasks"][task][who][figure] for run in found] for figure in ("auc", "log_loss")
            )
            trees = [run["tasks"][task][TREES]["auc"] for run in found]
            loss = "" if None in losses else f"{fmean(losses):.4f}"
            less = "" if who == TREES else _difference(aucs, trees)
            lines.append(
                f"| {task} | {one['rows']:,} | {one['positives']:,} | {who} | {_mean(aucs)} "
                f"| {loss} | {less} |"
            )
    return "\n".join(lines) + "\n"


def _joint(runs: Runs) -> str:
    """Of each task, towers of all sources against those of its own source, seed by seed."""
    joint = _of(runs, "joint")
    lines = [
        "Simulator: all sources together against each alone, AUC of all three towers.",
        "",
        "| task | of source | all sources | alone | difference |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(key.rpartition(", seed ")[0] for key in runs):
        if not name.endswith(" alone"):
            continue
        source, single = name.removesuffix(" alone"), _of(runs, name)
        seeds = [seed for seed in joint if seed in single]
        sides: list[tuple[list[float], list[float]]] = []
        for task in single[seeds[0]]["tasks"] if seeds else ():
            both = [joint[seed]["tasks"][task][TOWERS]["auc"] for seed in seeds]
            own = [single[seed]["tasks"][task][source]["auc"] for seed in seeds]
            lines.append(
                f"| {task} | {source} | {_mean(both)} | {_mean(own)} | {_difference(both, own)} |"
            )
            sides.append((both, own))
        if len(sides) > 1:  # Rare conversions say little one by one.
            means = [
                [fmean(one) for one in zip(*side, strict=True)] for side in zip(*sides, strict=True)
            ]
            cells = f"{_mean(means[0])} | {_mean(means[1])} | {_difference(*means)}"
            lines.append(f"| mean of {len(sides)} | {source} | {cells} |")
    return "\n".join(lines) + "\n" if len(lines) > 4 else ""


def _contrast(runs: Runs) -> str:
    """Recall with and without the contrastive task, seed by seed."""
    joint, without = _of(runs, "joint"), _of(runs, "without contrast")
    seeds = [seed for seed in joint if seed in without]
    if not seeds:
        return ""
    lines = [
        f"Simulator: recall of later pins among all, {len(seeds)} seeds.",
        "",
        "| pins by | k | with contrast | without | difference |",
        "|---|---|---|---|---|",
    ]
    for who, by_k in joint[seeds[0]]["recall"].items():
        for k in by_k:
            sides = [[runs[s]["recall"][who][k] for s in seeds] for runs in (joint, without)]
            cells = " | ".join(map(_mean, sides))
            lines.append(f"| {who} | {k} | {cells} | {_difference(*sides)} |")
    return "\n".join(lines) + "\n"


def _kept(runs: Runs) -> str:
    """The share of the towers' lift in AUC over popularity that the vectors have."""
    found = list(_of(runs, "joint").values())
    if not found:
        return ""
    lines = [
        "Simulator: AUC of all three towers, of the vectors alone and of popularity; the share of "
        "the lift over popularity that vectors keep, of the seeds with such a lift.",
        "",
        "| task | all three towers | vectors alone | popularity | lift kept |",
        "|---|---|---|---|---|",
    ]
    for task in found[0]["tasks"]:
        by = [run["tasks"][task] for run in found]
        cells = " | ".join(
            _mean([one[who]["auc"] for one in by]) for who in (TOWERS, VECTORS, POPULARITY)
        )
        kept = [run["lift_kept"][task] for run in found]
        lines.append(f"| {task} | {cells} | {_mean([one for one in kept if one is not None])} |")
    return "\n".join(lines) + "\n"


def _of(runs: Runs, name: str) -> dict[str, Mapping[str, Any]]:
    """The runs of one kind, by seed."""
    parts: Iterator[tuple[str, str, str]] = (key.rpartition(", seed ") for key in runs)
    return {seed: runs[f"{kind}, seed {seed}"] for kind, _, seed in parts if kind == name}


def _mean(values: Sequence[float]) -> str:
    """The mean and half the width of its interval."""
    if not values:
        return "-"
    found = paired_interval(values)
    return f"{found.mean:.4f}" + (f" ± {found.high - found.mean:.4f}" if found.high else "")


def _difference(left: Sequence[float], right: Sequence[float]) -> str:
    found = paired_interval([one - other for one, other in zip(left, right, strict=True)])
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
