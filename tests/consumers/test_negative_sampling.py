from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from provender.consumers.negative_sampling import NegativeSampling, corrected
from provender.plugin.errors import ConfigError, FetchError


def rows(click: list[int | None], conversion: list[int | None], **more: Any) -> pa.Table:
    return pa.table(
        {
            "impression_id": pa.array(range(len(click)), pa.int64()),
            "click": pa.array(click, pa.int8()),
            "conversion": pa.array(conversion, pa.int8()),
            **more,
        }
    )


LABEL = st.sampled_from([0, 0, 0, 1, None])


@given(st.lists(st.tuples(LABEL, LABEL), max_size=40), st.integers(0, 5), st.floats(0.05, 0.9))
def test_positives_stay_and_what_is_left_counts_for_what_is_gone(
    labels: list[tuple[int | None, int | None]], seed: int, share: float
) -> None:
    weight = pa.array([0.5] * len(labels), pa.float32())
    table = rows([a for a, _ in labels], [b for _, b in labels], click_weight=weight)
    kept = NegativeSampling(share, seed).sampled(table).to_pylist()
    ids = [row["impression_id"] for row in kept]
    positive = {no for no, pair in enumerate(labels) if 1 in pair}
    assert positive <= set(ids)
    assert ids == sorted(ids)
    for row in kept:
        times = 1.0 if row["impression_id"] in positive else 1 / share
        assert row["click_weight"] == pytest.approx(0.5 * times)
        known = row["conversion"] is not None
        assert row["conversion_weight"] == pytest.approx(times if known else 0)


def test_the_same_rows_are_kept_in_any_order_part_and_type_of_batch() -> None:
    table = rows([0] * 5000, [0] * 5000)
    sampling = NegativeSampling(0.3, seed=4)
    kept = sampling.sampled(table)["impression_id"].to_pylist()
    assert abs(len(kept) - 1500) < 150
    turned = sampling.sampled(table.take(pa.array(range(4999, -1, -1))))
    assert turned["impression_id"].to_pylist() == kept[::-1]
    parts = [sampling.sampled(table.slice(start, 700)) for start in range(0, 5000, 700)]
    assert pa.concat_tables(parts)["impression_id"].to_pylist() == kept
    assert NegativeSampling(0.3, seed=5).sampled(table)["impression_id"].to_pylist() != kept


def test_ids_of_text_are_as_good() -> None:
    names = pa.array([f"impression {no}" for no in range(5000)])
    table = rows([0] * 5000, [0] * 5000).set_column(0, "impression_id", names)
    kept = NegativeSampling(0.3, seed=4).sampled(table)
    assert abs(len(kept) - 1500) < 150
    # What is kept may not change with a version: other machines have the rest of the rows.
    assert kept["impression_id"].to_pylist()[:3] == KEPT_NAMES
    numbers = NegativeSampling(0.3, seed=4).sampled(rows([0] * 30, [0] * 30))
    assert numbers["impression_id"].to_pylist() == KEPT_NUMBERS


KEPT_NAMES = ["impression 13", "impression 16", "impression 21"]
KEPT_NUMBERS = [4, 6, 12, 18, 19, 20, 23, 29]


def fitted(features: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Coefficients of a weighted logistic regression, by Newton's method; float64 (3,)."""
    x = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    found = torch.zeros(3, dtype=torch.float64)
    for _ in range(25):
        chance = (x @ found).sigmoid()
        slope = x.T @ (weights * (chance - labels))
        curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x
        found = found - torch.linalg.solve(curve, slope)
    return found


def test_a_model_of_the_sample_is_calibrated_on_the_whole() -> None:
    random = np.random.default_rng(1)
    features = torch.from_numpy(random.normal(size=(200_000, 2)))
    chance = torch.sigmoid(features @ torch.tensor([1.0, -0.5], dtype=torch.float64) - 3)
    click = random.random(200_000) < chance.numpy()
    share = 0.1
    sampled = NegativeSampling(share, 2).sampled(rows(click.astype(int).tolist(), [0] * 200_000))
    places = torch.from_numpy(sampled["impression_id"].to_numpy().copy())
    labels = torch.from_numpy(sampled["click"].to_numpy().astype(np.float64))
    weights = torch.from_numpy(sampled["click_weight"].to_numpy().astype(np.float64))

    def predicted(weights: torch.Tensor) -> torch.Tensor:
        found = fitted(features[places], labels, weights)
        return (torch.cat([features, torch.ones(200_000, 1)], dim=1) @ found).sigmoid()

    total = click.sum()
    assert predicted(weights).sum() / total == pytest.approx(1, abs=0.03)
    unweighted = predicted(torch.ones_like(weights))
    assert unweighted.sum() / total > 3
    assert corrected(unweighted, share).sum() / total == pytest.approx(1, abs=0.03)
    assert corrected(unweighted.numpy(), share).sum() / total == pytest.approx(1, abs=0.03)


@given(st.floats(0.001, 0.999), st.floats(0.01, 1))
def test_corrected_odds_are_the_odds_times_the_share(chance: float, share: float) -> None:
    found = corrected(chance, share)
    assert found / (1 - found) == pytest.approx(chance / (1 - chance) * share)


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="above 0, at most 1"):
        NegativeSampling(share)


def test_rows_without_ids_or_labels_are_refused() -> None:
    for missing in ("impression_id", "click"):
        table = rows([0], [0]).drop_columns([missing, "conversion"])
        with pytest.raises(FetchError, match="impression_id and one of click, conversion"):
            NegativeSampling(0.5).sampled(table)
