"""The attention head compiled, in bfloat16, exported, and as ONNX."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from provender.consumers.attention_head import AttentionHead
from provender.consumers.head_export import FlatHead, example_inputs, export_onnx, input_names
from tests.consumers.heads import PIN, USER, Inputs, full_head, inputs


def flat(head: AttentionHead, given: Inputs) -> tuple[Tensor, ...]:
    past = given.history
    parts: dict[str, Any] = {
        "vector": given.vectors,
        "present": given.present,
        "rows": given.rows,
        "past": {"items": past.items, "kinds": past.kinds, "age_seconds": past.age_seconds},
        "past_vector": past.vectors,
        "past_present": past.present,
        "past_rows": given.history_rows,
    }
    split = (name.split(":") for name in input_names(head))
    return tuple(parts[kind][of] for kind, of in split)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_it_compiles_whole(training: bool) -> None:
    head = full_head().train(training)
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    for rows, items in ((16, 7), (9, 40), (3, 2)):
        given = inputs(rows, items)
        torch.testing.assert_close(compiled(*given), head(*given))
    compiled(*inputs()).square().sum().backward()
    for name, parameter in head.named_parameters():
        if name != "unknown":
            assert parameter.grad is not None, name


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_it_compiles_to_machine_code() -> None:
    torch.manual_seed(0)
    # A small one: the compiler takes seconds a kernel.
    head = AttentionHead((USER, PIN), PIN.view_name, tasks=1, width=4, heads=1, hidden=4).eval()
    torch.nn.init.ones_(head.gate)
    given = inputs()
    with torch.no_grad():
        found = torch.compile(head, fullgraph=True)(given.vectors, given.present)
        torch.testing.assert_close(found, head(given.vectors, given.present))


def test_bfloat16_says_nearly_the_same_and_learns() -> None:
    head = full_head()
    given = inputs()
    exact = head(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(*given)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
    rough.float().square().sum().backward()
    for name, parameter in head.named_parameters():
        if name != "unknown":
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_an_exported_program_takes_any_number_of_rows_and_items() -> None:
    head = full_head()
    tensors, by_name, dims = example_inputs(head)
    program = torch.export.export(FlatHead(head), tensors, by_name, dynamic_shapes=dims).module()
    for rows, items in ((16, 7), (1, 30), (33, 2)):
        given = inputs(rows, items)
        torch.testing.assert_close(program(*flat(head, given)), head(*given), rtol=1e-4, atol=1e-5)


def test_onnx_says_the_same_for_any_number_of_rows_and_items(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    head = full_head()
    export_onnx(head, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    names = [each.name for each in session.get_inputs()]
    assert names == list(input_names(head))
    for rows, items in ((16, 7), (1, 30), (500, 20)):
        given = inputs(rows, items)
        fed = {n: t.numpy() for n, t in zip(names, flat(head, given), strict=True)}
        (found,) = session.run(["logits"], fed)
        torch.testing.assert_close(torch.from_numpy(found), head(*given), rtol=1e-4, atol=1e-5)
