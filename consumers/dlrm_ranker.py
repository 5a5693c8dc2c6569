"""Example: the attention head in a DLRM (Naumov et al. 2019), as TorchRec's users write it.

    ranker = DlrmRanker(layout, query="pin_transra_v1")
    logits = ranker(batch)                                       # (B,)

The three lines marked `head` are all that was added to it.

Legend of shapes: B rows, S sparse features, d the width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from provender.consumers.attention_head import AttentionHead  # head
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.plugin.id_table import IdTable


class DlrmRanker(nn.Module):
    """A bottom network for numbers, a bag of embeddings a sparse feature, their dot products.

    Args:
        layout: what batches hold.
        query: the view of the candidate.
        sparse: the join keys whose ids are embedded.
        buckets: rows of each table; ids are hashed.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        query: str,
        sparse: Sequence[str] = ("user_id", "pin_id"),
        *,
        buckets: int = 100_000,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.sparse = tuple(sparse)
        #: Only its hash of keys is used: the same everywhere and always.
        self.hashed = IdTable.hashed(buckets, 1, seed=0)
        self.bottom = nn.Sequential(
            nn.Linear(2 * len(layout.dense), 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU()
        )
        self.bags = nn.ModuleList(nn.EmbeddingBag(buckets, width, mode="sum") for _ in sparse)
        for bag in self.bags:
            nn.init.normal_(bag.get_parameter("weight"), std=0.05)
        crossed = len(sparse) + 1
        self.pairs = torch.triu_indices(crossed, crossed, offset=1)
        self.top = nn.Sequential(
            nn.Linear(width + self.pairs.shape[1], 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.head = AttentionHead(layout.embeddings, query, tasks=1)  # head

    def forward(self, batch: RankerBatch) -> Tensor:
        """Return the logits of a click, (B,)."""
        present = batch.dense_present.float()
        numbers = torch.log1p(batch.dense.clamp(min=0)) * present
        dense = self.bottom(torch.cat([numbers, present], dim=1))  # (B, d)
        ids = [self.hashed.rows_of(batch.keys[key]).clamp(min=0) for key in self.sparse]
        sparse = [bag(rows[:, None]) for bag, rows in zip(self.bags, ids, strict=True)]
        every = torch.stack([dense, *sparse], dim=1)  # (B, S + 1, d)
        left, right = self.pairs
        dots = (every @ every.transpose(1, 2))[:, left, right]  # (B, pairs)
        logits = self.top(torch.cat([dense, dots], dim=1))
        logits = logits + self.head(batch.vectors, batch.present)  # head
        found: Tensor = logits[:, 0]
        return found
