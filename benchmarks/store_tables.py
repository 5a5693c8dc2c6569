"""The Markdown of benchmarks/results/stores.md from its JSON."""

from __future__ import annotations

from typing import Any

Told = dict[str, Any]
_UNITS = {
    "cpu_s": "CPU time",
    "wall_s": "time",
    "peak_mib": "memory",
    "resident_mib": "resident memory",
    "p50_ms": "p50",
    "p99_ms": "p99",
}


def tables(told: Told) -> str:
    parts = [_goals(told["works"]), _figures(told["works"]), _growth(told["growth"]), _notes(told)]
    return "\n".join(part for part in parts if part)


def _goals(works: Told) -> str:
    lines = ["| work | figure | against | to reach | measured | |", "|---|---|---|---|---|---|"]
    for work in works.values():
        for goal in work["goals"]:
            lines.append(_goal(work["title"], goal))
    return "\n".join(lines) + "\n"


def _goal(title: str, goal: Told) -> str:
    figure, verdict = _UNITS[goal["figure"]], "reached" if goal["reached"] else "**missed**"
    if goal["against"]:
        against, wanted, shown = goal["against"], f"{goal['times']:.3g} x less", "{:.3g} x less"
        if goal["times"] < 1:
            wanted, shown = f"at most {1 / goal['times']:.3g} x", "{:.3g} x"
    elif goal["figure"] == "peak_mib":
        against, wanted, shown = "the output", f"at most {goal['times']:.3g} x", "{:.3g} x"
    else:
        against, unit = "", "ms" if goal["figure"].endswith("ms") else "MiB"
        wanted, shown = f"at most {goal['most']:g} {unit}", f"{{:.3g}} {unit}"
    measured = goal["measured"]
    if measured is not None:
        if goal["against"] and goal["times"] < 1:
            measured = 1 / measured
        elif not goal["against"] and goal["figure"] != "peak_mib":
            measured *= goal["most"]
    text = "not measured" if measured is None else shown.format(measured)
    return f"| {title} ({goal['label']}) | {figure} | {against} | {wanted} | {text} | {verdict} |"


def _figures(works: Told) -> str:
    lines = [
        "| work | store | wall s | CPU s | peak MiB | of it own "
        "| a request: p50, p99, CPU ms | runs | x a copy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for work in works.values():
        floor = work["medians"].get("(a copy of the output)")
        for place, (label, some) in enumerate(work["medians"].items()):
            title = work["title"] if place == 0 else ""
            runs = len(work["runs"][label])
            lines.append(
                f"| {title} | {label} | {_row(some, floor)} | {runs} | {_times(some, floor)} |"
            )
        lines += [f"| | {label} | left out: {why} |" for label, why in work["failed"].items()]
    return "\n".join(lines) + "\n"


def _row(some: Told, floor: Told | None) -> str:
    times = [""]
    if "p50_ms" in some:
        times = [f"{some['p50_ms']:.2f}, {some['p99_ms']:.2f}, {some['cpu_ms']:.2f}"]
    if some.get("copies", 1) > 1:
        times = [f"{1e3 * some['wall_s'] / some['copies']:.2f}"]
    cells = [f"{some['wall_s']:.2f}", f"{some['cpu_s']:.2f}"]
    cells += [f"{some['peak_mib']:,.0f}", f"{some['anonymous_mib']:,.0f}", *times]
    return " | ".join(cells)


def _times(some: Told, floor: Told | None) -> str:
    """How far from copying the output once: by CPU time, of requests by their p50."""
    if floor is None or floor is some:
        return ""
    if "p50_ms" in some:
        return f"{some['p50_ms'] / (1e3 * floor['wall_s'] / floor['copies']):.1f}"
    return f"{some['cpu_s'] / (floor['cpu_s'] / floor['copies']):.1f}"


def _growth(growth: Told) -> str:
    if not growth:
        return ""
    lines = ["| what doubles | figure at each size | exponent | |", "|---|---|---|---|"]
    for series in growth.values():
        if "error" in series:
            lines.append(f"| {series['title']} | {series['error']} | | **missed** |")
            continue
        for figure, fit in series["figures"].items():
            points = ", ".join(f"{int(size):,}: {v:.3g}" for size, v in fit["medians"].items())
            verdict = "linear or better" if fit["linear_or_better"] else "**worse than linear**"
            name = f"{_UNITS[figure]} in {figure.rpartition('_')[2].replace('mib', 'MiB')}"
            lines.append(
                f"| {series['title']} | {name}: {points} | {fit['exponent']:.2f} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


def _notes(told: Told) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in told["settings"].items())
    return (
        f"Medians; contestants took turns, each run in a process of its own, and the results were "
        f"compared to the bit. Peak MiB is what the work added to the resident memory after the "
        f"imports; of it own, what is not pages of mapped files. The memory that a run "
        f"takes was touched right before it. A server's CPU and memory are "
        f"not counted. {told['machine']}; Python {told['python']}; {versions}. {settings}.\n"
    )
