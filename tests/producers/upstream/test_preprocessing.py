"""Scales and vocabularies against what they are by definition, and their way to disk and back."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provender.plugin.errors import CheckpointError
from provender.producers.upstream.declarations import CategoryColumn
from provender.producers.upstream.preprocessing import Fitted, TowerTransforms
from provender.producers.upstream.scales import Kind, Numbers, QuantileScale, fit_scale
from provender.producers.upstream.vocabularies import Vocabulary, fit_vocabulary

KINDS: tuple[Kind, ...] = ("quantile", "log", "standard", "none")
DICE = np.random.default_rng(3)


def floats(*values: float) -> Numbers:
    return np.array(values, np.float32)


def test_quantiles_make_any_distribution_normal() -> None:
    values = DICE.lognormal(2, 3, 20_000).astype(np.float32)
    scaled = fit_scale("quantile", values).apply(values)
    for share in (0.01, 0.1, 0.25, 0.5, 0.9, 0.99):
        assert np.quantile(scaled, share) == pytest.approx(NormalDist().inv_cdf(share), abs=0.02)
    order = np.argsort(values)
    assert (np.diff(scaled[order]) >= 0).all()


def test_equal_values_have_the_middle_of_their_quantiles() -> None:
    values = floats(*[0.0] * 750, *[1.0] * 250)
    scaled = fit_scale("quantile", values).apply(floats(-9, 0, 0.5, 1, 9))
    low, high = NormalDist().inv_cdf(0.375), NormalDist().inv_cdf(0.875)
    np.testing.assert_allclose(scaled, [low, low, (low + high) / 2, high, high], atol=0.01)


def test_log_and_standard_by_their_formulas() -> None:
    values = floats(0, 1, 3, 8, -2)
    logged = np.sign(values) * np.log1p(np.abs(values.astype(np.float64)))
    for kind, known in (("log", logged), ("standard", values.astype(np.float64))):
        scaled = fit_scale(kind, values).apply(values)  # type: ignore[arg-type]
        np.testing.assert_allclose(scaled, (known - known.mean()) / known.std(), rtol=1e-6)
    assert fit_scale("none", values).apply(values).tolist() == values.tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(width=32), max_size=30), st.lists(st.floats(width=32), max_size=10))
def test_what_is_missing_is_zero_and_all_is_finite(
    kind: Kind, fitted_on: list[float], values: list[float]
) -> None:
    scale = fit_scale(kind, floats(*fitted_on))
    scaled = scale.apply(floats(*values))
    assert scaled.dtype == np.float32
    assert not scaled[~np.isfinite(floats(*values))].any()
    small = np.abs(floats(*values)) < 1e6
    assert np.isfinite(scaled[small]).all()
    again = fit_scale(kind, floats(*fitted_on, float("nan"), float("inf")))
    assert again == scale


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, -7.0])
def test_a_constant_is_the_middle(kind: Kind, value: float) -> None:
    scale = fit_scale(kind, floats(*[value] * 100))
    assert abs(scale.apply(floats(value))[0]) < 1e-6
    assert np.isfinite(scale.apply(floats(value + 1, value - 1))).all()


def test_a_vocabulary_is_by_frequency_then_by_value() -> None:
    texts = [pa.array(["b", "a", "c", None]), pa.array(["c", "a", "d", "b", "c"])]
    column = CategoryColumn(column="x", most_values=3)
    learned = fit_vocabulary(column, texts)
    assert learned.values == ("c", "a", "b")
    assert learned.size == 4
    assert learned.rows(pa.array(["b", "c", "d", "zz", None, "a"])).tolist() == [3, 1, 0, 0, 0, 2]
    assert fit_vocabulary(column, reversed(texts)) == learned
    assert fit_vocabulary(column, []).rows(pa.array(["a"])).tolist() == [0]


def test_hashed_values_stay_where_they_are() -> None:
    """The rows are pinned: tables of trained models are looked up by them."""
    hashed = fit_vocabulary(CategoryColumn(column="x", buckets=1000), [])
    texts = pa.array(["news", "ключ", "", None, "news"])
    assert hashed.rows(texts).tolist() == [998, 13, 757, 0, 998]
    many = hashed.rows(pa.array([str(n) for n in range(50_000)]))
    assert (many.min(), many.max()) == (1, 1000)
    assert np.bincount(many)[1:].max() < 100
    assert hashed.size == 1001
    assert hashed.rows(pa.array([], pa.string())).tolist() == []


@pytest.fixture
def fitted() -> Fitted:
    values = DICE.normal(size=1000).astype(np.float32)
    return Fitted(
        user=TowerTransforms(
            numbers={kind: fit_scale(kind, values) for kind in KINDS},
            categories={"word": Vocabulary(values=("é", "a")), "hash": Vocabulary(buckets=9)},
        ),
        pin=TowerTransforms(numbers={}, categories={}),
        cross=TowerTransforms(numbers={}, categories={}),
    )


def test_saved_and_loaded_it_is_the_same(fitted: Fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = Fitted.load(tmp_path)
    assert loaded == fitted
    assert loaded.hash == fitted.hash
    assert list(loaded.user.numbers) == list(KINDS)
    assert isinstance(loaded.user.numbers["quantile"], QuantileScale)
    values = floats(-2, 0.3, 5)
    for kind in KINDS:
        again = loaded.user.numbers[kind].apply(values)
        assert again.tolist() == fitted.user.numbers[kind].apply(values).tolist()


def test_what_is_damaged_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        Fitted.load(tmp_path)
    fitted.save(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    told = json.loads(whole)
    told["fitted"]["user"]["numbers"]["log"]["mean"] += 1
    for damaged in (
        whole[:-20],
        "[]",
        json.dumps(told),
        whole.replace('"format": 1', '"format": 2'),
    ):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match="train a new version"):
            Fitted.load(tmp_path)
