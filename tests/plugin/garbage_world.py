"""A home in which versions come and go: runs, rankers, native versions, another's tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from feast import FeatureStore, FeatureView

from provender.plugin.embedding_view import spec_of
from provender.plugin.home import Home
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.ranker_stamp import STAMP, RankerStamp, TrainedOn
from provender.plugin.releases import Release
from provender.plugin.snapshot import Snapshot, find_snapshots
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.table_records import TABLES
from tests.plugin.online_world import OnlineWorld, number_view
from tests.plugin.release_world import DAY, PIN, USER, ReleaseWorld, T, keys_of


def run_id(version: int, as_of: datetime) -> str:
    """A run's id as producers make them."""
    digest = hashlib.sha256(f"{version} {as_of}".encode()).hexdigest()[:10]
    return f"transra-{as_of:%Y%m%dT%H%M%SZ}-{digest}"


def write_ranker(path: Path, views: Sequence[TrainedOn], **given: Any) -> RankerStamp:
    """Write a checkpoint that holds nothing but its stamp."""
    fields = {
        "run_id": f"ranker-{path.stem}",
        "config_hash": "f00d",
        "code_version": "1",
        "service": "ranker_transra",
        "window_start": T - DAY,
        "window_end": T,
        "rows": 1000,
        "dense": (),
        "preprocessing": "beef",
        "trained_at": T,
    }
    stamp = RankerStamp.model_validate({**fields, "views": tuple(views), **given})
    header = json.dumps({"__metadata__": {STAMP: stamp.model_dump_json()}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return stamp


@dataclass
class GarbageWorld:
    """A home around a repo with the family `transra`."""

    released: ReleaseWorld

    @property
    def home(self) -> Home:
        return Home(self.released.online.root)

    @property
    def store(self) -> FeatureStore:
        return self.released.store

    @property
    def options(self) -> list[str]:
        """What tells a command where it all is."""
        return ["--home", str(self.home.path), "--repo", str(self.released.repo)]

    def refresh(self, version: int, days: Sequence[int]) -> list[Snapshot]:
        """Write snapshots of some days, each the parent of the next, with the runs' folders."""
        written: list[Snapshot] = []
        for day in days:
            as_of = T + day * DAY
            parent = written[-1].manifest.run_id if written else None
            written += self.released.refresh(
                version, as_of, run=run_id(version, as_of), parent=parent
            )
            model = self.home.runs / run_id(version, as_of) / "model"
            model.mkdir(parents=True)
            (model / "user.safetensors").write_bytes(bytes(100))
        return written

    def ready(self, version: int, days: Sequence[int], **given: Any) -> list[Snapshot]:
        """Declare a version, refresh it, and materialize all of it."""
        self.released.declare(version, **given)
        written = self.refresh(version, days)
        self.released.materialize(version, T + days[-1] * DAY)
        return written

    def move(self, **changes: Any) -> Release:
        """Move the release as it is said, past all gates."""
        state = self.released.releases.current("transra")
        first = {} if state else {"family": "transra"}
        return self.released.releases.move(state, **{"action": "promote"} | first | changes)

    def ranker(self, name: str, version: int, days: Sequence[int]) -> Path:
        """Write a ranker that learned from all views of a version, as of some days."""
        path = self.home.rankers / f"{name}.safetensors"
        as_ofs = {T + day * DAY for day in days}
        views = []
        for view in self.released.declared[version]:
            found = self.snapshots(view.name)
            runs = tuple(each.manifest.record for each in found if each.manifest.as_of in as_ofs)
            views.append(TrainedOn(spec=spec_of(view), runs=runs))
        write_ranker(path, views)
        return path

    def snapshots(self, view: str) -> list[Snapshot]:
        """A view's snapshots."""
        return find_snapshots(self.home.snapshots, view)

    def declare_in_files(self, *versions: int) -> None:
        """Write the repo's Python file anew."""
        specs = [spec_of(view) for each in versions for view in self.released.declared[each]]
        (self.released.repo / "views.py").write_text(_python(specs, self.home.snapshots))

    def native_version(self, name: str, number: int) -> FeatureView:
        """Make the table of a native version of a view that is registered nowhere."""
        view = number_view(name)
        view.current_version_number = number
        config = self.store.config.model_copy(deep=True)
        config.registry.enable_online_feature_view_versioning = True
        ProvenderOnlineStore().update(config, [], [view], [], [], True)
        return view

    def forgotten_by_feast(self, version: int) -> None:
        """What `FeatureStore.delete_feature_view` leaves: tables, sources, all files."""
        for view in self.released.declared[version]:
            self.store.delete_feature_view(view.name)

    def tables(self) -> set[str]:
        """The project's tables, without its name, and all that is not ours."""
        names = self.released.online.database().names("test")
        return {name for name in names if name.startswith(self.store.project)}

    def registered(self) -> set[str]:
        """Names of everything in the registry."""
        store = self.released.open()
        listed = (store.list_all_feature_views, store.list_data_sources)
        services = {service.name for service in store.list_feature_services()}
        return {thing.name for names in listed for thing in names()} | services

    def served(self, version: int) -> list[npt.NDArray[np.float32]]:
        """What a reader gets of a version: (rows, dim) of users, then of pins."""
        store, found = self.released.open(), []
        for view in store.list_feature_views():
            if view.name.endswith(f"_v{version}"):
                entity = USER if view.name.startswith("user") else PIN
                keys = {entity.join_key: keys_of(entity).to_pylist()}
                rows = ProvenderOnlineStore().read_columns(store.config, view, keys)
                assert rows.present.all()
                found.append(rows.columns["embedding"].values)
        return found

    def tear_down(self) -> None:
        """Drop the tables of projects whose names begin with this one's."""
        self.released.online.tear_down()
        database = self.released.online.database()
        if database.has("test", TABLES.name):
            mine = sa.func.substr(TABLES.c.project, 1, len(self.store.project))
            database.execute("test", TABLES.delete().where(mine == self.store.project))
        database.dispose()


def open_garbage_world(online: OnlineWorld, **given: Any) -> GarbageWorld:
    return GarbageWorld(ReleaseWorld(online, **given))


def tree(root: Path) -> dict[str, str]:
    """Every file under a folder -> its content's hash; folders -> nothing.

    Locks are left out, and SQLite's, which is what its file of shared memory is, and Python's
    bytecode, which it writes when it pleases.
    """
    return {
        str(path.relative_to(root)): _digest(path)
        for path in sorted(root.rglob("*"))
        if not path.name.endswith((".lock", "-shm", ".staging")) and "__pycache__" not in path.parts
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _python(specs: Sequence[EmbeddingSpec], snapshots: Path) -> str:
    lines = [
        "from datetime import timedelta",
        "from feast import Entity, ValueType",
        "from provender.plugin.embedding_view import embedding_view",
        "user = Entity(name='user', join_keys=['user_id'], value_type=ValueType.INT64)",
        "pin = Entity(name='pin', join_keys=['pin_id'], value_type=ValueType.STRING)",
    ]
    for spec in specs:
        lines.append(
            f"{spec.view_name} = embedding_view(name={spec.name!r}, version={spec.version}, "
            f"entity={spec.entity}, dim={spec.dim}, space={spec.space!r}, "
            f"producer={spec.producer!r}, ttl=timedelta(days=3), snapshots={str(snapshots)!r})"
        )
    return "\n".join(lines) + "\n"
