"""Vectors of pin nodes: whose they are, and that the tower learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from provender.producers.linksage.page_model import PageModel
from provender.producers.linksage.pin_vectors import PinVectors
from tests.producers.linksage.planted_pages import planted, small

PLANTED = planted()
CPU = torch.device("cpu")


def test_a_duplicate_stands_in_for_a_representative_without_a_target() -> None:
    features, graph = PLANTED.features, PLANTED.graph
    assert features.targets is not None
    targets = features.targets.copy()
    nodes = graph.counts["pin"]
    targets[:10] = np.nan  # representatives, with duplicates from `nodes` on
    targets[nodes : nodes + 5] = 0.0
    some = replace(features, targets=targets)
    found = PinVectors.prepare(PageModel.new(small(), some), some, graph, CPU)
    assert found.has.tolist() == [False] * 5 + [True] * (nodes - 5)
    rows = list(range(nodes, nodes + 10))[5:] + list(range(10, nodes))
    np.testing.assert_array_equal(found.of(found.has.nonzero().squeeze(1)).numpy(), targets[rows])


def test_every_parameter_of_the_tower_gets_a_gradient() -> None:
    model = PageModel.new(small(training={"targets": "joint"}), PLANTED.features)
    found = PinVectors.prepare(model, PLANTED.features, PLANTED.graph, CPU)
    shows = [
        bool(
            PLANTED.features.pins.text[row].any() or PLANTED.features.pins.mean_images()[row].any()
        )
        for row in found.rows.clamp(max=len(PLANTED.features.pins) - 1).tolist()
    ]
    assert found.has.tolist() == shows
    assert model.pin_tower is not None
    vectors = found.of(found.has.nonzero().squeeze(1))
    assert vectors.shape[1] == model.config.model.dim
    (vectors - 1).square().sum().backward()
    for name, parameter in model.pin_tower.named_parameters():
        assert parameter.grad is not None, name
        assert float((parameter.grad != 0).float().mean()) > 0.8, name
