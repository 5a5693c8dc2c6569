"""The compute engine: `feast materialize` as a stream of Arrow batches from store to store.

    batch_engine:
      type: provender.plugin.compute_engine.ProvenderEngine

A feature view that is its source's rows and nothing else goes from the offline store to our online
store in bounded memory, without a Python object a row. All others, with transformations,
aggregations, views as sources or another online store, go through Feast's own local engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa
from feast import BatchFeatureView, Entity, FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.common.retrieval_task import HistoricalRetrievalTask
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_column_names

from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.retrieval_job import BATCH_ROWS, ProvenderRetrievalJob
from provender.plugin.snapshot_source import runs_within

View = BatchFeatureView | StreamFeatureView | FeatureView
#: More rows than any table has.
_UNLIMITED = 2**62


class ProvenderEngineConfig(FeastConfigBaseModel):
    """The ``batch_engine`` section of feature_store.yaml: nothing but its type is needed.

    Attributes:
        type: this class.
        backend: ``pandas`` or ``polars``, for the views that Feast's local engine computes.
    """

    type: Literal["provender.plugin.compute_engine.ProvenderEngine"] = (
        "provender.plugin.compute_engine.ProvenderEngine"
    )
    backend: str | None = None


class ProvenderEngine(ComputeEngine):
    """Feast's engine interface; see the module."""

    def __init__(
        self,
        *,
        repo_config: RepoConfig,
        offline_store: OfflineStore,
        online_store: OnlineStore,
        backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            repo_config=repo_config,
            offline_store=offline_store,
            online_store=online_store,
            **options,
        )
        self._local = LocalComputeEngine(
            backend,
            repo_config=_written_by_batch(repo_config),
            offline_store=offline_store,
            online_store=online_store,
        )

    def update(
        self,
        project: str,
        views_to_delete: Sequence[View],
        views_to_keep: Sequence[View | OnDemandFeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
    ) -> None:
        """Do nothing: there is nothing to prepare."""

    def teardown_infra(self, project: str, fvs: Sequence[View], entities: Sequence[Entity]) -> None:
        """Do nothing: there is nothing to take down."""

    def get_historical_features(
        self, registry: BaseRegistry, task: HistoricalRetrievalTask
    ) -> RetrievalJob:
        """Retrieve as Feast's local engine does; it is asked for views with transformations."""
        return self._local.get_historical_features(registry, task)

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **options: Any
    ) -> MaterializationJob:
        source = _plain_source(task)
        if source is None or not isinstance(self.online_store, ProvenderOnlineStore):
            return self._local._materialize_one(registry, task, **options)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._load(registry, task, source, self.online_store)
        except Exception as error:  # Feast raises it, and leaves the view's watermark as it is.
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _load(
        self,
        registry: BaseRegistry,
        task: MaterializationTask,
        source: DataSource,
        online_store: ProvenderOnlineStore,
    ) -> None:
        view = task.feature_view
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, time, created = _get_column_names(view, entities)
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=time,
            created_timestamp_column=created,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        names = source.field_mapping or {}
        with _progress(task) as progress:
            online_store.load(
                self.repo_config,
                view,
                _renamed(_batches(job), names, view),
                timestamp_field=names.get(time, time),
                created_field=names.get(created, created) if created else None,
                runs=runs_within(source, task.start_time, task.end_time),
                progress=progress,
            )


#: Attributes of views whose online rows are not just the newest rows of their source.
_COMPUTED = (
    "source_views",
    "feature_transformation",
    "_raw_feature_transformation_proto",
    "aggregations",
    "filter",
    "enable_validation",
    "offline",
)


def _plain_source(task: MaterializationTask) -> DataSource | None:
    """The source whose newest rows are to be the view's online rows, as they are."""
    view = task.feature_view
    computed = any(getattr(view, name, None) for name in _COMPUTED)
    return view.batch_source if task.only_latest and view.online and not computed else None


def _written_by_batch(config: RepoConfig) -> RepoConfig:
    """The same configuration, in which tables are cut into batches before they are written.

    Feast's local engine writes only the first chunk of a table that it does not cut. Batches
    without a limit are the chunks, so a table of one chunk is still written at once.
    """
    materialization = config.materialization_config
    if materialization.online_write_batch_size is not None:
        return config
    cut = materialization.model_copy(update={"online_write_batch_size": _UNLIMITED})
    return config.model_copy(update={"materialization_config": cut})


def _batches(job: RetrievalJob) -> Iterator[pa.RecordBatch]:
    if isinstance(job, ProvenderRetrievalJob):
        return job.stream()
    return iter(job.to_arrow().to_batches(BATCH_ROWS))


def _renamed(
    batches: Iterator[pa.RecordBatch], names: dict[str, str], view: View
) -> Iterator[pa.RecordBatch]:
    """The batches under the view's own names, with the key that a view without entities has."""
    keyless = DUMMY_ENTITY_ID in {column.name for column in view.entity_columns}
    for batch in batches:
        columns = [names.get(name, name) for name in batch.schema.names]
        batch = batch.rename_columns(columns)
        if keyless and DUMMY_ENTITY_ID not in columns:
            batch = batch.append_column(
                DUMMY_ENTITY_ID, pa.repeat(DUMMY_ENTITY_VAL, batch.num_rows)
            )
        yield batch


@contextmanager
def _progress(task: MaterializationTask) -> Iterator[Callable[[int], Any] | None]:
    """A bar that counts rows; how many there will be is known only at the end."""
    if task.tqdm_builder is None:
        yield None
        return
    with task.tqdm_builder(None) as bar:  # type: ignore[arg-type]
        yield bar.update
