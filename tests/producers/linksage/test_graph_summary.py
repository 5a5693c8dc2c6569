"""The tables tell what the report has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from provender.producers.linksage.graph_summary import graph_summary
from tests.producers.linksage.test_page_graph import World


def shown(report: Any) -> list[list[str]]:
    """The words of each line."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*graph_summary(report))
    return [line.replace("│", " ").split() for line in capture.get().splitlines()]


@pytest.mark.parametrize("near", [None, 0.9])
def test_what_the_tables_tell(tmp_path: Path, near: float | None) -> None:
    rules: dict[str, Any] = {"min_cohesion": 0.1, "max_degree": {"page": 3}}
    report = World(tmp_path, 0).build(near_duplicates=near, **rules).report
    lines = shown(report)
    dropped = report["pairs"]["dropped below min_cohesion"]
    assert ["dropped", "below", "min_cohesion", "(0.1)", str(dropped)] in lines
    counts = [one["pin-page"] for one in report["edges"].values()]
    assert counts[0] > counts[1]
    assert ["pin-page", *map(str, counts)] in lines
    for kind, both in report["degrees"].items():
        for when, first in (("before", [kind, "before", str(both["before"]["nodes"])]),
                            ("after", ["after"])):  # fmt: skip
            one = both[when]
            rest = [one["isolated"], f"{one['mean']:.1f}", one["median"], one["p90"], one["p99"]]
            assert [*first, *map(str, rest), str(one["most"])] in lines
    for size, count in report["near_duplicates"].get("sizes", {}).items():
        assert [size, str(count)] in lines
    assert any(line[:2] == ["near", "duplicates:"] for line in lines) == (near is not None)


def test_many_sizes_are_summed(tmp_path: Path) -> None:
    report = dict(World(tmp_path, 0).build(near_duplicates=0.9).report)
    sizes = {str(size): size for size in range(2, 20)}
    report["near_duplicates"] = report["near_duplicates"] | {"sizes": sizes}
    lines = shown(report)
    assert ["fewer", str(sum(range(2, 12)))] in lines
    assert ["19", "19"] in lines
    assert ["11", "11"] not in lines
