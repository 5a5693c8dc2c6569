"""Decayed means: what they are beside a loop over all refreshes, and as they are kept in a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.producers.upstream.decayed_means import DecayedSums
from provender.producers.vectors import Vectors

DIM = 3
START = datetime(2026, 3, 1, tzinfo=UTC)
#: Days after the start, and who is there, by refresh.
REFRESHES = st.lists(
    st.tuples(st.floats(0.25, 9), st.sets(st.integers(0, 6), min_size=1)), min_size=1, max_size=7
)


def keys_of(kind: str, numbers: list[int]) -> pa.Array:
    """Ascending; as text, 10 is before 9."""
    if kind == "int64":
        return pa.array(sorted(numbers), pa.int64())
    return pa.array(sorted(f"u{7 + number}" for number in numbers), pa.string())


def vectors_of(kind: str, numbers: list[int], seed: int) -> Vectors:
    keys = keys_of(kind, numbers)
    rng = np.random.default_rng(seed)
    return Vectors(keys, rng.normal(size=(len(keys), DIM)).astype(np.float32))


def looped(refreshes: list[tuple[datetime, Vectors]], half_life: float) -> dict[object, np.ndarray]:
    """Key -> the sum over all refreshes, as of the key's newest one."""
    sums: dict[object, np.ndarray] = {}
    for key in {key for _, vectors in refreshes for key in vectors.keys.to_pylist()}:
        met = [
            (when, vectors.vectors[vectors.keys.to_pylist().index(key)].astype(np.float64))
            for when, vectors in refreshes
            if key in vectors.keys.to_pylist()
        ]
        newest = max(when for when, _ in met)
        sums[key] = sum(
            (0.5 ** ((newest - when) / timedelta(days=half_life)) * vector for when, vector in met),
            np.zeros(DIM),
        )
    return sums


@pytest.mark.parametrize("kind", ["int64", "string"])
@given(REFRESHES, st.floats(6, 30))  # So that nothing has decayed to so little that it is dropped.
def test_sums_are_those_of_a_loop(
    kind: str, steps: list[tuple[float, set[int]]], half_life: float
) -> None:
    when, refreshes = START, []
    for place, (days, who) in enumerate(steps):
        when += timedelta(days=days)
        refreshes.append((when, vectors_of(kind, list(who), place)))
    sums = DecayedSums.none(refreshes[0][1].keys, DIM)
    for as_of, vectors in refreshes:
        sums = sums.after(vectors, as_of, half_life)
    wanted = looped(refreshes, half_life)
    found = dict(zip(sums.keys.to_pylist(), sums.sums, strict=True))
    assert sums.keys.to_pylist() == sorted(found)
    assert sums.sums.dtype == np.dtype(np.float32)
    assert sums.keys.type == refreshes[0][1].keys.type
    assert found.keys() == wanted.keys()
    for key, vector in wanted.items():
        np.testing.assert_allclose(found[key], vector, atol=1e-5)


def test_means_are_sums_of_norm_1() -> None:
    first, second = vectors_of("int64", [1, 2, 3], 0), vectors_of("int64", [2, 9], 1)
    sums = DecayedSums.none(first.keys, DIM).after(first, START, 7)
    sums = sums.after(second, START + timedelta(days=7), 7)
    means = sums.means(pa.array([9, 2]))
    assert means.keys.to_pylist() == [9, 2]
    both = 0.5 * first.vectors[1] + second.vectors[0]
    np.testing.assert_allclose(means.vectors[1], both / np.linalg.norm(both), rtol=1e-5)
    alone = second.vectors[1]
    np.testing.assert_allclose(means.vectors[0], alone / np.linalg.norm(alone), rtol=1e-5)


def test_nothing_is_not_divided_by() -> None:
    none = Vectors(pa.array([1]), np.zeros((1, DIM), np.float32))
    sums = DecayedSums.none(none.keys, DIM).after(none, START, 7)
    np.testing.assert_array_equal(sums.means(none.keys).vectors, np.zeros((1, DIM)))


def test_who_is_not_seen_keeps_sum_and_time() -> None:
    first, second = vectors_of("int64", [1], 0), vectors_of("int64", [2], 1)
    once = DecayedSums.none(first.keys, DIM).after(first, START, 7)
    twice = once.after(second, START + timedelta(days=20), 7)
    np.testing.assert_array_equal(twice.sums[0], first.vectors[0])
    assert twice.times[0] == once.times[0] == int(START.timestamp()) * 10**9


def test_what_has_decayed_is_dropped_but_for_who_is_there() -> None:
    both, one = vectors_of("int64", [1, 2], 0), vectors_of("int64", [2], 1)
    sums = DecayedSums.none(both.keys, DIM).after(both, START, 1)
    assert sums.after(one, START + timedelta(days=9.9), 1).keys.to_pylist() == [1, 2]
    later = sums.after(one, START + timedelta(days=10), 1)
    assert later.keys.to_pylist() == [2]
    np.testing.assert_allclose(later.sums[0], one.vectors[0] + both.vectors[1] / 1024, rtol=1e-5)


def test_given_vectors_stay_as_they_are() -> None:
    one = vectors_of("int64", [1], 0)
    before = one.vectors.copy()
    DecayedSums.none(one.keys, DIM).after(one, START, 1).after(one, START + timedelta(1), 1)
    np.testing.assert_array_equal(one.vectors, before)


@pytest.mark.parametrize("kind", ["int64", "string"])
@pytest.mark.parametrize("who", [[], [3, 1, 5]])
def test_saved_and_read_back(tmp_path: Path, kind: str, who: list[int]) -> None:
    vectors = vectors_of(kind, who, 0)
    sums = DecayedSums.none(vectors.keys, DIM).after(vectors, START, 7)
    sums.save(tmp_path / "sums.parquet")
    found = DecayedSums.load(tmp_path / "sums.parquet")
    assert found.keys.equals(sums.keys)
    np.testing.assert_array_equal(found.sums, sums.sums)
    np.testing.assert_array_equal(found.times, sums.times)
    assert found.sums.shape == (len(who), DIM)
    assert found.sums.dtype == np.dtype(np.float32)
    again = found.after(vectors_of(kind, [2, 3], 1), START + timedelta(1), 7)
    assert len(again.keys) == len({*who, 2, 3})


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="sums"):
        DecayedSums.load(tmp_path / "sums.parquet")
    (tmp_path / "sums.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(pa.ArrowException):
        DecayedSums.load(tmp_path / "sums.parquet")
