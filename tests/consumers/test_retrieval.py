from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore

from provender.consumers.approximate_index import (
    ApproximateIndex,
    IndexConfig,
    Kind,
    open_index,
    recall_at,
)
from provender.consumers.exact_search import NONE
from provender.consumers.pin_search import PinSearch
from provender.consumers.retrieval import Retrieval
from provender.consumers.retrieval_vectors import ViewVectors, vectors_at
from provender.consumers.retrieval_views import ViewPair, pair_of
from provender.plugin.embedding_view import embedding_specs, spec_of
from provender.plugin.errors import ConfigError, FetchError, SnapshotError, VersionError
from tests.consumers.kitchen import DIM, TTL, Kitchen, Version, hours

Rows = dict[int, list[float]]
K = 5
FIRST, SECOND = Version(1), Version(2)


def vectors(seed: int, keys: range) -> Rows:
    drawn = np.random.default_rng(seed).standard_normal((len(keys), DIM)).astype(np.float32)
    return {key: row.tolist() for key, row in zip(keys, drawn, strict=True)}


@pytest.fixture
def laid(tmp_path: Path) -> Kitchen:
    """Two versions of 30 users and 200 pins; the first is refreshed again without some of them."""
    made = Kitchen(tmp_path / "kitchen", snapshots=True, versions=[FIRST, SECOND])
    made.folder.mkdir()
    for entity, keys in (("user", range(30)), ("pin", range(100, 300))):
        made.write(entity, [(key, hours(0), hours(0), (1, 0.5)) for key in keys], vectors=False)
    for version in made.versions:
        seed = version.number
        keyed = {"user": vectors(seed, range(30)), "pin": vectors(seed + 10, range(100, 300))}
        made.snapshot(version, hours(0), keyed)
    later = {"user": vectors(5, range(20)), "pin": vectors(6, range(150, 320))}
    made.snapshot(FIRST, hours(24), later)
    return made


@pytest.fixture
def store(laid: Kitchen) -> FeatureStore:
    return laid.store()


def expected(users: Rows, pins: Rows, user: int, k: int = K) -> list[int]:
    """The nearest pins by inner product, each on its own, in float64."""
    asked = np.array(users[user], np.float64)
    far = {pin: -float((np.array(row, np.float64) * asked).sum()) for pin, row in pins.items()}
    return sorted(far, key=lambda pin: (far[pin], pin))[:k]


@pytest.mark.parametrize("hour", [0, 23, 24, 71])
def test_what_was_in_force_then_answers(store: FeatureStore, hour: int) -> None:
    users, pins = vectors(1, range(30)), vectors(11, range(100, 300))
    if hour >= 24:  # Who was not refreshed keeps the former vector.
        users |= vectors(5, range(20))
        pins |= vectors(6, range(150, 320))
    found = Retrieval.at(store, "test", 1, hours(hour), backfills=True)
    answer = found.for_users(list(range(30)), K)
    assert answer.pins == [expected(users, pins, user) for user in range(30)]
    assert (answer.version, answer.metric) == (1, "inner_product")


def test_what_is_past_its_ttl_is_in_force_no_more(store: FeatureStore) -> None:
    users, pins = vectors(5, range(20)), vectors(6, range(150, 320))
    edge = hours(24) + TTL
    answer = Retrieval.at(store, "test", 1, edge, backfills=True).for_users([3, 25], K)
    assert answer.pins == [expected(users, pins, 3), []]
    assert answer.known.tolist() == [True, False]
    with pytest.raises(SnapshotError, match="one in force at"):
        Retrieval.at(store, "test", 1, edge + TTL, backfills=True)


def test_what_was_written_later_was_not_known_then(store: FeatureStore) -> None:
    with pytest.raises(SnapshotError, match=r"written only after .*--backfills"):
        Retrieval.at(store, "test", 1, hours(30))


def test_unknown_users_repeated_ones_and_none(store: FeatureStore) -> None:
    found = Retrieval.at(store, "test", 2, hours(0), backfills=True)
    one = expected(vectors(2, range(30)), vectors(12, range(100, 300)), 4)
    assert found.for_users([4, 99, 4], K).pins == [one, [], one]
    empty = found.for_users([], K)
    assert (empty.pins, empty.table().num_rows) == ([], 0)
    with pytest.raises(FetchError, match="user_id of type int64"):
        found.for_users(["seven"], K)
    with pytest.raises(FetchError, match="k = 0"):
        found.for_users([4], 0)


