"""What is known of a family's versions at a glance: which serves, and what lies of each where."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from feast import FeatureStore
from rich.table import Table
from rich.text import Text

from provender.plugin.embedding_view import embedding_specs
from provender.plugin.families import views_of
from provender.plugin.release_gates import moment, shown
from provender.plugin.releases import Release, Releases
from provender.plugin.snapshot_gates import newest_quality
from provender.plugin.stored_views import StoredVersions, StoredView, stored_families


def status_of(store: FeatureStore, family: str | None, now: datetime) -> dict[str, Any]:
    """Return family -> what serves and its versions, as JSON has it.

    Args:
        store: the feature store, with provender's online store.
        family: which; all by default.
        now: the time from which ages are counted.

    Raises ReleaseError where there is no such family.
    """
    releases = Releases.of(store)
    states = releases.states()
    families = stored_families(store, releases)
    if family is not None:
        views_of(embedding_specs(store), family)
        families = {family: families[family]}
    return {name: _family(families[name], states.get(name), now) for name in families}


def status_tables(status: dict[str, Any]) -> Iterator[Table]:
    """Yield the status of each family as a terminal shows it."""
    names = ("version", "is", "view", "dim", "dtype", "space", "online as of", "age", "rows")
    for family, told in status.items():
        table = Table(*names, "snapshot", "quality", "anchored to", box=None, pad_edge=False)
        table.title, table.title_justify = Text(f"family {family}"), "left"
        for version in told["versions"]:
            for view in version["views"]:
                table.add_row(str(version["version"]), version["is"], *_cells(view))
        yield table


def history_table(moves: list[Release]) -> Table:
    """Return the moves of a family as a terminal shows them, the first first."""
    names = (
        "move",
        "at",
        "by",
        "action",
        "live",
        "former",
        "canary",
        "retired",
        "reason",
        "failed",
    )
    table = Table(*names, box=None, pad_edge=False)
    for move in moves:
        canary = "" if move.candidate is None else f"{move.candidate} ({move.share:.1%})"
        failed = [check.name for check in move.checks if not check.passed]
        table.add_row(
            str(move.serial),
            f"{move.at:%Y-%m-%d %H:%M:%S}",
            Text(move.by),
            move.action,
            _text(move.live),
            _text(move.former),
            canary,
            ", ".join(map(str, move.retired)),
            Text(move.reason or ""),
            ", ".join(failed),
        )
    return table


def _family(versions: StoredVersions, state: Release | None, now: datetime) -> dict[str, Any]:
    told = state.model_dump(mode="json", exclude={"family", "checks"}) if state else {}
    kept = ("live", "former", "candidate", "share", "retired", "serial", "at", "by", "reason")
    return {
        **{name: told.get(name) for name in kept},
        "versions": [
            {
                "version": version,
                "is": _role(version, state),
                "views": [_view(view, now) for view in views],
            }
            for version, views in versions.items()
        ],
    }


def _role(version: int, state: Release | None) -> str:
    if state is None:
        return "declared"
    roles = {"live": version == state.live, "retired": version in state.retired}
    roles["former"] = version == state.former
    roles[f"canary {state.share:.1%}"] = version == state.candidate
    return ", ".join(role for role, held in roles.items() if held) or "declared"


def _view(view: StoredView, now: datetime) -> dict[str, Any]:
    spec, online = view.spec, view.online_as_of
    judged = newest_quality(view, now)
    return {
        "view": spec.view_name,
        "entity": spec.entity,
        "dim": spec.dim,
        "nested_dims": list(spec.nested_dims),
        "dtype": spec.dtype,
        "space": spec.space,
        "anchored_to": spec.anchored_to,
        "run": view.loaded.run_id if view.loaded else None,
        "online_as_of": online.isoformat() if online else None,
        "age_seconds": (now - online).total_seconds() if online else None,
        "ttl_seconds": spec.ttl.total_seconds(),
        "rows": view.rows if view.there else None,
        "snapshot_as_of": view.snapshots[-1].manifest.as_of.isoformat() if view.snapshots else None,
        "quality": judged[1] if judged else None,
        "quality_as_of": judged[0].isoformat() if judged else None,
    }


def _cells(view: dict[str, Any]) -> list[str | Text]:
    """What a view's row says from the view's name on."""
    nested = f" ({', '.join(map(str, view['nested_dims']))})" if view["nested_dims"] else ""
    return [
        view["view"],
        f"{view['dim']}{nested}",
        view["dtype"],
        Text(view["space"]),
        _moment(view["online_as_of"]),
        _age(view["age_seconds"]),
        "no table" if view["rows"] is None else f"{view['rows']:,}",
        _moment(view["snapshot_as_of"]),
        "" if view["quality"] is None else f"{view['quality']:.4g}",
        _text(view["anchored_to"]),
    ]


def _moment(text: str | None) -> str:
    return moment(datetime.fromisoformat(text)) if text else ""


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return shown(timedelta(seconds=seconds)) if seconds >= 0 else "in the future"


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
