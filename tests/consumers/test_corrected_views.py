"""Rows that correct a view's vectors: nothing at first, then added before the projection."""

from __future__ import annotations

import pytest
import torch

from provender.consumers.attention_head import AttentionHead
from provender.consumers.facet_tokens import TableSpec
from provender.plugin.errors import ConfigError
from tests.consumers.heads import PIN, SPECS, USER, Inputs, inputs

CORRECTING = {
    "users": TableSpec("user_id", USER.dim, corrects=USER.view_name),
    "pins": TableSpec("pin_id", PIN.dim, corrects=PIN.view_name),
}
ROWS = 9


def correcting(given: Inputs, tables: dict[str, TableSpec]) -> AttentionHead:
    """A head of open gate; with and without tables its other weights are the same."""
    torch.manual_seed(0)
    head = AttentionHead(SPECS, PIN.view_name, tables=tables, tasks=2)
    torch.nn.init.ones_(head.gate)
    head.tokens.scales.copy_(torch.tensor([0.5, 2.0]))
    return head.eval()


def drawn() -> tuple[Inputs, dict[str, torch.Tensor]]:
    given = inputs(ROWS)
    return given, {name: torch.zeros(ROWS, table.dim) for name, table in CORRECTING.items()}


def test_rows_of_zeros_change_nothing() -> None:
    given, rows = drawn()
    plain = correcting(given, {})(given.vectors, given.present)
    assert torch.equal(correcting(given, CORRECTING)(given.vectors, given.present, rows), plain)


def test_a_row_is_added_to_the_scaled_vector() -> None:
    """As if the vector itself were another by the row over the scale of its space."""
    given, rows = drawn()
    rows = {name: torch.randn_like(row) for name, row in rows.items()}
    head = correcting(given, CORRECTING)
    everywhere = {view: torch.ones(ROWS, dtype=torch.bool) for view in given.present}
    nothing = {name: torch.zeros_like(row) for name, row in rows.items()}
    moved = {
        **given.vectors,
        USER.view_name: given.vectors[USER.view_name] + rows["users"] / 0.5,
        PIN.view_name: given.vectors[PIN.view_name] + rows["pins"] / 0.5,
    }
    corrected = head.tokens(given.vectors, everywhere, rows)
    assert torch.allclose(corrected.tokens, head.tokens(moved, everywhere, nothing).tokens)
    assert not torch.allclose(
        corrected.tokens, head.tokens(given.vectors, everywhere, nothing).tokens
    )


def test_rows_get_gradients_from_the_first_step_that_the_gate_is_open() -> None:
    given, rows = drawn()
    rows = {name: row.requires_grad_() for name, row in rows.items()}
    correcting(given, CORRECTING)(given.vectors, given.present, rows).square().sum().backward()
    for name, row in rows.items():
        assert row.grad is not None and (row.grad != 0).any(), name


def test_a_row_stands_in_for_a_vector_that_is_missing() -> None:
    given, rows = drawn()
    absent = {view: torch.zeros(ROWS, dtype=torch.bool) for view in given.present}
    rows["users"][0] = 1.0
    seen = correcting(given, CORRECTING).tokens(given.vectors, absent, rows).seen
    assert seen[0].tolist() == [True, False, False]
    assert not seen[1:].any()


@pytest.mark.parametrize(
    "table",
    [
        TableSpec("user_id", USER.dim + 1, corrects=USER.view_name),
        TableSpec("pin_id", PIN.dim, corrects=USER.view_name),
        TableSpec("user_id", USER.dim, corrects="user_other_v1"),
    ],
)
def test_rows_that_fit_no_view_are_refused(table: TableSpec) -> None:
    with pytest.raises(ConfigError, match="that correct") as refused:
        correcting(inputs(1), {"users": table})
    assert "Correct the view's name" in refused.value.remedy
