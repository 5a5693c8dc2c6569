from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.embedding_view import (
    COLUMNS,
    embedding_specs,
    embedding_view,
    is_embedding_view,
    registered_specs,
    spec_of,
)
from provender.plugin.errors import ProvenderError, SnapshotError, SpecError, VersionError
from provender.plugin.families import views_of_space
from provender.plugin.manifest import RunInfo
from provender.plugin.snapshot import write_snapshot
from provender.plugin.spec import EmbeddingSpec

T = datetime(2026, 3, 10, tzinfo=UTC)
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


def view(snapshots: Path | str, **changes: Any) -> FeatureView:
    declared: dict[str, Any] = {
        "name": "user_transra",
        "version": 1,
        "entity": USER,
        "dim": 4,
        "nested_dims": (1, 2),
        "space": "transra_v1",
        "producer": "transra",
        "ttl": timedelta(days=3),
        "snapshots": snapshots,
    }
    return embedding_view(**(declared | changes))


def write(root: Path, spec: EmbeddingSpec, day: int = 0, value: float = 1.0) -> None:
    run = RunInfo("run-1", spec.producer, "c0ffee", T, T)
    vectors = np.full((3, spec.dim), value, np.float32)
    write_snapshot(root, spec, T + timedelta(days=day), pa.array([1, 2, 3]), vectors, run)


def write_own(path: Path, vectors: list[list[float]], **columns: pa.Array) -> None:
    """Write a user's own Parquet file, without any manifest."""
    times = pa.array([T] * len(vectors), pa.timestamp("us", tz="UTC"))
    table: dict[str, Any] = {
        "user_id": list(range(len(vectors))),
        "event_timestamp": times,
        "created_timestamp": times,
        "embedding": pa.array(vectors, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table | columns), path)


# The registry ---------------------------------------------------------------------------------

# Control characters but no lone surrogates: protobuf takes any text that UTF-8 does.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
names = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True).filter(
    lambda name: not name.split("_v")[-1].isdigit()
)
facets = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}(/head|/tail)?", fullmatch=True)


@st.composite
def specs(draw: st.DrawFn) -> EmbeddingSpec:
    dim = draw(st.integers(1, 5000))
    nested = draw(st.sets(st.integers(1, dim), max_size=5)) - {dim}
    return EmbeddingSpec.declare(
        name=draw(names),
        version=draw(st.integers(1, 10**6)),
        entity=draw(texts),
        join_key=draw(texts.filter(lambda key: key not in COLUMNS)),
        dim=dim,
        nested_dims=tuple(sorted(nested)),
        dtype=draw(st.sampled_from(["float32", "float16", "int8"])),
        space=draw(texts),
        producer=draw(texts),
        facet=draw(
            st.none() | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}(/head|/tail)?", fullmatch=True)
        ),
        ttl=draw(st.timedeltas(timedelta(microseconds=1), timedelta(days=4000))),
    )


@given(spec=specs())
@settings(max_examples=60, deadline=None)
def test_a_declaration_survives_the_registrys_protobuf(spec: EmbeddingSpec) -> None:
    entity = Entity(name=spec.entity, join_keys=[spec.join_key], value_type=ValueType.STRING)
    fields = spec.model_dump(exclude={"entity", "join_key"})
    declared = embedding_view(entity=entity, snapshots="/nowhere", **fields)
    wire = declared.to_proto().SerializeToString()
    read = FeatureView.from_proto(type(declared.to_proto()).FromString(wire))
    assert read.name == spec.view_name
    assert spec_of(read) == spec
    assert read.ttl == spec.ttl


def test_whoever_has_only_the_registry_reads_it_back(repo: Path, store: FeatureStore) -> None:
    declared = view(repo, space="Raum «ä» 空間 \n\"'{}", producer="π", description="d", owner="o")
    store.apply([USER, declared])
    read = FeatureStore(repo_path=str(repo))
    assert embedding_specs(read) == {"user_transra_v1": spec_of(declared)}
    registered = read.get_feature_view("user_transra_v1")
    assert (registered.description, registered.owner) == ("d", "o")
    (field,) = registered.features
    assert (field.name, field.dtype) == ("embedding", Array(Float32))
    assert (field.vector_index, field.vector_length) == (True, 4)
    assert [(key.name, key.dtype) for key in registered.entity_columns] == [("user_id", Int64)]
    # For every other reader of the registry it is a stock source with its time columns.
    assert type(registered.batch_source) is FileSource
    assert registered.batch_source.timestamp_field == "event_timestamp"
    assert registered.batch_source.created_timestamp_column == "created_timestamp"


