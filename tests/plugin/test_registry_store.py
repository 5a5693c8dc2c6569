from __future__ import annotations

from pathlib import Path

import pytest
from feast import Entity, FeatureStore, ValueType

from provender.plugin import files

YAML = """project: whole
provider: local
registry:
  registry_store_type: provender.plugin.registry_store.WholeFileRegistryStore
  path: data/registry.db
  cache_ttl_seconds: 0
offline_store: {type: provender.plugin.offline_store.ProvenderOfflineStore}
online_store: null
entity_key_serialization_version: 3
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "feature_store.yaml").write_text(YAML)
    return tmp_path


def entity(name: str) -> Entity:
    return Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)


def names(repo: Path) -> list[str]:
    return sorted(each.name for each in FeatureStore(str(repo)).list_entities())


def test_what_is_applied_is_read_back(repo: Path) -> None:
    FeatureStore(str(repo)).apply([entity("user")])
    FeatureStore(str(repo)).apply([entity("pin")])
    assert names(repo) == ["pin", "user"]


def test_a_write_that_breaks_off_leaves_the_former_registry(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureStore(str(repo)).apply([entity("user")])

    def breaks(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", breaks)
    with pytest.raises(OSError, match="No space"):
        FeatureStore(str(repo)).apply([entity("pin")])
    monkeypatch.undo()

    assert names(repo) == ["user"]
    assert [path.name for path in (repo / "data").iterdir()] == ["registry.db"]
