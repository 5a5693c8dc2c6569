"""Pages embedded a second: torch's own TransformerEncoder, and what each saving adds to it.

    OMP_NUM_THREADS=1 python benchmarks/linksage_encoder.py

Width 256, 2 layers, 4 heads, dense layers of 1,024, 50 neighbours a page, text vectors of 256 and
image vectors of 128 numbers; a pin is on five pages on average. The straightforward way is
nn.TransformerEncoder (pre-norm, evaluated without gradients) over all 103 tokens of a page, text
and image of each neighbour apart and projected wherever they occur, pages in batches as they come,
padded. It has the same weights, and its vectors are compared with those of the first savings, which
compute the same. Then the savings are switched on one after the other. All take turns in one
process with one thread; the figures are medians of pages by processor time, from features and
neighbours to vectors. In bf16 the straightforward way has all its weights in bfloat16, which is
faster for it than autocast. Writes benchmarks/results/linksage_encoder.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provender.producers import onednn
from provender.producers.linksage import dense
from provender.producers.linksage.config import ModelConfig
from provender.producers.linksage.features import Features, NodeFeatures
from provender.producers.linksage.page_encoder import Layer, PageEncoder, Projected, encode
from provender.producers.linksage.page_graph import PageGraph
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_tokens import Nodes, PageTokens, TokenSource
from provender.producers.memory import keep_freed_memory
from provender.producers.vectors import unit

RESULTS = Path(__file__).parent / "results"
TEXT, IMAGE, NEIGHBOURS = 256, 128, 50
#: Pages of a batch where they are taken as they come: the best of 8, 16, 32 and 64 here.
BATCH = 32
CONFIG = ModelConfig(neighbours=NEIGHBOURS, nested_dims=())
APART = CONFIG.model_copy(update={"merge_neighbours": False})
Embed = Callable[[Tensor], Tensor]


def world(pages: int, fewest: int) -> tuple[Features, PageGraph, Neighbours]:
    """Pages of `fewest` to 50 neighbours, pins five times on average."""
    rng = np.random.default_rng(0)
    counts = rng.integers(fewest, NEIGHBOURS + 1, pages)
    pins = int(counts.sum()) // 5
    of_page = [np.sort(rng.integers(1, 99, count))[::-1] for count in counts]
    graph = PageGraph(
        counts={"page": pages, "pin": pins},
        edges={},
        cluster=torch.arange(pins),
        representative=torch.arange(pins),
        positive_pin=torch.zeros(0, dtype=torch.int64),
        positive_page=torch.zeros(0, dtype=torch.int64),
        positive_weight=torch.zeros(0),
        page_hashes=torch.arange(pages),
        report={},
    )
    found = Neighbours(
        torch.from_numpy(np.concatenate([[0], counts.cumsum()])),
        torch.zeros(int(counts.sum()), dtype=torch.uint8),
        torch.from_numpy(rng.integers(0, pins, int(counts.sum()))),
        torch.from_numpy(np.concatenate(of_page).astype(np.int32)),
        torch.from_numpy(counts),
    )
    return Features(_shown(rng, pages), _shown(rng, pins), None), graph, found


def _shown(rng: np.random.Generator, count: int) -> NodeFeatures:
    return NodeFeatures(
        keys=pa.array(range(count)),
        text=unit(rng.normal(size=(count, TEXT)).astype(np.float32)),
        images=unit(rng.normal(size=(count, IMAGE)).astype(np.float32)),
        image_offsets=np.arange(count + 1),
        image_sizes=np.ones(count, np.float32),
    )


class Straightforward(nn.Module):
    """The same encoder by nn.TransformerEncoder, everything computed."""

    def __init__(self, encoder: PageEncoder) -> None:
        super().__init__()
        config = encoder.config
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feedforward, batch_first=True, norm_first=True
        )
        self.tokens = encoder
        self.transformer = nn.TransformerEncoder(
            layer, config.layers, encoder.norm, enable_nested_tensor=False
        )
        for own, other in zip(encoder.layers, self.transformer.layers, strict=True):
            _copy(cast(Layer, own), cast(nn.TransformerEncoderLayer, other))
        self.eval()

    def forward(self, tokens: PageTokens, nodes: Nodes) -> Tensor:
        values, has, content = self.tokens.project(nodes)
        projected = values, has, content.to(nodes.text.dtype)
        x, mask = self.tokens.embed(tokens, projected)
        x = self.transformer(x, src_key_padding_mask=None if mask is None else ~mask)
        head = self.tokens.head
        deep = F.linear(x[:, 0], head.weight, head.bias).float()
        return deep + self.tokens._content(tokens, projected).float()


def _copy(own: Layer, other: nn.TransformerEncoderLayer) -> None:
    pairs = {
        "norm1": own.attention_norm,
        "norm2": own.dense_norm,
        "linear1": own.up,
        "linear2": own.down,
    }
    for name, module in pairs.items():
        getattr(other, name).load_state_dict(module.state_dict())
    other.self_attn.in_proj_weight.data.copy_(own.query_key_value.weight)
    other.self_attn.in_proj_bias.data.zero_()
    other.self_attn.out_proj.load_state_dict(own.mix.state_dict())


class EverythingOfAll(PageEncoder):
    """All layers for all tokens."""

    def forward(self, tokens: PageTokens, nodes: Nodes | Projected | None) -> Tensor:
        assert nodes is not None
        projected = self.project(nodes) if isinstance(nodes, Nodes) else nodes
        x, mask = self.embed(tokens, projected)
        for layer in self.layers:
            x = layer(x, mask)
        deep: Tensor = self.head(self.norm(x[:, 0])).float()
        return deep + self._content(tokens, projected).float()


class KeysAndValuesOfAll(PageEncoder):
    """The last layer has one query, but keys and values of all tokens."""

    def forward(self, tokens: PageTokens, nodes: Nodes | Projected | None) -> Tensor:
        assert nodes is not None
        projected = self.project(nodes) if isinstance(nodes, Nodes) else nodes
        x, mask = self.embed(tokens, projected)
        *first, last = (cast(Layer, layer) for layer in self.layers)
        for layer in first:
            x = layer(x, mask)
        normed = last.attention_norm(x)
        query, both = last.query_key_value.weight.tensor_split([x.shape[2]])
        q = dense.linear(normed[:, :1], query).unflatten(2, (last.heads, -1)).transpose(1, 2)
        k, v = dense.linear(normed, both).unflatten(2, (2, last.heads, -1)).permute(2, 0, 3, 1, 4)
        where = None if mask is None else mask[:, None, None, :]
        found = F.scaled_dot_product_attention(q, k, v, where).transpose(1, 2).flatten(2)
        x = last._dense(x[:, :1] + last.mix(found))
        deep: Tensor = self.head(self.norm(x[:, 0])).float()
        return deep + self._content(tokens, projected).float()


@dataclass(frozen=True)
class Contestant:
    """`pages` are worked on in a turn; `onednn` says whether products may go there."""

    label: str
    embed: Embed
    pages: int
    onednn: bool = False
    bf16: bool = False

    def turn(self) -> tuple[float, Tensor]:
        """Pages a second of processor time, and the vectors."""
        allowed = nullcontext() if self.onednn else mock.patch.object(onednn, "LINEAR", None)
        brain = torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)
        with torch.inference_mode(), allowed, brain:
            began = time.process_time()
            vectors = self.embed(torch.arange(self.pages))
            return self.pages / (time.process_time() - began), vectors


def contestants(pages: int, fewest: int) -> list[Contestant]:
    features, graph, found = world(pages, fewest)
    torch.manual_seed(0)
    apart = PageEncoder(APART, TEXT, IMAGE).eval()
    apart.head.reset_parameters()  # as if the layers had learned to say something
    merged = _copied(apart, config=CONFIG)
    whole, all_keys = _copied(apart, EverythingOfAll), _copied(apart, KeysAndValuesOfAll)
    plain, half = Straightforward(apart), Straightforward(_copied(apart)).to(torch.bfloat16)
    source = TokenSource.of(features, graph, found, APART)

    def as_they_come(encoder: Callable[[PageTokens, Nodes], Tensor], kind: torch.dtype) -> Embed:
        def embed(rows: Tensor) -> Tensor:
            parts = [each_place(source.tokens(part)) for part in rows.split(BATCH)]
            return torch.cat([encoder(*_as(kind, *part)) for part in parts])

        return embed

    def each_place(tokens: PageTokens) -> tuple[PageTokens, Nodes]:
        places = tokens.neighbours.flatten()
        apart = torch.arange(len(places)).view_as(tokens.neighbours)
        nodes = Nodes(source.text[0][places], source.image[0][places], torch.zeros_like(places))
        return replace(tokens, neighbours=apart), nodes

    def by_length(encoder: PageEncoder, once: bool) -> Embed:
        def embed(rows: Tensor) -> Tensor:
            tokens = source.tokens(rows)
            both = source.distinct(tokens) if once else each_place(tokens)
            return encode(encoder, *both)

        return embed

    few, single, brain = max(pages // 8, BATCH), torch.float32, torch.bfloat16
    return [
        Contestant("nn.TransformerEncoder", as_they_come(plain, single), few),
        Contestant("no padding", by_length(whole, False), few),
        Contestant("last layer: one query", by_length(all_keys, False), few),
        Contestant("last layer: keys and values not made", by_length(apart, False), few),
        Contestant("text and image of a neighbour merged", by_length(merged, False), pages),
        Contestant("neighbours projected once", by_length(merged, True), pages),
        Contestant("products by oneDNN (LinkSage, fp32)", by_length(merged, True), pages, True),
        Contestant("nn.TransformerEncoder, bf16", as_they_come(half, brain), few),
        Contestant("LinkSage, bf16", by_length(merged, True), pages, True, True),
    ]


def _copied(
    encoder: PageEncoder, kind: type[PageEncoder] = PageEncoder, config: ModelConfig = APART
) -> PageEncoder:
    copy = kind(config, TEXT, IMAGE).eval()
    copy.load_state_dict(encoder.state_dict())
    return copy


def _as(kind: torch.dtype, tokens: PageTokens, nodes: Nodes) -> tuple[PageTokens, Nodes]:
    if kind == torch.float32:
        return tokens, nodes
    names = ("text", "images", "shares", "degree", "visits")
    halves = {name: getattr(tokens, name).to(kind) for name in names}
    return replace(tokens, **halves), Nodes(nodes.text.to(kind), nodes.image.to(kind), nodes.types)


def measured(pages: int, fewest: int, turns: int) -> list[dict[str, float | str]]:
    """Medians by contestant, after a first turn that does not count, and how alike vectors are."""
    field = contestants(pages, fewest)
    rates: list[list[float]] = [[] for _ in field]
    vectors: list[Tensor] = [torch.empty(0)] * len(field)
    for turn in range(turns + 1):
        for place, contestant in enumerate(field):
            rate, vectors[place] = contestant.turn()
            rates[place] += [rate] if turn else []
    plain = statistics.median(rates[0])
    told: list[dict[str, float | str]] = []
    for contestant, found, own in zip(field, rates, vectors, strict=True):
        merged = contestant.pages == pages
        like = vectors[5 if merged else 0][: len(own)]
        told.append(
            {
                "label": contestant.label,
                "pages_a_second": statistics.median(found),
                "least": min(found),
                "most": max(found),
                "times": statistics.median(found) / plain,
                "least_cosine": float(F.cosine_similarity(own, like).min()),
                "compared_with": field[5 if merged else 0].label,
            }
        )
    return told


def table(found: list[dict[str, float | str]], title: str) -> str:
    lines = [
        f"| {title} | pages/s of one core | least to most | against the first |",
        "|---|---|---|---|",
    ]
    for one in found:
        span = f"{one['least']:,.0f} to {one['most']:,.0f}"
        rate, times = f"{one['pages_a_second']:,.0f}", f"{one['times']:.1f}x"
        lines.append(f"| {one['label']} | {rate} | {span} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--pages", type=int, default=1024)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    whole = measured(given.pages, NEIGHBOURS, given.turns)
    mixed = measured(given.pages, 0, given.turns)
    about = {
        "turns": given.turns,
        "pages": given.pages,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16_in_hardware": "avx512_bf16" in Path("/proc/cpuinfo").read_text(),
        "each_50": whole,
        "0_to_50": mixed,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "linksage_encoder.json").write_text(json.dumps(about, indent=2) + "\n")
    told = "\n".join(
        [table(whole, "50 neighbours each"), table(mixed, "0 to 50 neighbours, evenly")]
    )
    (RESULTS / "linksage_encoder.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
