"""Clusters of near duplicates against union-find over all pairs, exact and by inverted lists."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from provender.plugin.errors import ConfigError
from provender.producers.linksage.near_duplicates import find_clusters

Vectors = NDArray[np.float32]


def unit(rows: NDArray[Any]) -> Vectors:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Vectors = (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
    return found


def oracle(vectors: Vectors, threshold: float) -> list[int]:
    """Each row's first relative, by joining groups pair by pair."""
    group = list(range(len(vectors)))
    for i in range(len(vectors)):
        for j in range(i):
            a, b = vectors[i].astype(float), vectors[j].astype(float)
            if a.any() and b.any() and a @ b >= threshold:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if one == old else one for one in group]
    return group


def planted(seed: int, groups: int, each: int, width: int = 16, noise: float = 0.03) -> Vectors:
    """Groups of vectors within about `noise` of their centres, copies and zeros among them."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(groups, width)))
    spread = noise * rng.normal(size=(groups * each, width))
    rows = unit(np.repeat(centres, each, axis=0) + spread)
    rows[::7] = rows[3]
    rows[5::31] = 0
    return rows[rng.permutation(len(rows))]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_all_pairs(seed: int, threshold: float) -> None:
    vectors = planted(seed, 8, 6)
    found = find_clusters(vectors, threshold)
    groups = oracle(vectors, threshold)
    first = {label: row for row, label in reversed(list(enumerate(found.labels.tolist())))}
    assert [first[label] for label in found.labels.tolist()] == groups
    assert sorted(first) == list(range(len(first)))
    sizes = np.bincount(found.labels)
    assert found.report["method"] == "all pairs"
    assert found.report["nodes"] == len(set(groups))
    assert found.report["largest"] == sizes.max()
    assert found.report["clusters"] == (sizes > 1).sum()
    assert found.report["pins_in_clusters"] == sizes[sizes > 1].sum()
    assert sum(int(size) * n for size, n in found.report["sizes"].items()) == sizes[sizes > 1].sum()


def test_inverted_lists_find_what_all_pairs_find() -> None:
    pytest.importorskip("faiss")
    vectors = planted(1, 1500, 3, width=32, noise=0.02)
    exact = find_clusters(vectors, 0.95)
    listed = find_clusters(vectors, 0.95, few=0)
    assert (exact.report["method"], listed.report["method"]) == ("all pairs", "inverted lists")
    # What lists find is true: each of their clusters lies in one of the exact ones.
    pairs = {(a, b) for a, b in zip(listed.labels.tolist(), exact.labels.tolist(), strict=True)}
    assert len(pairs) == listed.report["nodes"]
    assert listed.report["nodes"] - exact.report["nodes"] <= 0.01 * exact.report["clusters"]
    assert exact.report["clusters"] > 1000


def test_a_chain_is_one_cluster() -> None:
    angles = np.radians(np.arange(0, 90, 5))
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert find_clusters(vectors, float(np.cos(np.radians(5.1)))).report["largest"] == 18
    assert find_clusters(vectors, float(np.cos(np.radians(4.9)))).report["clusters"] == 0


def test_copies_cost_nothing_and_zeros_stay_alone() -> None:
    vectors = np.zeros((300_000, 4), np.float32)
    vectors[10:] = unit(np.ones((1, 4)))
    vectors[10::2, 0] += 1e-9  # below what float32 holds
    found = find_clusters(vectors, 1.0)
    assert found.report["largest"] == 299_990
    assert found.labels[:11].tolist() == list(range(11))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_to_cluster(shape: tuple[int, int]) -> None:
    found = find_clusters(np.zeros(shape, np.float32), 0.9)
    assert found.labels.tolist() == list(range(shape[0]))
    assert found.report["clusters"] == 0


def test_many_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'provender\[duplicates\]'"):
        find_clusters(planted(0, 20, 2), 0.9, few=10)