def test_applying_the_same_again_changes_nothing(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo)])
    before = FeatureStore(repo_path=str(repo)).get_feature_view("user_transra_v1")
    store.apply([USER, view(repo)])
    after = FeatureStore(repo_path=str(repo)).get_feature_view("user_transra_v1")
    assert before == after


def test_other_feature_views_are_none_of_ours(repo: Path, store: FeatureStore) -> None:
    source = FileSource(path=str(repo / "none.parquet"), timestamp_field="event_timestamp")
    other = FeatureView(
        name="user_v1", entities=[USER], schema=[Field(name="age", dtype=Int64)], source=source
    )
    store.apply([USER, other])
    assert not is_embedding_view(other)
    assert embedding_specs(store) == {}
    with pytest.raises(SpecError, match=r"found no tag provender\.spec"):
        spec_of(other)


def test_a_relative_path_is_the_working_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = view(Path("../s")).batch_source
    assert isinstance(source, FileSource)
    assert source.path == str(tmp_path.parent / "s" / "user_transra_v1" / "*" / "part-*.parquet")
    remote = view("s3://bucket/s").batch_source
    assert isinstance(remote, FileSource)
    assert remote.path == "s3://bucket/s/user_transra_v1/*/part-*.parquet"


# Refused as soon as it is written down --------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dim": 0, "nested_dims": ()}, "dim: found 0; expected a value greater than or equal"),
        ({"nested_dims": (2, 1)}, "nested_dims: found (2, 1); expected nested dims that ascend"),
        ({"nested_dims": (2, 2)}, "nested_dims: found (2, 2); expected nested dims that ascend"),
        ({"nested_dims": (0, 2)}, "nested_dims: found (0, 2); expected nested dims that ascend"),
        ({"nested_dims": (2, 4)}, "nested_dims: found (2, 4); expected nested dims below dim 4"),
        ({"nested_dims": (2, 8)}, "nested_dims: found (2, 8); expected nested dims below dim 4"),
        ({"dtype": "float64"}, "dtype: found 'float64'; expected a value 'float32', 'float16' or"),
        ({"name": "user_transra_v2"}, "name: found 'user_transra_v2'; expected a name without its"),
        ({"name": "User"}, "name: found 'User'; expected "),
        ({"version": 0}, "version: found 0; expected "),
        ({"space": ""}, "space: found ''; expected "),
        ({"producer": ""}, "producer: found ''; expected "),
        ({"ttl": timedelta(0)}, "ttl: found datetime.timedelta(0); expected a ttl above zero"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as refused:
        view(Path("/nowhere"), **changes)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["embedding", "event_timestamp", "created_timestamp"])
def test_a_key_that_takes_the_name_of_another_column_is_refused(key: str) -> None:
    entity = Entity(name="user", join_keys=[key], value_type=ValueType.INT64)
    with pytest.raises(SpecError, match=f"found join key '{key}'; expected a name other than"):
        view(Path("/nowhere"), entity=entity)


def test_an_entity_without_a_key_type_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        untyped = Entity(name="user", join_keys=["user_id"])
    with pytest.raises(SpecError, match="found no value_type; expected the type of its key"):
        view(Path("/nowhere"), entity=untyped)