def test_only_some_pins_and_none_that_were_seen(store: FeatureStore) -> None:
    users, pins = vectors(1, range(30)), vectors(11, range(100, 300))
    live = [*range(120, 180), 5_000]
    found = Retrieval.at(store, "test", 1, hours(0), backfills=True, only=live)
    allowed = {pin: pins[pin] for pin in live if pin in pins}
    best = expected(users, allowed, 8, 60)
    seen = {8: [best[0], best[2], 7_777], 9: []}
    answer = found.for_users([8, 9], K, seen=seen)
    assert answer.pins == [[best[1], *best[3 : K + 2]], expected(users, allowed, 9)]
    every = found.for_users([8], 60, seen={8: best})
    assert every.pins == [[]]


def test_the_answers_as_a_table(store: FeatureStore) -> None:
    answer = Retrieval.at(store, "test", 1, hours(0), backfills=True).for_users([1, 99, 2], 2)
    table = answer.table()
    assert table.column_names == ["user", "rank", "pin", "distance"]
    assert table["user"].to_pylist() == [1, 1, 2, 2]
    assert table["rank"].to_pylist() == [1, 2, 1, 2]
    assert table["pin"].to_pylist() == [*answer.pins[0], *answer.pins[2]]
    assert table["distance"].to_pylist() == [*answer.distances[0], *answer.distances[2]]


def test_versions_and_spaces_are_never_mixed(store: FeatureStore) -> None:
    one, two = (Retrieval.at(store, "test", v, hours(0), backfills=True) for v in (1, 2))
    with pytest.raises(VersionError, match="user_test_v1 and pin_test_v2: found space"):
        Retrieval(one.users, two.search.pins)
    specs = embedding_specs(store)
    other = specs["pin_test_v1"].model_copy(update={"space": "elsewhere"})
    with pytest.raises(VersionError, match="found space test_v1 and elsewhere"):
        ViewPair(specs["user_test_v1"], other)
    with pytest.raises(FetchError, match="test version 1, test version 2"):
        pair_of(specs, "test", 3)


def test_facets_are_compared_by_distance(store: FeatureStore) -> None:
    specs = embedding_specs(store)
    raw = pair_of(specs, "test", 1)
    faceted = [each.model_copy(update={"facet": "buy"}) for each in (raw.asking, raw.found)]
    assert (raw.metric, ViewPair(*faceted).metric) == ("inner_product", "l2")


Made = Callable[[int], ViewVectors]


@pytest.fixture
def many(store: FeatureStore, tmp_path: Path) -> Made:
    """3,000 pins of version 1 in clusters, by seed, with a place for indexes."""
    spec = spec_of(store.get_feature_view("pin_test_v1"))

    def made(seed: int) -> ViewVectors:
        drawn = np.random.default_rng(seed)
        centres = drawn.standard_normal((40, DIM))[drawn.integers(0, 40, 3_000)]
        rows = (centres + 0.4 * drawn.standard_normal((3_000, DIM))).astype(np.float32)
        keys = pa.array(range(3_000), pa.int64())
        return ViewVectors(spec, keys, rows, np.zeros(3_000, np.int64), (f"run-{seed}",), tmp_path)

    return made


