"""Threads: results in order, the first error, and torch's own count left as it was."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.plugin.errors import TrainingError
from provender.producers.chunks import EpochPlan
from provender.producers.evaluation import next_day
from provender.producers.trainer import train
from provender.producers.vectors import Vectors
from provender.producers.warm_start import Parent
from provender.producers.workers import Workers
from tests.producers.planted import GRAPH, WINDOW, changed

CPU = torch.device("cpu")


PLAN = EpochPlan(0, [torch.tensor([index]) for index in range(16)])


@pytest.mark.parametrize("threads", [1, 2])
def test_results_come_in_order_from_that_many_threads(threads: int) -> None:
    meet, seen = threading.Barrier(threads, timeout=60), set()

    def step(plan: EpochPlan, index: int) -> tuple[int, float]:
        if index < threads:
            meet.wait()  # Only so many threads at once get past.
        flushed = float(torch.full((), 1e-40).mul_(2.0)) == 0.0
        seen.add((threading.get_ident(), torch.get_num_threads(), flushed))
        return int(plan.chunks[index]), 0.0

    with Workers(threads, CPU, step) as workers:
        done = workers.train(PLAN, range(16))
    assert [index for index, _ in done] == list(range(16))
    assert len(seen) == threads
    assert {inner for _, inner, _ in seen} == {1}
    assert {flushed for _, _, flushed in seen} == {torch.set_flush_denormal(False)}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_is_raised_and_the_thread_count_restored(threads: int) -> None:
    def step(plan: EpochPlan, index: int) -> tuple[int, float]:
        if index in (3, 4):
            raise ValueError(f"step {index}")
        return index, 0.0

    former = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with (
            pytest.raises(ValueError, match="step 3"),
            Workers(threads, CPU, step) as workers,
        ):
            assert torch.get_num_threads() == 1
            workers.train(PLAN, range(8))
        assert torch.get_num_threads() == 2
        assert float(torch.full((), 1e-40).mul_(2.0)) > 0  # Tiny numbers are numbers again.
    finally:
        torch.set_num_threads(former)


def test_two_threads_find_the_planted_structure() -> None:
    former = torch.get_num_threads()
    config = changed(epochs=10, shrinkage=1.0, cpu_threads=2)
    seen: list[int] = []
    parameters = train(GRAPH, config, on_progress=lambda at: seen.append(at.count))
    report = next_day(parameters, GRAPH, WINDOW, recalls=[10])["click"]
    assert report.model.recall[10] > 0.8
    assert sum(seen) == config.epochs * GRAPH.edges
    assert torch.get_num_threads() == former


def test_an_error_of_one_of_two_threads_ends_the_training() -> None:
    spoilt = Parent({"item": Vectors(pa.array(["item 003"]), np.full((1, 8), np.nan, np.float32))})
    with pytest.raises(TrainingError, match=r"epoch 0, batch \d+, relation '(checkout|promotes)'"):
        train(GRAPH, changed(cpu_threads=2), parent=spoilt)