# Refused by the registry: at the moment of FeatureStore.apply, whatever provider and registry ----

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"dim": 8}, "found dim 8; expected dim 4, as registered"),
    ({"dtype": "int8"}, "found dtype 'int8'; expected dtype 'float32', as registered"),
    ({"space": "other"}, "found space 'other'; expected space 'transra_v1', as registered"),
    ({"producer": "linksage"}, "found producer 'linksage'; expected producer 'transra', as"),
    ({"family": "ads"}, "found family 'ads'; expected family 'transra', as registered"),
    ({"facet": "buy"}, "found facet 'buy'; expected facet None, as registered"),
    ({"nested_dims": (2,)}, "found nested_dims (2,); expected nested_dims (1, 2), as"),
    (
        {"entity": Entity(name="house", join_keys=["user_id"], value_type=ValueType.INT64)},
        "found entity 'house'; expected entity 'user', as registered",
    ),
    (
        {"entity": Entity(name="user", join_keys=["id"], value_type=ValueType.INT64)},
        "found join_key 'id'; expected join_key 'user_id', as registered",
    ),
]


@pytest.mark.parametrize(("changes", "line"), CHANGES)
def test_a_version_never_changes_its_meaning(
    changes: dict[str, Any], line: str, repo: Path, store: FeatureStore
) -> None:
    store.apply([USER, view(repo)])
    before = (repo / "data" / "registry.db").read_bytes()
    changed = view(repo, **changes)
    with pytest.raises(VersionError) as refused:
        store.apply([changes.get("entity", USER), changed])
    assert str(refused.value).startswith(f"embedding view user_transra_v1: {line}")
    assert "Declare it as version 2" in str(refused.value)
    assert (repo / "data" / "registry.db").read_bytes() == before
    # Nothing lingers in the store's memory for its next apply to commit.
    store.apply([Entity(name="page", join_keys=["page_id"], value_type=ValueType.INT64)])
    assert spec_of(FeatureStore(repo_path=str(repo)).get_feature_view("user_transra_v1")).dim == 4


@pytest.mark.parametrize(
    "lines",
    [
        {"provider": "local"},
        {"registry": "{registry_type: sql, path: 'sqlite:///REPO/registry.sqlite'}"},
    ],
    ids=["Feast's own provider", "SQL registry, which commits every object at once"],
)
def test_it_is_refused_under_any_provider_and_registry(
    lines: dict[str, str], repo: Path, open_store: Callable[..., FeatureStore]
) -> None:
    store = open_store(**{key: v.replace("REPO", str(repo)) for key, v in lines.items()})
    page = Entity(name="page", join_keys=["page_id"], value_type=ValueType.INT64)
    store.apply([USER, view(repo)])
    with pytest.raises(VersionError):
        store.apply([USER, page, view(repo, dim=8)])
    assert registered_specs(store.config)["user_transra_v1"].dim == 4
    assert "page" not in {entity.name for entity in store.list_entities()}


def test_a_new_version_lives_beside_the_old(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo)])
    store.apply([USER, view(repo, version=2, dim=8, space="transra_v2")])
    assert {name: spec.dim for name, spec in embedding_specs(store).items()} == {
        "user_transra_v1": 4,
        "user_transra_v2": 8,
    }


def test_what_is_no_part_of_the_meaning_may_change(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo)])
    store.apply([USER, view(repo, ttl=timedelta(days=9), description="new", online=False)])
    assert embedding_specs(store)["user_transra_v1"].ttl == timedelta(days=9)


def test_two_versions_never_share_a_space(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo)])
    with pytest.raises(VersionError) as refused:
        store.apply([USER, view(repo, version=2)])
    assert str(refused.value) == (
        "embedding view user_transra_v2: found space 'transra_v1', which user_transra_v1 has; "
        "expected a space of its own for each version. "
        "Name another space, for example 'user_transra_v2', or declare anchored_to=1 if it was "
        "trained to stay in that one."
    )


def test_an_anchored_version_shares_the_space_of_its_anchor(
    repo: Path, store: FeatureStore
) -> None:
    store.apply([USER, view(repo), view(repo, version=2, anchored_to=1)])
    # Through the one between them; and in whatever order they are declared.
    store.apply([USER, view(repo, version=3, anchored_to=2), view(repo)])
    assert views_of_space(embedding_specs(store), "transra_v1") == tuple(
        embedding_specs(store)[f"user_transra_v{version}"] for version in (1, 2, 3)
    )


def test_an_anchored_version_outlives_its_anchor(repo: Path, store: FeatureStore) -> None:
    store.apply([USER, view(repo), view(repo, version=2, anchored_to=1)])
    store.delete_feature_view("user_transra_v1")
    FeatureStore(repo_path=str(repo)).apply([USER, view(repo, version=2, anchored_to=1)])