KINDS: list[Kind] = ["hnsw", "ivf"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_an_index_finds_most_and_measures_as_the_exact_search(
    many: Made, kind: Kind, metric: Any
) -> None:
    pytest.importorskip("faiss")
    pins, queries = many(1), np.random.default_rng(9).standard_normal((50, DIM))
    index = open_index(pins, metric, IndexConfig(kind=kind))
    search = PinSearch(pins, metric, index=index)
    found, exact = search.search(queries, 20), search.exactly(queries, 20)
    assert recall_at(found.rows, exact.rows) > 0.9
    far = {(q, row): d for q in range(50) for row, d in zip(*_pairs(exact, q), strict=True)}
    assert all(
        far.get((q, row), d) == d
        for q in range(50)
        for row, d in zip(*_pairs(found, q), strict=True)
    )
    assert (np.diff(found.distances, axis=1) >= 0).all()


def _pairs(found: Any, query: int) -> tuple[list[int], list[float]]:
    return found.rows[query].tolist(), found.distances[query].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_filters_hold_for_an_index_too(many: Made, kind: Kind) -> None:
    pytest.importorskip("faiss")
    pins, queries = many(1), np.random.default_rng(9).standard_normal((20, DIM))
    index = open_index(pins, "inner_product", IndexConfig(kind=kind))
    for share in (2, 100):  # Half of them by the index, a hundredth of them exactly.
        live = list(range(0, 3_000, share))
        search = PinSearch(pins, "inner_product", only=live, index=index)
        seen = [search.exactly(queries, 3).rows[q] for q in range(20)]
        found = search.search(queries, 10, seen)
        assert np.isin(found.rows[found.rows != NONE], live).all()
        assert not any(np.isin(found.rows[q], seen[q]).any() for q in range(20))
        exact = PinSearch(pins, "inner_product", only=live).search(queries, 10, seen)
        recall = recall_at(found.rows, exact.rows)
        assert recall > 0.9 if share == 2 else recall == 1


def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which vectors indexes are built from, from now on."""
    calls: list[str] = []
    build = ApproximateIndex.__init__

    def noted(self: ApproximateIndex, card: Any, index: Any) -> None:
        if not card.sha256:
            calls.append(card.stamp.checksum)
        build(self, card, index)

    monkeypatch.setattr(ApproximateIndex, "__init__", noted)
    return calls


def test_an_index_is_built_once_and_kept_for_its_own_vectors_alone(
    many: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    calls, config = built(monkeypatch), IndexConfig(kind="ivf")
    one, two = many(1), many(2)
    for vectors_ in (one, one, two, one):
        index = open_index(vectors_, "inner_product", config)
        assert index.card.stamp == vectors_.stamp
    assert calls == [one.stamp.checksum, two.stamp.checksum]
    # The same vectors of another run, or another version, are others.
    open_index(replace(one, runs=("run-3",)), "inner_product", config)
    spec = one.spec.model_copy(update={"version": 2, "space": "test_v2"})
    other = ViewVectors(spec, one.keys, one.vectors, one.event_us, one.runs, one.place)
    assert open_index(other, "inner_product", config).card.stamp.version == 2
    assert len(calls) == 4
    with pytest.raises(VersionError, match="index over pin_test_v1"):
        PinSearch(two, "inner_product", index=open_index(one, "inner_product", config))
    open_index(one, "l2", config)
    open_index(one, "l2", IndexConfig(kind="ivf", cells=3))
    assert len(calls) == 7
    kept = open_index(one, "l2", IndexConfig(kind="ivf", cells=3, probes=1))
    assert (len(calls), kept.card.config.probes) == (7, 1)


@pytest.mark.parametrize("file", ["index.faiss", "index.json"])
def test_a_damaged_index_is_built_anew(
    many: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    pytest.importorskip("faiss")
    pins, config = many(1), IndexConfig(kind="ivf")
    open_index(pins, "l2", config)
    (path,) = tmp_path.glob(f"pin_test_v1/*/{file}")
    path.write_bytes(path.read_bytes()[:-7])
    calls = built(monkeypatch)
    open_index(pins, "l2", config)
    open_index(pins, "l2", config)
    assert len(calls) == 1
    (card,) = tmp_path.glob("pin_test_v1/*/index.json")
    assert json.loads(card.read_text())["stamp"]["runs"] == ["run-1"]


def test_old_indexes_are_swept(many: Made, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for seed in range(4):
        open_index(many(seed), "l2", IndexConfig(kind="ivf", cells=2))
    kept = list(tmp_path.glob("pin_test_v1/*"))
    assert len(kept) == 2
    assert any(many(3).stamp.checksum[:16] in each.name for each in kept)


def test_indexes_beside_snapshots_are_no_views(store: FeatureStore, laid: Kitchen) -> None:
    pytest.importorskip("faiss")
    approximate = IndexConfig(kind="ivf", cells=2, probes=2)
    exact = Retrieval.at(store, "test", 1, hours(24), backfills=True)
    found = Retrieval.at(store, "test", 1, hours(24), backfills=True, approximate=approximate)
    assert (laid.folder / "snapshots" / ".indexes" / "pin_test_v1").is_dir()
    assert found.for_users([1, 2], 50).pins == exact.for_users([1, 2], 50).pins
    view = store.get_feature_view("pin_test_v1")
    assert vectors_at(view, hours(24), backfills=True).stamp == found.search.pins.stamp


def test_what_an_index_cannot_do_is_refused(many: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="3,000 vectors that may be used, compared by l1"):
        open_index(many(1), "l1", IndexConfig())
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match="provender\\[retrieval\\]"):
        open_index(many(1), "l2", IndexConfig())


def test_recall_counts_what_there_was_to_find() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, NONE, NONE], [NONE] * 4])
    found = np.array([[4, 9, 1, NONE], [6, 5, 7, NONE], [3, NONE, NONE, NONE]])
    assert recall_at(found, exact) == (0.5 + 1.0) / 2
    assert recall_at(exact[2:], exact[2:]) == 1
