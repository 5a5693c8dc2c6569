"""A trained attention head outside Python: as a torch.export program, or as ONNX.

    program = torch.export.export(FlatHead(head), *example_inputs(head))
    export_onnx(head, Path("head.onnx"))         # needs pip install 'provender[onnx]'

Both take tensors alone, by name: `vector:VIEW` (B, D), `present:VIEW` (B,), `rows:TABLE` (B, r),
and of the past `past:items`, `past:kinds`, `past:age_seconds` (B, L), `past_vector:VIEW` (U, D),
`past_present:VIEW` (U,), `past_rows:TABLE` (U, r). B and U may be any.

Legend of shapes: B rows, U distinct items of the past, L actions of a row at most, T tasks, D the
dim of a view, r of a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from provender.consumers.attention_head import AttentionHead
from provender.consumers.history_tokens import Past
from provender.plugin.errors import ConfigError
from provender.plugin.files import write_whole


class FlatHead(nn.Module):
    """A head whose inputs are tensors in a fixed order, by `names`."""

    def __init__(self, head: AttentionHead) -> None:
        super().__init__()
        self.head = head.eval()
        self.names = input_names(head)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return what to add to the logits, (B, T)."""
        given = dict(zip(self.names, tensors, strict=True))
        head = self.head

        def of(kind: str) -> dict[str, Tensor]:
            start = f"{kind}:"
            return {n[len(start) :]: t for n, t in given.items() if n.startswith(start)}

        past = None
        if head.history is not None:
            past = Past(**of("past"), vectors=of("past_vector"), present=of("past_present"))
        added: Tensor = head(of("vector"), of("present"), of("rows"), past, of("past_rows"))
        return added


def input_names(head: AttentionHead) -> tuple[str, ...]:
    """The names of a head's tensors, in the order in which :class:`FlatHead` takes them."""
    names = [f"{kind}:{view}" for view in head.views for kind in ("vector", "present")]
    names += [f"rows:{table}" for table in head.tables]
    if head.history is not None:
        names += [f"past:{part}" for part in ("items", "kinds", "age_seconds")]
        names += [f"{k}:{v}" for v in head.past_views for k in ("past_vector", "past_present")]
        names += [f"past_rows:{table}" for table in head.past_tables]
    return tuple(names)


def example_inputs(
    head: AttentionHead, rows: int = 5, items: int = 7
) -> tuple[tuple[Tensor, ...], dict[str, Any], dict[str, Any]]:
    """Return what `torch.export.export` wants behind the module: inputs, none by name, dims."""
    batch, distinct = Dim("batch", min=1), Dim("items", min=1)
    tensors, dims = [], []
    for name in input_names(head):
        kind, _, of = name.partition(":")
        tensors.append(_example(head, kind, of, rows, items))
        dims.append({0: distinct if kind.startswith("past_") else batch})
    return tuple(tensors), {}, {"tensors": tuple(dims)}


def _example(head: AttentionHead, kind: str, of: str, rows: int, items: int) -> Tensor:
    length = head.history.length if head.history is not None else 0
    if kind == "past":
        if of == "age_seconds":
            return torch.rand(rows, length) * 1e5
        return torch.zeros(rows, length, dtype=torch.int64)
    count = items if kind.startswith("past_") else rows
    if kind.endswith("present"):
        return torch.ones(count, dtype=torch.bool)
    if kind.endswith("rows"):
        return torch.randn(count, head.tables[of].dim)
    return torch.randn(count, head.tokens.dims[of])


def export_onnx(head: AttentionHead, path: Path) -> None:
    """Write a head as one ONNX file, whole or not at all; its output is called `logits`.

    Raises ConfigError where the packages for it are not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            "ONNX",
            found="no package onnxscript",
            expected="what an export needs",
            remedy="Install it: `pip install 'provender[onnx]'`.",
        ) from None
    was_training = head.training
    flat = FlatHead(head).eval()
    tensors, _, dims = example_inputs(head)
    try:
        program = torch.onnx.export(
            flat,
            tensors,
            dynamo=True,
            input_names=list(flat.names),
            output_names=["logits"],
            dynamic_shapes=dims,
            verbose=False,
        )
    finally:
        head.train(was_training)
    assert program is not None, "the exporter returns a program"
    write_whole(path, program.model_proto.SerializeToString())
