"""Drift against a slow and obvious oracle; what must not count as drift; every refusal."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.drift import Drift, check_drift, drift
from provender.plugin.errors import DriftError
from provender.plugin.gates import DriftGates

Vectors = npt.NDArray[np.float32]
Rows = dict[Any, Vectors]


def measured(former: Rows, new: Rows, **options: Any) -> Drift:
    """The drift between two refreshes given as key -> vector."""
    return drift(*_columns(former), *_columns(new), **options)


def _columns(rows: Rows, dim: int = 4) -> tuple[pa.Array[Any], Vectors]:
    keys = sorted(rows)
    kind = pa.string() if keys and isinstance(keys[0], str) else pa.int64()
    vectors = np.array([rows[key] for key in keys], np.float32)
    return pa.array(keys, kind), vectors if keys else np.zeros((0, dim), np.float32)


def _rows(seed: int, keys: list[Any], dim: int = 4) -> Rows:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=dim).astype(np.float32) for key in keys}


def _cosine(x: Vectors, y: Vectors) -> float:
    a, b = (math.sqrt(sum(float(v) ** 2 for v in each)) for each in (x, y))
    if a == 0 or b == 0:
        return float(a == b)
    return sum(float(u) / a * (float(v) / b) for u, v in zip(x, y, strict=True))


def _nearest(rows: Rows, key: Any, common: list[Any], k: int) -> set[Any]:
    others = [other for other in common if other != key]
    return set(sorted(others, key=lambda other: -_cosine(rows[key], rows[other]))[:k])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _obvious(former: Rows, new: Rows, neighbours: int) -> dict[str, float]:
    common = sorted(set(former) & set(new))
    k = min(neighbours, len(common) - 1)
    length = {
        name: _mean([math.sqrt(sum(float(v) ** 2 for v in rows[key])) for key in common])
        for name, rows in (("former", former), ("new", new))
    }
    changed = [
        1 - len(_nearest(former, key, common, k) & _nearest(new, key, common, k)) / k
        for key in common
    ]
    cosines = [_cosine(former[key], new[key]) for key in common]
    return {
        "coverage": len(common) / len(former),
        "added": 1 - len(common) / len(new),
        "cosine_mean": _mean(cosines),
        "cosine_p05": float(np.quantile(cosines, 0.05)),
        "norm_ratio": length["new"] / length["former"],
        "neighbours_changed": _mean(changed),
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    former=st.sets(st.integers(-50, 50), min_size=3, max_size=40),
    shift=st.integers(0, 5),
    neighbours=st.integers(1, 12),
    text=st.booleans(),
)
def test_it_is_what_the_words_say(
    seed: int, former: set[int], shift: int, neighbours: int, text: bool
) -> None:
    # The new keys are the former but a few, and a few more.
    keys = sorted(former)
    new = [*keys[: len(keys) - min(shift, len(keys) - 2)], *range(60, 60 + shift)]
    name = (lambda key: f"ü {key}") if text else (lambda key: key)
    before, after = (
        _rows(seed, [name(key) for key in keys]),
        _rows(seed + 1, [name(key) for key in new]),
    )

    found = measured(before, after, neighbours=neighbours)

    for measure, value in _obvious(before, after, neighbours).items():
        assert getattr(found, measure) == pytest.approx(value, abs=1e-5), measure
    assert (found.former, found.rows) == (len(keys), len(new))
    assert found.common == len(set(before) & set(after))


def test_nothing_has_moved() -> None:
    rows = _rows(0, list(range(30))) | {99: np.zeros(4, np.float32)}
    found = measured(rows, rows)
    assert (found.coverage, found.added, found.neighbours_changed) == (1, 0, 0)
    assert found.cosine_mean == pytest.approx(1)
    assert found.norm_ratio == 1
    check_drift("user_v1", found, DriftGates(cosine=0.999, coverage=1, norm=1, neighbours=0))


def test_a_rotation_changes_no_neighbour() -> None:
    before = _rows(1, list(range(200)), dim=16)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16)))
    after = {key: (3 * row @ turn).astype(np.float32) for key, row in before.items()}

    found = measured(before, after)

    assert found.neighbours_changed == 0
    assert found.norm_ratio == pytest.approx(3, rel=1e-5)
    assert found.cosine_mean is not None
    assert abs(found.cosine_mean) < 0.2


def test_other_names_of_the_entities_change_nothing() -> None:
    before, after = _rows(3, list(range(50))), _rows(4, list(range(50)))
    names = np.random.default_rng(5).permutation(50).tolist()
    renamed = [{names[key]: row for key, row in rows.items()} for rows in (before, after)]
    one, other = measured(before, after), measured(*renamed)
    assert list(one.metrics().values()) == pytest.approx(list(other.metrics().values()), rel=1e-6)


def test_exchanged_vectors_are_noticed() -> None:
    """Neither lengths nor coverage tell that keys and vectors no longer belong together."""
    before = _rows(6, list(range(300)), dim=16)
    after = dict(zip(before, [*list(before.values())[1:], before[0]], strict=True))
    found = measured(before, after)
    assert found.coverage == 1
    assert found.norm_ratio == pytest.approx(1)
    with pytest.raises(DriftError, match=r"found mean cosine -?0\.0.*, neighbours changed 0\.9"):
        check_drift("user_v1", found, DriftGates())


def test_samples_come_near_the_whole_and_repeat_themselves() -> None:
    before = _rows(7, list(range(3_000)), dim=8)
    noise = np.random.default_rng(8).normal(size=(3_000, 8)) * 0.3
    after = {key: (row + noise[key]).astype(np.float32) for key, row in before.items()}
    whole = measured(before, after, sample=3_000).neighbours_changed
    drawn = measured(before, after, sample=300).neighbours_changed
    assert drawn == measured(before, after, sample=300).neighbours_changed
    assert drawn != measured(before, after, sample=300, seed=1).neighbours_changed
    assert drawn == pytest.approx(whole, abs=0.05)
    # Fewer to choose from lie farther apart, so that fewer of them change places.
    fewer = measured(before, after, base=300).neighbours_changed
    assert fewer is not None and whole is not None
    assert 0.1 < fewer < whole


@pytest.mark.parametrize("keys", [[1, 2], ["a", "b"]])
def test_nothing_in_common(keys: list[Any]) -> None:
    other = [7, 8, 9] if keys[0] == 1 else ["x", "y", "z"]
    found = measured(_rows(0, keys), _rows(1, other))
    assert (found.coverage, found.added, found.common) == (0, 1, 0)
    assert (found.cosine_mean, found.cosine_p05, found.norm_ratio) == (None, None, None)
    assert found.neighbours_changed is None
    with pytest.raises(DriftError, match=r"found coverage 0\.000; expected coverage at least 0\.9"):
        check_drift("user_v1", found, DriftGates())


def test_one_entity_has_no_neighbours() -> None:
    found = measured(_rows(0, [1]), _rows(0, [1, 2]))
    assert found.neighbours_changed is None
    assert found.cosine_mean == pytest.approx(1)
    assert (found.coverage, found.added) == (1, 0.5)


def test_fewer_entities_than_neighbours() -> None:
    before = _rows(0, [1, 2, 3])
    assert measured(before, _rows(9, [1, 2, 3])).neighbours_changed == 0  # All others are near.


def test_no_rows_at_all() -> None:
    none: Rows = {}
    assert measured(none, none) == Drift(0, 0, 0, 1.0, 0.0, None, None, None, None)
    assert measured(none, _rows(0, [1, 2])).added == 1.0
    assert measured(_rows(0, [1, 2]), none).coverage == 0.0


def test_zero_vectors() -> None:
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    stayed = measured({1: zero, 2: zero}, {1: zero, 2: zero})
    assert (stayed.cosine_mean, stayed.norm_ratio) == (1, 1)
    vanished = measured({1: one, 2: one}, {1: zero, 2: zero})
    assert (vanished.cosine_mean, vanished.norm_ratio) == (0, 0)
    arisen = measured({1: zero, 2: zero}, {1: one, 2: one})
    assert (arisen.cosine_mean, arisen.norm_ratio) == (0, math.inf)
    for found in (vanished, arisen):
        with pytest.raises(DriftError, match="norm ratio"):
            check_drift("user_v1", found, DriftGates())


def test_tiny_vectors_have_directions_too() -> None:
    before = {key: row * np.float32(1e-30) for key, row in _rows(0, [1, 2, 3]).items()}
    found = measured(before, before)
    assert found.cosine_mean == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(1)


GOOD = Drift(10, 10, 10, 1.0, 0.0, 0.9, 0.8, 1.0, 0.1)


@pytest.mark.parametrize(
    ("measure", "value", "line"),
    [
        ("cosine_mean", 0.699, "found mean cosine 0.699; expected mean cosine at least 0.7."),
        ("coverage", 0.5, "found coverage 0.500; expected coverage at least 0.9."),
        ("norm_ratio", 2.5, "found norm ratio 2.500; expected norm ratio at most 2."),
        ("norm_ratio", 0.3, "found norm ratio 0.300; expected norm ratio at least 0.5."),
        (
            "neighbours_changed",
            0.9,
            "found neighbours changed 0.900; expected neighbours changed at most 0.8.",
        ),
    ],
)
def test_each_measure_has_its_gate(measure: str, value: Any, line: str) -> None:
    gates = DriftGates(cosine=0.7, coverage=0.9, norm=2, neighbours=0.8)
    check_drift("user_transra_v1", GOOD, gates)
    with pytest.raises(DriftError) as caught:
        check_drift("user_transra_v1", replace(GOOD, **{measure: value}), gates)
    assert str(caught.value).startswith(f"refresh of user_transra_v1: {line}")
    assert "declare a new version" in str(caught.value)
    assert "--force --reason" in str(caught.value)


def test_all_measures_beyond_their_gates_are_named() -> None:
    with pytest.raises(DriftError) as caught:
        check_drift("v", Drift(10, 10, 1, 0.1, 0.9, 0.0, 0.0, 9.0, 1.0), DriftGates())
    for name in ("mean cosine", "coverage", "norm ratio", "neighbours changed"):
        assert str(caught.value).count(name) == 2  # found, and expected


def test_what_can_not_be_compared_is_refused() -> None:
    keys, vectors = _columns(_rows(0, [1, 2]))
    with pytest.raises(DriftError, match=r"found string keys and vectors of shape \(2, 4\)"):
        drift(keys, vectors, pa.array(["1", "2"]), vectors)
    with pytest.raises(DriftError, match=r"found int64 keys and vectors of shape \(2, 3\)"):
        drift(keys, vectors, keys, vectors[:, :3])
    with pytest.raises(DriftError, match=r"a vector a key"):
        drift(keys, vectors, keys, vectors[:1])


def test_the_measures_under_their_names() -> None:
    assert GOOD.metrics() == {
        "drift/coverage": 1.0,
        "drift/added": 0.0,
        "drift/cosine_mean": 0.9,
        "drift/cosine_p05": 0.8,
        "drift/norm_ratio": 1.0,
        "drift/neighbours_changed": 0.1,
    }
