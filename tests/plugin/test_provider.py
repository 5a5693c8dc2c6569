from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, FileSource, Project, ValueType
from feast.errors import ConflictingFeatureViewNames
from feast.repo_contents import RepoContents

from provender.plugin.embedding_view import embedding_specs, embedding_view, spec_of
from provender.plugin.errors import ProvenderError, SnapshotError, SpecError, VersionError
from provender.plugin.manifest import RunInfo
from provender.plugin.provider import ProvenderProvider
from provender.plugin.snapshot import write_snapshot

T = datetime(2026, 3, 10, tzinfo=UTC)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


def view(repo: Path, version: int = 1, dim: int = 4, space: str = "transra_v1") -> FeatureView:
    return embedding_view(
        name="user_transra",
        version=version,
        entity=USER,
        dim=dim,
        space=space,
        producer="transra",
        ttl=timedelta(days=3),
        snapshots=repo.parent / "snapshots",
    )


def plan(store: FeatureStore, views: Sequence[FeatureView]) -> str:
    """Plan as `feast plan` does, and return what it would print of the registry."""
    contents = RepoContents(
        projects=[Project(name=store.project)],
        data_sources=[view.batch_source for view in views if view.batch_source],
        entities=[USER],
        feature_views=list(views),
        feature_services=[],
        on_demand_feature_views=[],
        stream_feature_views=[],
        label_views=[],
        permissions=[],
    )
    difference, _, _ = store.plan(contents)
    return str(difference.to_string())  # type: ignore[no-untyped-call]


def refused(store: FeatureStore, views: Sequence[FeatureView], cause: type[ProvenderError]) -> str:
    """Return the line with which both plan and apply refuse; neither may touch the registry."""
    registry = Path(store.repo_path) / "data" / "registry.db"
    # At a project's very first apply Feast writes the project's name down before all else.
    store.apply([USER])
    before = registry.read_bytes()
    with pytest.raises(cause) as planned:
        plan(store, views)
    assert registry.read_bytes() == before
    with pytest.raises(cause) as applied:
        store.apply([USER, *views])
    assert registry.read_bytes() == before
    assert str(planned.value) == str(applied.value)
    return str(applied.value)


def test_the_repo_that_ships_uses_it(store: FeatureStore) -> None:
    assert type(store.provider) is ProvenderProvider


def test_a_change_is_refused_by_plan_and_apply(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo)])
    line = refused(store, [view(repo, dim=8)], VersionError)
    assert line.startswith("embedding view user_transra_v1: found dim 8; expected dim 4")


def test_a_change_hidden_from_feasts_question_is_refused_too(
    repo: Path, store: FeatureStore
) -> None:
    """A source that names its time column is not asked for it: the second line holds."""
    store.apply([USER, view(repo)])
    changed = view(repo, dim=8)
    assert isinstance(changed.batch_source, FileSource)
    changed.batch_source.timestamp_field = "event_timestamp"
    assert "found dim 8; expected dim 4" in refused(store, [changed], VersionError)


def test_vectors_of_another_length_are_refused_by_plan_and_apply(
    repo: Path, store: FeatureStore
) -> None:
    vectors = np.ones((2, 4), np.float32)
    run = RunInfo("run-1", "transra", "c0ffee", T, T)
    keys = pa.array([1, 2])
    write_snapshot(repo.parent / "snapshots", spec_of(view(repo)), T, keys, vectors, run)
    line = refused(store, [view(repo, dim=8)], SnapshotError)
    assert "found dim 4 in its manifest; expected dim 8, as declared" in line


def test_two_new_versions_in_one_space_are_refused(repo: Path, store: FeatureStore) -> None:
    line = refused(store, [view(repo), view(repo, version=2)], VersionError)
    assert line.startswith(
        "embedding view user_transra_v2: found space 'transra_v1', which user_tr"
    )


def test_a_first_apply_that_is_refused_registers_nothing(repo: Path, store: FeatureStore) -> None:
    with pytest.raises(VersionError):
        store.apply([USER, view(repo), view(repo, version=2)])
    fresh = FeatureStore(repo_path=str(repo))
    assert fresh.list_feature_views() == []
    assert fresh.list_entities() == []
    assert fresh.list_data_sources() == []


def test_a_renamed_view_is_refused(repo: Path, store: FeatureStore) -> None:
    renamed = view(repo)
    renamed.name = "user_transra_v2"
    assert refused(store, [renamed], SpecError) == (
        "embedding view user_transra_v2: found the declaration of user_transra_v1; expected the "
        "name user_transra_v1: name and version show in it. "
        "Declare it with embedding_view() instead of renaming it."
    )


def test_a_view_declared_twice_is_refused(repo: Path, store: FeatureStore) -> None:
    store.apply([USER])
    before = (repo / "data" / "registry.db").read_bytes()
    twice: list[Any] = [USER, view(repo), view(repo)]
    with pytest.raises(ConflictingFeatureViewNames):
        store.apply(twice)
    with pytest.raises(SpecError, match="found two declarations; expected one"):
        store.apply(twice, skip_feature_view_validation=True)
    assert (repo / "data" / "registry.db").read_bytes() == before


def test_a_plan_shows_what_apply_will_do(repo: Path, store: FeatureStore) -> None:
    assert "Created feature view user_transra_v1" in plain(plan(store, [view(repo)]))
    assert embedding_specs(FeatureStore(repo_path=str(repo))) == {}


def plain(text: str) -> str:
    """Drop the colours of Feast's output."""
    for code in ("\x1b[1m", "\x1b[0m", "\x1b[32m", "\x1b[33m"):
        text = text.replace(code, "")
    return text


def test_globs_are_not_mistaken_for_missing_files(
    repo: Path, store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    provider = store.provider
    with caplog.at_level(logging.WARNING):
        provider.validate_data_source(store.config, FileSource(path=str(repo / "*.parquet")))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        provider.validate_data_source(store.config, FileSource(path=str(repo / "none.parquet")))
    assert "none.parquet" in caplog.text
