"""Towers: what each sees, what gets a gradient, what is saved."""

from __future__ import annotations

import torch

from tests.producers.upstream.small_batches import small_batch, small_model


def test_vectors_have_norm_1_and_logits_one_a_task() -> None:
    model = small_model()
    batch = small_batch(model)
    leaves = model.leaves(batch)
    users, pins = model.users(batch.users, leaves), model.pins(batch.pins, leaves)
    logits = model.scores(users, pins, batch.cross, batch.user, batch.pin)
    assert logits.shape == (24, 3)
    torch.testing.assert_close(users.vector.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(pins.vector.norm(dim=1), torch.ones(10))