@pytest.mark.parametrize("anchor_first", [True, False])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"space": "other"}, "found space 'other'; expected space 'transra_v1', as user_transra"),
        ({"dim": 8}, "found dim 8; expected dim 4, as user_transra_v1 has"),
        ({"family": "ads"}, "found family 'ads'; expected family 'transra', as user_transra_v1"),
        ({"facet": "buy"}, "found facet 'buy'; expected facet None, as user_transra_v1 has"),
    ],
)
def test_an_anchored_version_must_fit_its_anchor(
    changes: dict[str, Any], line: str, anchor_first: bool, repo: Path, store: FeatureStore
) -> None:
    views = [view(repo), view(repo, version=2, anchored_to=1, **changes)]
    with pytest.raises(VersionError) as refused:
        store.apply([USER, *(views if anchor_first else reversed(views))])
    told = str(refused.value)
    assert told.startswith(f"embedding view user_transra_v2, anchored to version 1: {line}")
    assert "leave anchored_to out" in told


def test_two_entities_may_share_a_space(repo: Path, store: FeatureStore) -> None:
    pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
    store.apply([USER, pin, view(repo), view(repo, name="pin_transra", entity=pin)])
    assert len(embedding_specs(store)) == 2


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        (None, "buy", "facet 'buy': found space 'transra_v1', in which user_transra_v1 has raw"),
        ("buy", None, "raw vectors: found space 'transra_v1', in which user_transra_v1 has facet"),
        ("save", "buy/tail", "facet 'buy/tail': found space 'transra_v1', in which user_transra"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_space_is_of_raw_vectors_or_of_one_relation(
    one: str | None, other: str | None, line: str, at_once: bool, repo: Path, store: FeatureStore
) -> None:
    pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
    first, second = view(repo, facet=one), view(repo, name="pin_seen", entity=pin, facet=other)
    if not at_once:
        store.apply([USER, first])
    with pytest.raises(SpecError) as refused:
        store.apply([USER, pin, first, second])
    assert f"embedding view pin_seen_v1, {line}" in str(refused.value)
    assert "Name another space, for example 'transra_v1_" in str(refused.value)
    own = view(repo, name="pin_seen", entity=pin, facet=other, space="its own")
    FeatureStore(repo_path=str(repo)).apply([USER, pin, first, own])


def test_the_two_facets_of_a_relation_share_a_space(repo: Path, store: FeatureStore) -> None:
    pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
    user = view(repo, name="user_buy", facet="buy/head", space="transra_v1_buy")
    tail = view(repo, name="pin_buy", entity=pin, facet="buy", space="transra_v1_buy")
    store.apply([USER, pin, view(repo), user, tail])
    specs = embedding_specs(FeatureStore(repo_path=str(repo)))
    shared = [spec.view_name for spec in views_of_space(specs, "transra_v1_buy")]
    assert shared == ["pin_buy_v1", "user_buy_v1"]
    assert {name: spec.facet for name, spec in specs.items()} == {
        "user_transra_v1": None,
        "user_buy_v1": "buy/head",
        "pin_buy_v1": "buy",
    }


def test_removed_and_declared_anew_in_one_apply_is_still_a_change(
    repo: Path, store: FeatureStore
) -> None:
    store.apply([USER, view(repo)])
    before = (repo / "data" / "registry.db").read_bytes()
    old = store.get_feature_view("user_transra_v1")
    with pytest.raises(VersionError):
        store.apply([USER, view(repo, dim=8)], objects_to_delete=[old], partial=False)
    assert (repo / "data" / "registry.db").read_bytes() == before


def test_removed_before_its_snapshots_still_say_what_it_was(
    repo: Path, store: FeatureStore
) -> None:
    declared = view(repo)
    write(repo, spec_of(declared))
    store.apply([USER, declared])
    # As `feast delete user_transra_v1` does.
    old = store.get_feature_view("user_transra_v1")
    store.apply([old], objects_to_delete=[old], partial=False)
    assert embedding_specs(store) == {}
    with pytest.raises(SnapshotError, match="found dim 4 in its manifest; expected dim 8"):
        store.apply([USER, view(repo, dim=8)])


# Refused by the stored vectors -----------------------------------------------------------------


def refusal(store: FeatureStore, declared: FeatureView) -> str:
    """Return the line with which an apply is refused, having committed nothing."""
    with pytest.raises(ProvenderError) as refused:
        store.apply([USER, declared])
    assert isinstance(refused.value, SnapshotError)
    assert embedding_specs(FeatureStore(config=store.config, repo_path=str(store.repo_path))) == {}
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dim": 8}, "found dim 4 in its manifest; expected dim 8, as declared"),
        ({"space": "x"}, "found space 'transra_v1' in its manifest; expected space 'x', as"),
        ({"producer": "x"}, "found producer 'transra' in its manifest; expected producer 'x', as"),
        ({"dtype": "int8"}, "found dtype 'float32' in its manifest; expected dtype 'int8', as"),
        ({"facet": "buy"}, "found facet None in its manifest; expected facet 'buy', as"),
    ],
)
def test_snapshots_of_another_declaration_are_refused(
    changes: dict[str, Any], line: str, repo: Path, store: FeatureStore
) -> None:
    # The older snapshot is the wrong one: a join over history would meet it.
    write(repo / "s", spec_of(view(repo)))
    declared = view(repo / "s", **changes)
    write(repo / "s", spec_of(declared), day=1)
    assert line in refusal(store, declared)


