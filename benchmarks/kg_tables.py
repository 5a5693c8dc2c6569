"""The Markdown of benchmarks/results/kg_speed.md and kg_race.md from their JSON."""

from __future__ import annotations

from typing import Any

Told = dict[str, Any]


def speed_tables(told: Told) -> str:
    parts = [_goals(told["goals"]), _speeds(told["peers"])]
    if "growth" in told:
        parts.append(_growth(told["growth"]))
    return "\n".join([*parts, _notes(told["settings"])])


def _goals(goals: list[Told]) -> str:
    lines = ["| | against | to reach | measured | |", "|---|---|---|---|---|"]
    for goal in goals:
        if goal["figure"] == "times":
            against, wanted, found = goal["against"], "{:.0f} x", "{:.0f} x"
        else:
            shape = {"large": "large squares", "shapes": "the shapes used"}[goal["against"]]
            against, wanted, found = f"the GEMM rate of {shape}", "{:.0%}", "{:.0%}"
        wanted, found = wanted.format(goal["least"]), found.format(goal["measured"])
        lines.append(f"| {goal['label']} | {against} | {wanted} | {found} | {_verdict(goal)} |")
    return "\n".join(lines) + "\n"


def _speeds(peers: Told) -> str:
    lines = [
        "| | thousand triples a CPU second | peak MiB | beside the base | GEMM: large, shapes |",
        "|---|---|---|---|---|",
    ]
    for label, one in peers.items():
        if "per_cpu_s" not in one:
            lines.append(f"| {label} | {one.get('skipped') or one.get('error')} | | | |")
            continue
        rates = ""
        if "large_gflop_s" in one:
            rates = f"{one['large_gflop_s']:.0f}, {one['shapes_gflop_s']:.0f} GFLOP/s"
        memory = f"{one['peak_mib']:,.0f} | {one['peak_mib'] - one['base_mib']:,.0f}"
        lines.append(f"| {label} | {one['per_cpu_s'] / 1e3:.3g} | {memory} | {rates} |")
    return "\n".join(lines) + "\n"


def _growth(growth: Told) -> str:
    lines = [
        "| entities | CPU µs a triple | table and state, MiB | added at most, MiB | times |",
        "|---|---|---|---|---|",
    ]
    for one in growth["sizes"]:
        added = one["peak_mib"] - one["base_mib"]
        lines.append(
            f"| {one['entities']:,} | {1e6 / one['per_cpu_s']:.1f} | {one['table_mib']:,.0f} "
            f"| {added:,.0f} | {added / one['table_mib']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def race_tables(told: Told) -> str:
    lines = [
        "| | best filtered MRR | of what can be reached | CPU s to it | to 95 % | to 80 % "
        "| ours: CPU s to the same | share of theirs | to reach | |",
        "|---" * 10 + "|",
    ]
    for label, one in told["racers"].items():
        if "best" not in one:
            lines.append(f"| {label} | {one.get('skipped') or one.get('error')} |" + " |" * 8)
            continue
        cells = [f"{one['best']:.3f}", f"{one['best'] / told['truth']:.0%}"]
        cells += [_seconds(one["to"][share]) for share in ("1.0", "0.95", "0.8")]
        cells += _versus(one)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    truth = f"The model that drew the graph has {told['truth']:.3f}. {told['graph']}.\n"
    return "\n".join(lines) + "\n\n" + truth + "\n" + _notes(told["settings"])


def _versus(one: Told) -> list[str]:
    if "ours" not in one:
        return ["", "", "", ""]
    shares = [f"{100 * share:.3g} %" for share in one["share"].values() if share is not None]
    seconds = [_seconds(one["ours"][share]) for share in ("1.0", "0.95", "0.8")]
    wanted = f"1/{1 / one['most']:.0f}" if one.get("most") else ""
    verdict = _verdict(one) if wanted else ""
    return [", ".join(seconds), ", ".join(shares), wanted, verdict]


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.3g}"


def _verdict(goal: Told) -> str:
    return "reached" if goal["reached"] else "**missed**"


def _notes(settings: Told) -> str:
    shown = ", ".join(f"{name}={value}" for name, value in settings.items() if value)
    return (
        "Medians of runs that took turns, each in a process of its own on one core, without the "
        f"warm-up; processor time. The same for all: {shown}.\n"
    )
