"""Which of two pins is clicked more: pairs and margins against loops over everything."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.sparse as sp

from provender.plugin.errors import TrainingError
from provender.producers.linksage.page_clicks import Outcomes, judge_clicks

PAGES, EACH, TIMES = 120, 4, 10


def planted(effect: float = 0.6, seed: int = 0) -> tuple[Outcomes, np.ndarray]:
    """Pins of whose first feature clicks depend; pages differ in rates and time."""
    rng = np.random.default_rng(seed)
    page = np.repeat(np.arange(PAGES), EACH)
    seen = rng.normal(size=(len(page), 3))
    odds = -3 + rng.normal(size=PAGES)[page] + effect * seen[:, 0]
    shown = rng.integers(2000, 6000, len(page)).astype(float)
    clicked = rng.binomial(shown.astype(int), 1 / (1 + np.exp(-odds))).astype(float)
    looks = np.arange(len(page))
    looks[1::EACH] = looks[::EACH]  # Of each page two look alike.
    time = (page * TIMES // PAGES).astype(float)
    return Outcomes(page, np.arange(len(page)), looks, shown, clicked, time), seen


def pairs(outcomes: Outcomes, rows: np.ndarray) -> set[tuple[int, int]]:
    found = set()
    for one, other in permutations(np.flatnonzero(rows).tolist(), 2):
        shown, clicked = outcomes.shown[[one, other]], outcomes.clicked[[one, other]]
        pooled = clicked.sum() / shown.sum()
        error = np.sqrt(pooled * (1 - pooled) * (1 / shown).sum())
        better = clicked[0] / shown[0] - clicked[1] / shown[1]
        alike = outcomes.looks[one] == outcomes.looks[other]
        if outcomes.page[one] == outcomes.page[other] and not alike and better > 1.96 * error:
            found.add((one, other))
    return found


def test_pairs_are_those_of_one_page_that_differ_and_look_different() -> None:
    outcomes, _ = planted()
    rows = outcomes.time >= 7
    found = outcomes.significant(rows)
    assert len(found) > 50
    assert {tuple(pair) for pair in found.tolist()} == pairs(outcomes, rows)


def test_targets_and_features_are_centred_by_impressions_in_their_page() -> None:
    outcomes, seen = planted()
    for dense in (outcomes.targets()[:, None], outcomes.centred(seen)):
        for page in range(0, PAGES, 17):
            of = outcomes.page == page
            mean = np.average(dense[of], axis=0, weights=outcomes.shown[of])
            np.testing.assert_allclose(mean, 0, atol=1e-9)
    sparse = outcomes.centred(sp.csr_array(seen))
    np.testing.assert_allclose(sparse.toarray(), outcomes.centred(seen), atol=1e-12)


def test_what_moves_clicks_is_found_and_what_does_not_is_not() -> None:
    outcomes, seen = planted()
    told = {"noise": seen[:, 1:], "all": seen, "sparse": sp.csr_array(seen)}
    found = judge_clicks(outcomes, told)
    assert found["noise"].margin == 0
    assert found["noise"].interval[0] < 0.5 < found["noise"].interval[1]
    assert found["all"].accuracy > 0.9
    assert found["all"].margin_interval[0] > 0.2
    assert found["all"].margin == pytest.approx(found["all"].accuracy - found["noise"].accuracy)
    assert found["sparse"].accuracy == pytest.approx(found["all"].accuracy, abs=0.02)
    late = pairs(outcomes, outcomes.time >= 8)
    assert {one.pairs for one in found.values()} == {len(late)}


def test_what_comes_last_is_not_learned_from() -> None:
    outcomes, seen = planted()
    late = outcomes.time >= 8
    turned = seen.copy()
    turned[late] *= -1  # Whoever had learned from the last fifth would be right there.
    assert judge_clicks(outcomes, {"turned": turned})["turned"].accuracy < 0.1


def test_nothing_to_tell_apart_is_an_error() -> None:
    outcomes, seen = planted()
    even = Outcomes(**{**vars(outcomes), "clicked": np.ones(len(outcomes))})
    with pytest.raises(TrainingError, match="no two pins of a page that differ significantly"):
        judge_clicks(even, {"all": seen})
