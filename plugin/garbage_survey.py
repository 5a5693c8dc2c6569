"""Looking at all that `provender gc` decides of: registry, releases, tables, rankers, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from feast import FeatureStore, FeatureView
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.infra.online_stores.helpers import compute_table_id

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.files import STAGING, stale
from provender.plugin.garbage import RUN_ID, Survey
from provender.plugin.gates import Gates, gates_of
from provender.plugin.home import Home
from provender.plugin.lineage import Ranker
from provender.plugin.manifest import MANIFEST_NAME
from provender.plugin.online_store import PRECOMPUTED, ProvenderOnlineStore
from provender.plugin.online_tables import fitting
from provender.plugin.ranker_stamp import read_stamps
from provender.plugin.releases import Releases
from provender.plugin.repo import SETTINGS, views_in_repo
from provender.plugin.snapshot import Snapshot, all_snapshots, snapshot_path
from provender.plugin.snapshot_source import snapshot_folder, source_path
from provender.plugin.spec import SPEC_TAG, EmbeddingSpec


def survey(store: FeatureStore, home: Home, rankers: Path) -> Survey:
    """Read everything once.

    Args:
        rankers: the folder of checkpoints that count.

    Raises:
        ConfigError: the online store is another than provender's, which keeps no releases.
        SnapshotError: a manifest under the home can't be read.
    """
    releases = Releases.of(store).states()
    store.refresh_registry()  # type: ignore[no-untyped-call]
    views = {view.name: view for view in _views(store, store.project)}
    specs = {name: spec_of(view) for name, view in views.items() if is_embedding_view(view)}
    stamped = tuple(Ranker(*each) for each in read_stamps(rankers).items())
    standing, others = _snapshots(store, home, views)
    declared = _declared(store, home)
    known = (*specs.values(), *declared.values(), *_stamped_specs(stamped))
    return Survey(
        project=store.project,
        specs=specs,
        views=frozenset(views),
        declared=declared,
        readers=dict(_readers(store, views)),
        releases=releases,
        rankers=stamped,
        gates=_gates(store, {spec.family for spec in known}),
        sources=dict(_sources(store, views)),
        tables=tuple(
            table
            for table in ProvenderOnlineStore().records(store.config).values()
            if not table.view.startswith(PRECOMPUTED)
        ),
        table_views=_table_views(store),
        snapshots=standing,
        folder_readers=dict(_folder_readers(store, home)),
        mixed=frozenset(each.path for each in standing if _is_mixed(each)),
        runs={path.name: path for path in _runs(home)},
        runs_elsewhere=frozenset(each.manifest.run_id for each in others),
        stale=(*stale(home.snapshots), *stale(home.runs)),
        empty=tuple(_empty(home)),
    )


def _views(store: FeatureStore, project: str) -> list[BaseFeatureView]:
    return store.registry.list_all_feature_views(project)


def _declared(store: FeatureStore, home: Home) -> dict[str, EmbeddingSpec]:
    """What this repo, and any other one in the home, declares."""
    repos = {path.parent.resolve() for path in home.path.glob(f"*/{SETTINGS}")}
    found: dict[str, EmbeddingSpec] = {}
    for repo in sorted({*repos, Path(store.repo_path).resolve()}):
        if (repo / SETTINGS).is_file():
            found |= {each.spec.view_name: each.spec for each in views_in_repo(repo)}
    return found


def _stamped_specs(rankers: tuple[Ranker, ...]) -> Iterator[EmbeddingSpec]:
    for ranker in rankers:
        yield from (on.spec for on in ranker.stamp.views)


def _gates(store: FeatureStore, families: set[str]) -> dict[str, Gates]:
    return {family: gates_of(Path(store.repo_path), family) for family in families}


def _readers(store: FeatureStore, views: dict[str, BaseFeatureView]) -> Iterator[tuple[str, str]]:
    """View -> what else in the registry reads it."""
    for view in views.values():
        sources = [*(getattr(view, "source_views", None) or ())]
        sources += getattr(view, "source_feature_view_projections", {}).values()
        yield from ((source.name, f"feature view {view.name}") for source in sources)
    for service in store.registry.list_feature_services(store.project):
        for projection in service.feature_view_projections:
            yield projection.name, f"feature service {service.name}"


def _sources(
    store: FeatureStore, views: dict[str, BaseFeatureView]
) -> Iterator[tuple[str, EmbeddingSpec]]:
    """Sources of embedding views that no registered view has."""
    used = {source.name for view in views.values() if (source := _source(view)) is not None}
    for source in store.registry.list_data_sources(store.project):
        if SPEC_TAG in source.tags and source.name not in used:
            yield source.name, EmbeddingSpec.from_tags(source.tags)


def _source(view: BaseFeatureView) -> DataSource | None:
    source: DataSource | None = getattr(view, "batch_source", None)
    return source


def _table_views(store: FeatureStore) -> dict[str, frozenset[tuple[str, str]]]:
    """Table -> the registered views that it is of; two projects' names may run together."""
    versioned = store.config.registry.enable_online_feature_view_versioning
    found: dict[str, frozenset[tuple[str, str]]] = {}
    for project in store.registry.list_projects():
        for view in _views(store, project.name):
            if isinstance(view, FeatureView):
                name = fitting(compute_table_id(project.name, view, versioned))
                found[name] = found.get(name, frozenset()) | {(project.name, view.name)}
    return found


