"""The offline store: point-in-time joins over files, at the cost of copying their result.

    offline_store:
      type: provender.plugin.offline_store.ProvenderOfflineStore

It serves every feature view over a FileSource (Parquet, Delta and what else Feast's DuckDB store
reads), and embedding views straight from their mapped snapshots. What it does not read, it leaves
to Feast's DuckDB store: monitoring, and writing to lakehouse tables.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import compute_non_entity_date_range

from provender.plugin.entity_frame import held
from provender.plugin.historical_retrieval import HistoricalRetrieval, Wanted
from provender.plugin.known_entities import known_entities
from provender.plugin.offline_write import append_rows, write_logs
from provender.plugin.retrieval_job import ProvenderRetrievalJob
from provender.plugin.source_pull import Pull, pull

STORE = "provender.plugin.offline_store.ProvenderOfflineStore"


class ProvenderOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The ``offline_store`` section of feature_store.yaml: nothing but its type is needed."""

    type: str = STORE


class ProvenderOfflineStore(DuckDBOfflineStore):
    """Feast's offline store interface; see the module."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | Path | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Join features to entity rows: same rows, same order, duplicates included.

        Args:
            entity_df: a DataFrame, an Arrow table, the path of a Parquet file, SQL for DuckDB, or
                None: every key and time at which a view has a value between the dates.
            filter_by_created_timestamp: no value before it was created.

        Raises:
            EntityFrameError: no time, no key, or one of another type than the view's.
            SourceError, SnapshotError: a source that can't be read or lacks a column.
        """
        span: tuple[datetime, datetime] | None = None
        if entity_df is None:
            span = compute_non_entity_date_range(feature_views, start_date, end_date)
            entity_df = known_entities(config, feature_views, *span)
        wanted = Wanted(
            feature_views, feature_refs, full_feature_names, filter_by_created_timestamp
        )
        retrieval = HistoricalRetrieval(config, held(entity_df), wanted)
        return ProvenderRetrievalJob(
            retrieval.batches,
            repo_path=str(config.repo_path),
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            metadata=lambda: retrieval.metadata(feature_refs, span),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Return every entity's newest row between the dates, both included, once."""
        columns = Pull(
            join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        )
        return pull(config, data_source, columns, start_date, end_date, latest=True)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return every row between the dates, both included; without dates, every row."""
        columns = Pull(
            join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        )
        return pull(config, data_source, columns, start_date, end_date, latest=False)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add a feature service's logs to the folder that its logging names."""
        write_logs(config, data, logging_config.destination)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to a view's file, which is replaced as a whole.

        Raises SnapshotError: an embedding view's snapshots do not change.
        """
        append_rows(config, feature_view, table)
        if progress:
            progress(table.num_rows)
