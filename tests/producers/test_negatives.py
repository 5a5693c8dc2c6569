"""Negatives: only of the right type, by the stated distribution, seeded, hits seen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.producers.negatives import (
    EndSampler,
    Mixture,
    accidental_hits,
    build_sampler,
    mixture,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    degrees=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    offset=st.integers(0, 1000),
    power=st.floats(0, 1),
    uniform=st.floats(0.01, 1),
    seed=st.integers(0, 2**31),
)
def test_draws_stay_within_the_type(
    degrees: list[int], offset: int, power: float, uniform: float, seed: int
) -> None:
    sampler = build_sampler(torch.tensor(degrees), offset, power=power, uniform_share=uniform)
    drawn = sampler.draw(64, _generator(seed))
    assert drawn.dtype == torch.int64
    assert int(drawn.min()) >= offset
    assert int(drawn.max()) < offset + len(degrees)
    assert torch.isfinite(sampler.log_probability_of(drawn)).all()
    assert sampler.log_probability.exp().sum().item() == pytest.approx(1, rel=1e-4)


def test_the_distribution_is_the_stated_one() -> None:
    degrees = [0, 1, 16, 81]
    sampler = build_sampler(torch.tensor(degrees), 10, power=0.5, uniform_share=0.2)
    stated = [0.2 / 4 + 0.8 * math.sqrt(d) / 14 for d in degrees]
    drawn = sampler.draw(200_000, _generator()) - 10
    assert sampler.log_probability.exp().tolist() == pytest.approx(stated, rel=1e-5)
    assert (torch.bincount(drawn) / 200_000).tolist() == pytest.approx(stated, abs=0.005)


def test_expected_counts_are_those_of_the_draw() -> None:
    sampler = build_sampler(torch.tensor([1, 3]), 5, power=1.0, uniform_share=0.5)
    expected = Mixture([(sampler, 4)]).log_expected(torch.tensor([5, 6, 6, 5])).exp()
    assert expected.tolist() == pytest.approx([4 * 0.375, 4 * 0.625, 4 * 0.625, 4 * 0.375])


def test_entities_without_edges_are_drawn_alike() -> None:
    sampler = build_sampler(torch.tensor([0, 0]), 0, power=0.75, uniform_share=0.1)
    assert sampler.log_probability.exp().tolist() == pytest.approx([0.5, 0.5])


def test_an_end_is_drawn_by_how_often_it_is_there() -> None:
    sampler = EndSampler.of(torch.tensor([7, 3, 7, 7, 7]), 0.5, torch.device("cpu"))
    drawn = sampler.draw(200_000, _generator())
    assert (torch.bincount(drawn) / 200_000).tolist() == pytest.approx(
        [0, 0, 0, 1 / 3, 0, 0, 0, 2 / 3], abs=0.005
    )
    logs = sampler.log_probability_of(torch.tensor([3, 7, 2, 5, 9]))
    assert logs.exp().tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0, 0], rel=1e-6)


def test_a_mixture_expects_what_it_draws() -> None:
    common = build_sampler(torch.ones(6), 0, power=1.0, uniform_share=0.5)
    ends = [
        EndSampler.of(torch.tensor(each), 1.0, torch.device("cpu")) for each in ([0, 0, 1], [5])
    ]
    both = mixture(common, ends, 10, 0.6)
    assert [count for _, count in both.parts] == [4, 3, 3]
    generator, drawn = _generator(), torch.zeros(6)
    for _ in range(5_000):
        drawn += torch.bincount(both.draw(generator), minlength=6)
    stated = both.log_expected(torch.arange(6)).exp()
    assert stated.sum().item() == pytest.approx(10, rel=1e-5)
    assert stated.tolist() == pytest.approx([4 / 6 + 2, 4 / 6 + 1, 4 / 6, 4 / 6, 4 / 6, 4 / 6 + 3])
    assert (drawn / 5_000).tolist() == pytest.approx(stated.tolist(), rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 2))
def test_a_mixture_has_all_draws_and_one_in_common_at_least(
    negatives: int, share: float, ends: int
) -> None:
    sampler = build_sampler(torch.ones(3), 0, power=1.0, uniform_share=0.5)
    counts = [count for _, count in mixture(sampler, [sampler] * ends, negatives, share).parts]
    assert sum(counts) == negatives
    assert min(counts) > 0


def test_the_same_seed_draws_the_same_and_leaves_the_global_state() -> None:
    sampler = build_sampler(torch.arange(100), 0, power=0.75, uniform_share=0.1)
    before = torch.get_rng_state()
    assert torch.equal(sampler.draw(50, _generator(3)), sampler.draw(50, _generator(3)))
    assert not torch.equal(sampler.draw(50, _generator(3)), sampler.draw(50, _generator(4)))
    assert torch.equal(before, torch.get_rng_state())


def test_accidental_hits() -> None:
    hits = accidental_hits(torch.tensor([4, 7]), torch.tensor([7, 4, 7, 9]))
    assert hits is not None
    assert set(zip(*(each.tolist() for each in hits), strict=True)) == {(0, 1), (1, 0), (1, 2)}


def test_no_accidental_hits_are_none() -> None:
    assert accidental_hits(torch.tensor([4, 7]), torch.tensor([5, 6])) is None
