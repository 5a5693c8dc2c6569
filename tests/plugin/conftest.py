from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from feast import FeatureStore

from tests.plugin.online_world import DATABASES, OnlineWorld, open_world
from tests.plugin.release_world import ReleaseWorld

REPO = Path(__file__).parents[2] / "feature_repo"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The feature repo that ships, copied as a user would; its snapshots go beside it."""
    folder = tmp_path / "feature_repo"
    (folder / "data").mkdir(parents=True)
    for path in [*REPO.glob("*.py"), REPO / "feature_store.yaml"]:
        if path.name != "__init__.py":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def open_store(repo: Path) -> Callable[..., FeatureStore]:
    """Open the repo's store, with entries of feature_store.yaml replaced where a test asks."""

    def opened(**replaced: str) -> FeatureStore:
        path = repo / "feature_store.yaml"
        entries = yaml.safe_load(path.read_text())
        entries |= {key: yaml.safe_load(value) for key, value in replaced.items()}
        path.write_text(yaml.safe_dump(entries))
        return FeatureStore(repo_path=str(repo))

    return opened


@pytest.fixture
def store(open_store: Callable[..., FeatureStore]) -> FeatureStore:
    return open_store()


@pytest.fixture(params=DATABASES)
def online(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineWorld]:
    """An online store on each database, with a project of its own."""
    world = open_world(request.param, tmp_path)
    try:
        yield world
    finally:
        world.tear_down()


@pytest.fixture
def released(online: OnlineWorld) -> Iterator[ReleaseWorld]:
    """A repo with versions to release, on each database."""
    yield from _released(online)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[ReleaseWorld]:
    """The same on SQLite alone."""
    yield from _released(open_world("sqlite", tmp_path))


def _released(online: OnlineWorld) -> Iterator[ReleaseWorld]:
    world = ReleaseWorld(online)
    try:
        yield world
    finally:
        world.open().teardown()  # type: ignore[no-untyped-call]
