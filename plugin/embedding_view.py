"""Embedding views: Feast feature views that know what their vectors are.

    user_transra_v1 = embedding_view(name="user_transra", version=1, entity=user, dim=64, ...)

What is returned is a stock feature view over stock Parquet; the declaration travels in its tags,
so whoever has only the registry reads it back with :func:`spec_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.base_feature_view import BaseFeatureView
from feast.data_format import ParquetFormat
from feast.infra.registry.base_registry import BaseRegistry
from feast.types import Array, Float32, from_value_type

from provender.plugin.errors import SpecError
from provender.plugin.spec import SPEC_TAG, VECTOR_COLUMN, EmbeddingSpec
from provender.plugin.view_checks import check_declarations, check_vectors

TIME_COLUMN = "event_timestamp"
CREATED_COLUMN = "created_timestamp"
#: What stands beside the key in the files of every embedding view.
COLUMNS = (TIME_COLUMN, CREATED_COLUMN, VECTOR_COLUMN)


class SnapshotSource(FileSource):
    """The Parquet files of an embedding view, with the declaration they must agree with.

    Feast asks a source that names no time column for its columns, in ``feast plan``,
    ``feast apply`` and ``FeatureStore.apply`` alike, before it writes anything to any registry.
    This source leaves the column out to be asked, checks, and answers; so a refusal comes first
    whatever provider, registry or ``--skip-...`` flag is in use. In the registry it is a stock
    ``FileSource`` with its time column.
    """

    def __init__(self, spec: EmbeddingSpec, path: str) -> None:
        super().__init__(
            name=f"{spec.view_name}_snapshots",
            path=path,
            file_format=ParquetFormat(),
            created_timestamp_column=CREATED_COLUMN,
            tags=spec.to_tags(),
        )

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """Return the columns, having refused what must not be registered.

        Raises:
            VersionError: its version number or its space stands for something else already.
            SnapshotError: the stored vectors are not what the view declares.
        """
        spec = EmbeddingSpec.from_tags(self.tags)
        check_declarations([spec], registered_specs(config))
        check_vectors(spec, self.path)
        return [(VECTOR_COLUMN, "list<element: float>"), (TIME_COLUMN, "timestamp[us, tz=UTC]")]

    def validate(self, config: RepoConfig) -> None:
        """Do nothing: the files may not be there yet, and those that are get checked above."""


def embedding_view(
    *,
    name: str,
    version: int,
    entity: Entity,
    dim: int,
    nested_dims: Sequence[int] = (),
    dtype: str = "float32",
    space: str,
    producer: str,
    family: str | None = None,
    anchored_to: int | None = None,
    facet: str | None = None,
    ttl: timedelta,
    snapshots: str | Path,
    description: str = "",
    owner: str = "",
    online: bool = True,
) -> FeatureView:
    """Declare one version of one embedding as the Feast feature view ``<name>_v<version>``.

    The view has one feature, ``embedding``: an array of ``dim`` float32.

    Args:
        name: the embedding without its version.
        version: a new number for every new dim, dtype, space, producer or key.
        entity: whose embedding it is; it needs its ``value_type``.
        dim: floats a vector.
        nested_dims: ascending prefixes below ``dim`` that are embeddings themselves.
        dtype: ``float32``, ``float16`` or ``int8``: how an online store may keep a value.
        space: the vector space; views that are compared by dot product share it, versions only
            where the newer is anchored to the older.
        producer: what computes it, as in the snapshots' manifests.
        family: the views that are released together; the producer's name by default.
        anchored_to: the older version in whose space this one was trained to stay: rankers that
            accept it may read this one in the place of that one.
        facet: the relation as which the entity is seen, such as ``buy``; ``buy/head`` or
            ``buy/tail`` where one entity type is both its head and its tail. The raw vector by
            default. A relation's facets need a space that nothing else has.
        ttl: for how long after its as-of time a vector may be used.
        snapshots: the folder of all snapshots, in which ``<name>_v<version>/`` is this view's, or
            a Parquet file or glob of your own (``*.parquet``) with the columns join key,
            ``event_timestamp``, ``created_timestamp`` and ``embedding``. It need not exist yet.
            A relative path is taken from the working folder, which is the repo in ``feast apply``.

    Raises:
        SpecError: the declaration can't be.
    """
    spec = EmbeddingSpec.declare(
        name=name,
        version=version,
        entity=entity.name,
        join_key=entity.join_key,
        dim=dim,
        nested_dims=tuple(nested_dims),
        dtype=dtype,
        space=space,
        producer=producer,
        family=family,
        anchored_to=anchored_to,
        facet=facet,
        ttl=ttl,
    )
    return FeatureView(
        name=spec.view_name,
        entities=[entity],
        schema=[_key_field(spec, entity), _vector_field(spec)],
        source=SnapshotSource(spec, files_of(spec, str(snapshots))),
        ttl=ttl,
        online=online,
        description=description,
        owner=owner,
        tags=spec.to_tags(),
    )


def is_embedding_view(view: BaseFeatureView) -> bool:
    """Return whether a feature view was declared with :func:`embedding_view`."""
    return SPEC_TAG in view.tags


def spec_of(view: BaseFeatureView) -> EmbeddingSpec:
    """Return what an embedding view declares; raises SpecError on any other feature view."""
    return EmbeddingSpec.from_tags(view.tags)


def embedding_specs(store: FeatureStore) -> dict[str, EmbeddingSpec]:
    """Return every registered embedding view's declaration, by view name."""
    views = store.list_feature_views()
    return {view.name: spec_of(view) for view in views if is_embedding_view(view)}


def registered_specs(config: RepoConfig) -> dict[str, EmbeddingSpec]:
    """Return what the registry holds on disk, whatever a store has in memory."""
    return embedding_specs(_afresh(config))


def open_registry(config: RepoConfig) -> BaseRegistry:
    """Return the registry as it is on disk, whatever a store has in memory."""
    return _afresh(config).registry


def _afresh(config: RepoConfig) -> FeatureStore:
    root = str(config.repo_path) if config.repo_path else None
    return FeatureStore(repo_path=root, config=config)


def files_of(spec: EmbeddingSpec, snapshots: str) -> str:
    """Return the glob, or file, that holds the view's vectors.

    It is absolute, for DuckDB would take it from wherever `feast materialize` is run.
    """
    path = snapshots
    if not path.endswith(".parquet"):
        path = f"{path.rstrip('/')}/{spec.view_name}/*/part-*.parquet"
    return path if "://" in path else str(Path(path).resolve())


def _key_field(spec: EmbeddingSpec, entity: Entity) -> Field:
    if entity.value_type == ValueType.UNKNOWN:
        raise SpecError(
            f"embedding view {spec.view_name}, entity {entity.name}",
            found="no value_type",
            expected="the type of its key",
            remedy="Give the entity one, for example value_type=ValueType.INT64.",
        )
    if entity.join_key in COLUMNS:
        raise SpecError(
            f"embedding view {spec.view_name}, entity {entity.name}",
            found=f"join key {entity.join_key!r}",
            expected=f"a name other than {', '.join(COLUMNS)}",
            remedy="Rename the key column: those stand beside it in the same files.",
        )
    return Field(name=entity.join_key, dtype=from_value_type(entity.value_type))


def _vector_field(spec: EmbeddingSpec) -> Field:
    return Field(
        name=VECTOR_COLUMN,
        dtype=Array(Float32),
        description=f"{spec.dim} floats in the space {spec.space}",
        vector_index=True,
        vector_length=spec.dim,
    )