def _snapshots(
    store: FeatureStore, home: Home, views: dict[str, BaseFeatureView]
) -> tuple[tuple[Snapshot, ...], list[Snapshot]]:
    """The snapshots of the home that lie in their places, and all others that can be found."""
    root = home.snapshots.resolve()
    ours: list[Snapshot] = []
    others: list[Snapshot] = []
    for each in all_snapshots(root):
        known = each.manifest
        supplement = known.supplement_of is not None
        place = snapshot_path(root, known.view, known.as_of, supplement=supplement)
        (ours if each.path == place else others).append(each)
    folders = (snapshot_folder(source_path(_source(view))) for view in views.values())
    for elsewhere in sorted({folder.parent for folder in folders if folder} - {root}):
        others += all_snapshots(elsewhere)
    return tuple(ours), others


def _folder_readers(store: FeatureStore, home: Home) -> Iterator[tuple[str, str]]:
    """View -> a registered view of another name, or of another project, that reads its folder."""
    root = home.snapshots.resolve()
    folders = [each.name for each in root.iterdir() if each.is_dir()] if root.is_dir() else []
    for project in store.registry.list_projects():
        for view in _views(store, project.name):
            path = source_path(_source(view))
            if not path or "://" in path:
                continue
            read = _without_magic(store, path)
            for folder in folders:
                own = (folder, store.project) == (view.name, project.name)
                within = read.is_relative_to(root / folder) or (root / folder).is_relative_to(read)
                if within and not own:
                    yield folder, f"feature view {view.name} of project {project.name}"


def _without_magic(store: FeatureStore, path: str) -> Path:
    """The folder in which all that a glob finds lies, or the file itself."""
    parts = Path(path).parts
    magic = next((at for at, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
    return (Path(store.repo_path) / Path(*parts[:magic])).resolve()


def _is_mixed(snapshot: Snapshot) -> bool:
    ours = {MANIFEST_NAME, *(file.name for file in snapshot.manifest.files)}
    return any(path.name not in ours for path in snapshot.path.iterdir())


def _empty(home: Home) -> list[Path]:
    folders = home.snapshots.iterdir() if home.snapshots.is_dir() else []
    views = (path for path in folders if path.is_dir() and path.name != STAGING)
    return sorted(path for path in views if not any(path.iterdir()))


def _runs(home: Home) -> list[Path]:
    found = home.runs.iterdir() if home.runs.is_dir() else []
    return sorted(path for path in found if path.is_dir() and RUN_ID.fullmatch(path.name))
