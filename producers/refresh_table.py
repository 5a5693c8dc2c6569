"""What became of one version's refresh, as a table of its views."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rich.table import Table

from provender.plugin.spec import EmbeddingSpec
from provender.producers.online_refresh import Loaded
from provender.producers.publish import Finding
from provender.producers.refresh import Refresh
from provender.producers.shipped import AnyJob

#: What a line says -> the figure in a manifest's metrics.
_FIGURES = {
    "quality, of the former": "quality",
    "popularity's": "quality_popularity",
    "mean cosine": "drift/cosine_mean",
    "lowest 5%": "drift/cosine_p05",
    "coverage": "drift/coverage",
    "norm ratio": "drift/norm_ratio",
    "neighbours changed": "drift/neighbours_changed",
}


def refreshed(
    job: AnyJob, as_of: datetime, result: Refresh | None, loaded: Mapping[str, Loaded]
) -> Table:
    """One column a view: its rows, what the parent was worth, its drift, its gate, its table.

    Args:
        job: the version.
        as_of: the cut.
        result: None where the refresh failed.
        loaded: by view, as far as views were loaded.
    """
    title = f"{job.family}, version {job.version}, as of {as_of:%Y-%m-%d %H:%M}"
    table = Table(title=title, show_edge=False)
    table.add_column("")
    columns = []
    for spec in job.specs:
        table.add_column(spec.view_name, no_wrap=True)
        columns.append(_column(spec, result, loaded.get(spec.view_name)))
    for name, *cells in zip(("rows", *_FIGURES, "gate", "online"), *columns, strict=True):
        table.add_row(name, *cells)
    return table


def _column(spec: EmbeddingSpec, result: Refresh | None, loaded: Loaded | None) -> list[str]:
    if result is None:
        return ["-", *("-" for _ in _FIGURES), "failed", "-"]
    found = result.findings.get(spec.view_name, Finding())
    rows, figures, notes = "not published", found.metrics, found.notes
    for snapshot in result.snapshots:
        if snapshot.manifest.view == spec.view_name:
            rows = f"{snapshot.manifest.rows:,}"
            figures, notes = snapshot.manifest.metrics, snapshot.manifest.notes
    cells = [_number(figures.get(name)) for name in _FIGURES.values()]
    return [rows, *cells, _gate(found, figures, notes), _online(loaded)]


def _gate(found: Finding, figures: Mapping[str, float | None], notes: Mapping[str, str]) -> str:
    if found.refused:
        return "refused"
    if "forced" in notes:
        return "forced"
    return "passed" if "drift/coverage" in figures else "nothing to compare"


def _online(loaded: Loaded | None) -> str:
    if loaded is None:
        return "-"
    return loaded.done if loaded.rows is None else f"{loaded.rows:,} rows, {loaded.done}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
