"""Doing what a plan of :mod:`provender.plugin.garbage` says, one thing after the other.

The registry goes first: from then on nobody comes to what is dropped after it. A process that is
killed leaves what the next gc finds, and decides of, as if it had been left by others.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from feast import FeatureStore
from feast.base_feature_view import BaseFeatureView

from provender.plugin.errors import ReleaseConflictError
from provender.plugin.files import remove_empty, remove_folder
from provender.plugin.garbage import Plan, Thing
from provender.plugin.home import Home
from provender.plugin.online_hot import drop_hot_folder, hot_folder
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.online_tables import OnlineTable
from provender.plugin.releases import Release, Releases
from provender.plugin.snapshot import remove_snapshot


class Removal:
    """Removes the things of one plan.

    Args:
        releases: the states that the plan was made of; where a family has moved since, what it
            decides of is not touched.
    """

    def __init__(self, store: FeatureStore, home: Home, releases: Mapping[str, Release]) -> None:
        self._store, self._home = store, home
        self._planned = releases
        self._releases = Releases.of(store)
        self._online = ProvenderOnlineStore()

    def remove(self, plan: Plan, on_removed: Callable[[Thing], None]) -> None:
        """Remove everything that goes, telling of each thing that is gone.

        Raises ReleaseConflictError: a release was moved meanwhile; what is gone stays gone.
        """
        steps: dict[str, Callable[[Thing], None]] = {
            "version": self._unregister,
            "source": self._unregister,
            "table": self._drop_table,
            "run": lambda run: remove_folder(self._home.runs, _place(run)),
            "snapshot": lambda each: remove_snapshot(self._home.snapshots, _place(each)),
            "staging": lambda left: shutil.rmtree(_place(left), ignore_errors=True),
            "folder": lambda empty: remove_empty(_place(empty)),
        }
        for thing in plan.gone:
            self._check_release(thing)
            steps[thing.kind](thing)
            on_removed(thing)

    def _check_release(self, thing: Thing) -> None:
        now = self._releases.states()
        families = {*now, *self._planned} if thing.family is None else {thing.family}
        for family in sorted(families):
            planned, found = (_serial(states.get(family)) for states in (self._planned, now))
            if planned != found:
                raise ReleaseConflictError(
                    f"family {family}",
                    found=f"move {found} since gc began",
                    expected=f"its release as it was, after move {planned}",
                    remedy=f"Run `provender gc` again; {thing.name} and what comes after it in "
                    "the list stand yet.",
                )

    def _unregister(self, thing: Thing) -> None:
        """Take a version's views and their sources out of the registry.

        A file registry is written once; a SQL registry takes out one after the other.
        """
        registry, project = self._store.registry, self._store.project
        self._refresh()  # Lest a change of somebody else's be written over.
        views = {view.name: view for view in registry.list_all_feature_views(project)}
        going = [views[name] for name in thing.views if name in views]
        staying = [view for view in views.values() if view not in going]
        sources = _sources(going) if thing.kind == "version" else {thing.name}
        sources -= _sources(staying)
        registered = {source.name for source in self._store.list_data_sources()}
        for view in going:
            registry.delete_feature_view(view.name, project, commit=False)
        for source in sorted(sources & registered):
            registry.delete_data_source(source, project, commit=False)
        registry.commit()  # type: ignore[no-untyped-call]
        self._refresh()

    def _refresh(self) -> None:
        self._store.refresh_registry()  # type: ignore[no-untyped-call]

    def _drop_table(self, table: Thing) -> None:
        config = self._store.config
        hot = hot_folder(config, table.name)
        if hot is not None:
            drop_hot_folder(hot)
        # Of a table that is dropped the key's type does not matter.
        gone = OnlineTable(table.name, integer=False)
        self._online.database(config).drop(f"online table {table.name}", [gone])


def _sources(views: Iterable[BaseFeatureView]) -> set[str]:
    found = (getattr(view, "batch_source", None) for view in views)
    return {source.name for source in found if source is not None}


def _serial(release: Release | None) -> int:
    return release.serial if release else 0


def _place(thing: Thing) -> Path:
    assert thing.path is not None
    return thing.path