def test_a_manifest_does_not_vouch_for_other_vectors(repo: Path, store: FeatureStore) -> None:
    declared = view(repo / "s")
    write(repo / "s", spec_of(declared))
    (part,) = (repo / "s").glob("*/*/part-0.parquet")
    write_own(part, [[1.0, 2.0, 3.0]])
    line = refusal(store, declared)
    assert "found vectors of length 3; expected length 4, as declared" in line
    assert str(part) in line


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        ([[1.0] * 8] * 3, "vectors of length 8"),
        ([[1.0] * 4, [1.0] * 3, [1.0] * 5], "vectors of length 3 to 5"),
        ([[1.0] * 4, []], "vectors of length 0 to 4"),
    ],
)
def test_a_file_of_the_users_own_is_measured(
    vectors: list[list[float]], found: str, repo: Path, store: FeatureStore
) -> None:
    write_own(repo / "own.parquet", vectors)
    line = refusal(store, view(repo / "own.parquet"))
    assert f"found {found}; expected length 4, as declared" in line


@pytest.mark.parametrize("width", ["list", "fixed"])
def test_a_file_of_the_users_own_that_fits_is_taken(
    width: str, repo: Path, store: FeatureStore
) -> None:
    kind = pa.list_(pa.float32(), 4) if width == "fixed" else pa.list_(pa.float64())
    vectors = [[1.0] * 4] * 3
    write_own(repo / "own.parquet", vectors, embedding=pa.array(vectors, kind))
    store.apply([USER, view(repo / "*.parquet")])
    assert list(embedding_specs(store)) == ["user_transra_v1"]


def test_a_file_that_is_no_file_of_vectors_is_refused(repo: Path, store: FeatureStore) -> None:
    own = repo / "own.parquet"
    declared = view(own)
    own.write_bytes(b"")
    assert "expected Parquet with the columns user_id, event_timestamp" in refusal(store, declared)
    write_own(own, [[1.0] * 4])
    own.write_bytes(own.read_bytes()[:-20])
    assert "expected Parquet with the columns" in refusal(store, view(own))
    # Text has a length as well: this one even has the right one.
    write_own(own, [[1.0] * 4], embedding=pa.array(["four"]))
    assert "expected Parquet with the columns" in refusal(store, view(own))
    pq.write_table(pq.read_table(own).drop_columns(["created_timestamp"]), own)
    assert '"created_timestamp"' in refusal(store, view(own))


def test_damaged_manifests_are_named(repo: Path, store: FeatureStore) -> None:
    declared = view(repo / "s")
    write(repo / "s", spec_of(declared))
    (manifest,) = (repo / "s").glob("*/*/_manifest.json")
    manifest.write_text("{")
    assert f"manifest {manifest}" in refusal(store, declared)
