"""The Feast provider that sees all embedding views of one ``feast plan`` or ``feast apply``.

    provider: provender.plugin.provider.ProvenderProvider

Stores and engines are whatever feature_store.yaml names. Each view's source refuses what is wrong
with the view alone (:class:`provender.plugin.embedding_view.SnapshotSource`); this refuses what is
wrong with the views together, and hand-made feature views that only look like embedding views.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Sequence
from datetime import datetime
from glob import has_magic
from typing import Any

import ibis  # type: ignore[import-untyped]
from feast import Entity, FeatureView, FileSource, RepoConfig
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.infra.infra_object import Infra
from feast.infra.passthrough_provider import PassthroughProvider
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from provender.plugin.embedding_view import (
    is_embedding_view,
    open_registry,
    registered_specs,
    spec_of,
)
from provender.plugin.errors import ReleaseError, SpecError
from provender.plugin.spec import EmbeddingSpec
from provender.plugin.view_checks import check_declarations

#: A row of a search: its time, its key, its values.
Document = tuple[datetime | None, EntityKey | None, dict[str, Value] | None]

# Ibis' call, which only Ibis can change, warned of at every view that `feast materialize` reads.
warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)


class ProvenderProvider(PassthroughProvider):
    """Feast's own provider, which first refuses embedding views that contradict each other."""

    def plan_infra(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> Infra:
        """Check every view that `feast plan` would register, then plan as Feast does."""
        views = [FeatureView.from_proto(view) for view in desired_registry_proto.feature_views]
        self._check(views)
        return super().plan_infra(config, desired_registry_proto)

    def update_infra(
        self,
        project: str,
        tables_to_delete: Sequence[BaseFeatureView],
        tables_to_keep: Sequence[BaseFeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Check every view that is about to be committed, then make its tables.

        Feast has the views in memory by now: after a refusal, go on with a new ``FeatureStore``.
        ``feast delete`` passes the view it deletes among those to keep as well: a view that goes
        as it stands is not asked for its reasons.

        Raises ReleaseError: a view to delete is one that a release needs.
        """
        self._check([view for view in tables_to_keep if view not in tables_to_delete])
        try:
            super().update_infra(
                project,
                tables_to_delete,
                tables_to_keep,
                entities_to_delete,
                entities_to_keep,
                partial,
            )
        except ReleaseError:
            self._put_back(project, tables_to_delete, entities_to_delete)
            raise

    def _put_back(
        self, project: str, views: Sequence[BaseFeatureView], entities: Sequence[Entity]
    ) -> None:
        """Register again what was not to be deleted, where the registry has forgotten it.

        A SQL registry commits each deletion before it asks for the tables; a file has lost nothing.
        """
        registry = open_registry(self.repo_config)
        held = {entity.name for entity in registry.list_entities(project)}
        for entity in entities:
            if entity.name not in held:
                registry.apply_entity(entity, project)
        held = {view.name for view in registry.list_all_feature_views(project)}
        for view in views:
            if view.name not in held:
                registry.apply_feature_view(view, project)
                for source in _sources(view):
                    registry.apply_data_source(source, project)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Validate as Feast does, save globs: it would look for a file of just that name."""
        if isinstance(data_source, FileSource) and has_magic(data_source.path):
            return
        super().validate_data_source(config, data_source)

    def retrieve_online_documents_v2(
        self, config: RepoConfig, table: FeatureView, *args: Any, **options: Any
    ) -> list[Document]:
        """The best rows, in such pairs of keys and values as Feast puts together rightly.

        Feast 0.67 gives the keys in the order of these rows, but takes the j-th row's values for
        those of the j-th smallest key (``_get_unique_entities_from_values``), so each pin would
        stand beside another one's distance. Here the j-th row has those values.
        """
        found = super().retrieve_online_documents_v2(config, table, *args, **options)
        keys = [_sortable(key) for _, key, _ in found if key is not None]
        if len(keys) < len(found):
            return list(found)
        places = sorted(range(len(found)), key=lambda place: keys[place])
        return [
            (found[place][0], row[1], found[place][2])
            for row, place in zip(found, places, strict=True)
        ]

    def _check(self, views: Sequence[BaseFeatureView]) -> None:
        declared = [_named_spec(view) for view in views if is_embedding_view(view)]
        if declared:
            check_declarations(declared, registered_specs(self.repo_config))


@atexit.register
def _close_duckdb() -> None:
    # Feast's DuckDB store leaves Ibis' connection open, for which DuckDB 2.0 prints forty lines
    # of "leaked" at the end of every `feast materialize`.
    if ibis.options.default_backend is not None:
        ibis.options.default_backend.disconnect()
        ibis.options.default_backend = None


def _sortable(key: EntityKey) -> tuple[Any, ...]:
    """The values of an entity's key as Feast compares them."""
    return tuple(getattr(value, value.WhichOneof("val")) for value in key.entity_values)


def _sources(view: BaseFeatureView) -> list[DataSource]:
    sources = (getattr(view, name, None) for name in ("batch_source", "stream_source"))
    return [source for source in sources if source is not None]


def _named_spec(view: BaseFeatureView) -> EmbeddingSpec:
    spec = spec_of(view)
    if view.name != spec.view_name:
        raise SpecError(
            f"embedding view {view.name}",
            found=f"the declaration of {spec.view_name}",
            expected=f"the name {spec.view_name}: name and version show in it",
            remedy="Declare it with embedding_view() instead of renaming it.",
        )
    return spec
