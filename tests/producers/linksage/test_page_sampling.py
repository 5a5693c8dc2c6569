"""What is drawn: repeatable, without false negatives, and corrected for how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from provender.plugin.errors import TrainingError
from provender.producers.linksage.page_sampling import Positives, dropout_seed, shown_alone
from tests.producers.linksage.planted_pages import planted

GRAPH = planted(pages=20, pins=60).graph
POSITIVES = Positives.of(GRAPH)
PAIRS = set(zip(GRAPH.positive_page.tolist(), GRAPH.positive_pin.tolist(), strict=True))


def test_an_epoch_has_every_positive_once_in_an_order_of_its_own() -> None:
    first, second = POSITIVES.order(3, 0), POSITIVES.order(3, 1)
    assert torch.equal(first.sort().values, torch.arange(len(POSITIVES)))
    assert not torch.equal(first, second)
    assert torch.equal(first, POSITIVES.order(3, 0))


@pytest.mark.parametrize("log_q", [True, False])
def test_candidates_are_those_of_a_loop(log_q: bool) -> None:
    batch = POSITIVES.order(0, 0)[:12]
    found = POSITIVES.candidates(batch, 30, seed=1, step=5, log_q=log_q)
    own = POSITIVES.pin[batch].tolist()
    assert found.nodes.tolist() == sorted(set(found.nodes.tolist()))
    assert set(own) <= set(found.nodes.tolist())
    assert found.nodes[found.positive].tolist() == own
    for row, page in enumerate(POSITIVES.page[batch].tolist()):
        known = [(page, node) in PAIRS for node in found.nodes.tolist()]
        assert found.known[row].tolist() == known
    # Drawn 30 times of all, and with the other 11 of the batch.
    share = Counter(POSITIVES.pin.tolist())
    expected = torch.tensor(
        [
            11 * share[node] / len(POSITIVES) + 30 / GRAPH.counts["pin"]
            for node in found.nodes.tolist()
        ]
    )
    times = found.correction.exp() * (expected if log_q else 1)
    torch.testing.assert_close(times, times.round(), rtol=0, atol=1e-4)
    assert float(times.sum()) == pytest.approx(12 + 30, abs=1e-3)
    again = POSITIVES.candidates(batch, 30, seed=1, step=5, log_q=log_q)
    assert torch.equal(found.nodes, again.nodes)
    other = POSITIVES.candidates(batch, 30, seed=1, step=6, log_q=log_q)
    assert not torch.equal(found.correction[: len(other.nodes)], other.correction)


def test_the_corrected_sum_is_that_over_all_pins() -> None:
    """Of a page's negatives, averaged over many draws, whatever each pin's popularity."""
    value = torch.rand(GRAPH.counts["pin"], generator=torch.Generator().manual_seed(1))
    rows = (POSITIVES.page == 4).nonzero().squeeze(1)[:1]
    sums = []
    for step in range(3000):
        rest = POSITIVES.order(1, step)[:9]
        batch = torch.cat([rows, rest[rest != rows][:8]])
        found = POSITIVES.candidates(batch, 10, seed=0, step=step, log_q=True)
        counted = found.correction.exp() * value[found.nodes]
        sums.append(float(counted[~found.known[0]].sum()))
    own = {pin for page, pin in PAIRS if page == 4}
    truth = float(sum(value[pin] for pin in range(len(value)) if pin not in own))
    assert sum(sums) / len(sums) == pytest.approx(truth, rel=0.02)


def test_pins_without_a_vector_are_neither_positives_nor_negatives() -> None:
    has = torch.arange(GRAPH.counts["pin"]) % 3 > 0
    some = Positives.of(GRAPH, has)
    assert 0 < len(some) < len(POSITIVES)
    assert bool(has[some.pin].all())
    found = some.candidates(some.order(0, 0)[:9], 200, seed=0, step=0, log_q=True)
    assert bool(has[found.nodes].all())
    assert bool(found.correction.isfinite().all())
    assert float(some.weight.mean()) == pytest.approx(1)


def test_weights_have_a_mean_of_one() -> None:
    weighed = replace(GRAPH, positive_weight=torch.arange(1.0, len(POSITIVES) + 1))
    weight = Positives.of(weighed).weight
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[1] / weight[0]) == pytest.approx(2)


def test_no_positives_are_refused() -> None:
    with pytest.raises(TrainingError, match="none of a pin with a vector"):
        Positives.of(GRAPH, torch.zeros(GRAPH.counts["pin"], dtype=torch.bool))


def test_draws_of_a_step_are_its_own() -> None:
    alone = shown_alone(10_000, 0.2, seed=0, step=3)
    assert float(alone.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(alone, shown_alone(10_000, 0.2, seed=0, step=3))
    assert not torch.equal(alone, shown_alone(10_000, 0.2, seed=0, step=4))
    seeds = {dropout_seed(0, step, rank) for step in range(5) for rank in range(3)}
    assert len(seeds) == 15
