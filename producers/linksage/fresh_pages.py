"""Pages that were crawled a moment ago, embedded by the newest refresh's model.

A page that the refresh knows keeps its neighbours and shows what it shows now. One that is new has
the pins as neighbours that it says lead to it; the next refresh walks from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from provender.plugin.manifest import Manifest
from provender.plugin.tables import TableSource, open_tables
from provender.producers.devices import pick_device
from provender.producers.linksage.encoder_set import EncoderSet
from provender.producers.linksage.features import (
    ENCODERS,
    Features,
    NodeFeatures,
    encode_pages,
    open_features,
)
from provender.producers.linksage.node_rows import write_nodes
from provender.producers.linksage.page_encoder import encode
from provender.producers.linksage.page_evaluation import rows_of
from provender.producers.linksage.page_graph import PageGraph, build_graph
from provender.producers.linksage.page_job import PageJob
from provender.producers.linksage.page_model import PageModel, brain_float
from provender.producers.linksage.page_neighbours import (
    NEIGHBOUR_TYPES,
    Neighbours,
    find_neighbours,
)
from provender.producers.linksage.page_refresh import FEATURES, ROWS, PageRun
from provender.producers.linksage.page_tables import PageSet
from provender.producers.linksage.page_tokens import TokenSource
from provender.producers.vectors import Vectors

#: Of a crawled page: the field that lists the keys of pins that lead to it.
PINS = "pins"
Page = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class FreshPages:
    """What it takes to embed pages as the refresh `base` would."""

    job: PageJob
    base: Manifest
    model: PageModel
    encoders: EncoderSet
    rows: PageSet
    features: Features
    graph: PageGraph

    @classmethod
    def open(cls, job: PageJob, base: Manifest) -> FreshPages:
        """Load a refresh; raises CheckpointError where what it has kept is gone."""
        folder = job.home.runs / base.run_id
        run = PageRun.load(folder)
        rows = PageSet.open(folder / ROWS)
        features = open_features(folder / FEATURES)
        graph = build_graph(rows, features, run.model.config.graph)
        encoders = EncoderSet.load(folder / FEATURES / ENCODERS)
        return cls(job, base, run.model, encoders, rows, features, graph)

    def embed(self, pages: Sequence[Page]) -> Vectors:
        """Embed crawled pages, each once; of several of one key the last one counts.

        Args:
            pages: columns of the pages' table by name, as its declaration has them, and perhaps
                PINS.

        Returns keys ascending and vectors of norm 1. Pages without a good key are not among them.

        Raises MappingError where a page lacks a declared column or does not fit it.
        """
        with TemporaryDirectory() as work:
            table = self._canonical(pages, Path(work))
            shown = encode_pages(table, self.encoders, self.job.data)
        pins = {str(page[self._key]): page.get(PINS) or () for page in pages}
        found = self._neighbours(
            shown.keys, [pins.get(str(key), ()) for key in shown.keys.to_pylist()]
        )
        return Vectors(shown.keys, self._encoded(shown, found))

    @property
    def _key(self) -> str:
        return self.job.sources.pages.key

    def _canonical(self, pages: Sequence[Page], work: Path) -> pa.Table:
        """The pages as a refresh would read them, by ascending key."""
        file = work / "crawled.jsonl"
        last = {str(page.get(self._key)): page for page in pages}
        lines = [{k: v for k, v in page.items() if k != PINS} for page in last.values()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        declared = self.job.sources.pages.model_copy(
            update={"table": "crawled", "where": None, "time": None, "time_unit": None}
        )
        source = {"crawled": TableSource(path=str(file))}
        with open_tables(source, work, work / "duckdb") as connection:
            place = work / "pages.parquet"
            (work / "work").mkdir()
            write_nodes(
                connection, "page", declared, self.job.data, place, self.job.key_types["page"], None
            )
        return pq.read_table(place)

    def _neighbours(self, keys: pa.Array[Any], pins: Sequence[Sequence[Any]]) -> Neighbours:
        """Of known pages those that walks find, of new ones the pins that they name."""
        walks = self.model.config.walks
        places = rows_of(pa.chunked_array([keys]), self.features.pages.keys)
        known = torch.from_numpy(np.unique(places[places >= 0]))
        walked = find_neighbours(self.graph, walks, self.model.config.training.seed, known)
        rows = np.searchsorted(known.numpy(), places)
        each = [
            _row(walked, int(row)) if place >= 0 else self._named(named, walks.walks * walks.length)
            for row, place, named in zip(rows, places, pins, strict=True)
        ]
        return Neighbours(
            torch.tensor([0, *(len(one.nodes) for one in each)]).cumsum(0),
            torch.cat([one.types for one in each]),
            torch.cat([one.nodes for one in each]),
            torch.cat([one.visits for one in each]),
            torch.tensor([one.degree for one in each]),
        )

    def _named(self, pins: Sequence[Any], visits: int) -> _Row:
        """Pins, equally visited; those that the refresh does not know are left out."""
        known = self.features.pins.keys
        given = pa.chunked_array([pa.array(list(pins), known.type)])
        rows = rows_of(given, known)
        nodes = self.graph.cluster[torch.from_numpy(rows[rows >= 0])].unique()
        share = max(1, visits // (2 * max(1, len(nodes))))
        types = torch.full(nodes.shape, NEIGHBOUR_TYPES.index("pin"), dtype=torch.uint8)
        return _Row(types, nodes, torch.full(nodes.shape, share, dtype=torch.int32), len(nodes))

    def _encoded(self, shown: NodeFeatures, found: Neighbours) -> NDArray[np.float32]:
        config, device = self.model.config.model, pick_device(self.job.device)
        around = TokenSource.of(self.features, self.graph, found, config)
        alone = replace(self.features, pages=shown)
        own = TokenSource.of(alone, self.graph, found, config)
        batch = torch.arange(len(shown))
        tokens = around.tokens(batch, torch.zeros_like(batch))
        itself = own.tokens(batch, alone=torch.ones(len(batch), dtype=torch.bool))
        mine = {name: getattr(itself, name) for name in ("text", "images", "shares", "has_image")}
        near, nodes = around.distinct(replace(tokens, **mine))
        self.model.to(device).modules.eval()
        with torch.inference_mode(), brain_float(self.model, device):
            vectors = encode(self.model.encoder, near.to(device), nodes.to(device))
        normed: NDArray[np.float32] = F.normalize(vectors, dim=1).cpu().numpy()
        return normed


class _Row(NamedTuple):
    """One page's neighbours."""

    types: Tensor
    nodes: Tensor
    visits: Tensor
    degree: int


def _row(found: Neighbours, row: int) -> _Row:
    of = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
    return _Row(found.types[of], found.nodes[of], found.visits[of], int(found.degrees[row]))
