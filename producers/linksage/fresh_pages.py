"""Pages that were crawled a moment ago, embedded by a refresh's model.

A page that the refresh knows keeps its neighbours and shows what it shows now. One that is new has
the pins as neighbours that it says lead to it; the next refresh walks from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from provender.plugin.errors import CheckpointError
from provender.plugin.manifest import Manifest
from provender.plugin.tables import TableSource, open_tables
from provender.producers.devices import pick_device
from provender.producers.linksage.crawled_pages import ORDER, PINS, CrawledColumns
from provender.producers.linksage.encoder_set import EncoderSet
from provender.producers.linksage.features import (
    ENCODERS,
    Features,
    NodeFeatures,
    check_rows,
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
    NeighbourSearch,
)
from provender.producers.linksage.page_refresh import FEATURES, MODEL, ROWS
from provender.producers.linksage.page_tables import PageSet
from provender.producers.linksage.page_tokens import TokenSource
from provender.producers.vectors import Vectors

#: Of rows that were read: what a page shows as one hash, by which it is known again.
SHOWN = "shown"


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
        model = PageModel.load(folder / MODEL / "weights")
        try:
            rows = PageSet.open(folder / ROWS)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"rows of run {base.run_id}",
                found=f"{type(error).__name__}: {error}",
                expected="the rows that the refresh has read",
                remedy=f"Restore {folder}, or refresh {job.family} once more.",
            ) from None
        features = open_features(folder / FEATURES)
        graph = build_graph(rows, features, model.config.graph)
        encoders = EncoderSet.load(folder / FEATURES / ENCODERS)
        return cls(job, base, model, encoders, rows, features, graph)

    @cached_property
    def columns(self) -> CrawledColumns:
        """The columns of crawled pages."""
        keys = {"page": self.features.pages.keys.type, "pin": self.features.pins.keys.type}
        dims = {"text": self.encoders.text.dim, "image": self.encoders.image.dim}
        return CrawledColumns.of(self.job.sources.pages, keys, dims)

    def read(self, crawled: pa.Table) -> pa.Table:
        """Crawled pages as a refresh would read them, by ascending key.

        Args:
            crawled: columns as crawled_pages.CrawledColumns lays them out; of several rows of a
                key the one of the highest ORDER counts, of equal ones the last.

        Returns the columns of a page set's pages, PINS, ORDER, and SHOWN, a hash of all that the
        vector is made from. Rows without a good key are not among them.

        Raises MappingError where a vector is of another length than the refresh's.
        """
        key = self.job.sources.pages.key
        last = crawled.append_column("row", pa.array(range(len(crawled)))).sort_by(
            [(key, "ascending"), (ORDER, "ascending"), ("row", "ascending")]
        )
        keys = last[key].combine_chunks()
        newest = np.ones(len(last), bool)
        newest[:-1] = np.asarray(pc.not_equal(keys[:-1], keys[1:]))
        last = last.filter(pa.array(newest))
        with TemporaryDirectory() as work:
            rows = self._canonical(last.drop_columns([PINS, ORDER, "row"]), Path(work))
        check_rows("pages", rows, self.encoders)
        at = rows_of(rows["key"], last[key].combine_chunks())
        rows = rows.append_column(PINS, last[PINS].take(pa.array(at)))
        rows = rows.append_column(ORDER, last[ORDER].take(pa.array(at)))
        return self._with_shown(rows)

    def again(self, rows: pa.Table) -> pa.Table:
        """Rows that were read for a former refresh, as if they had been read for this one."""
        return self._with_shown(rows.sort_by("key").drop_columns([SHOWN]))

    @cached_property
    def nothing(self) -> pa.Table:
        """What :meth:`read` returns where there is nothing to read."""
        pages = pq.read_schema(self.rows.pages)
        pins = pa.list_(self.features.pins.keys.type)
        added = [(PINS, pins), (ORDER, pa.int64()), (SHOWN, pa.string())]
        fields = [pa.field(each.name, each.type) for each in pages]
        return pa.schema([*fields, *(pa.field(*each) for each in added)]).empty_table()

    def embed(self, rows: pa.Table) -> Vectors:
        """The vectors, of norm 1, of rows that :meth:`read` or :meth:`again` gave."""
        if not len(rows):
            none = np.empty((0, self.model.config.model.dim), np.float32)
            return Vectors(rows["key"].combine_chunks(), none)
        shown = encode_pages(rows, self.encoders, self.job.data)
        return Vectors(shown.keys, self._encoded(shown, self._neighbours(rows)))

    def known(self, keys: pa.ChunkedArray) -> list[str | None]:
        """What the refresh has seen each key show, as SHOWN; None of a page it does not know."""
        places = pa.array(rows_of(keys, self.features.pages.keys))
        found: list[str | None] = self._hashes.take(
            pa.compute.replace_with_mask(
                places, pa.compute.equal(places, -1), pa.scalar(None, places.type)
            )
        ).to_pylist()
        return found

    def _with_shown(self, rows: pa.Table) -> pa.Table:
        """A page that the refresh does not know is made from the pins that it names as well."""
        known = rows_of(rows["key"], self.features.pages.keys) >= 0
        both = zip(rows["content_hash"].to_pylist(), known, rows[PINS].to_pylist(), strict=True)
        shown = [content if there else _with_pins(content, pins) for content, there, pins in both]
        return rows.append_column(SHOWN, pa.array(shown, pa.string()))

    @cached_property
    def _hashes(self) -> pa.Array[Any]:
        table = pq.read_table(self.rows.pages, columns=["content_hash"])
        return table["content_hash"].combine_chunks()

    def _canonical(self, crawled: pa.Table, work: Path) -> pa.Table:
        """As a refresh reads them, but of any time and whatever its `where` says."""
        pq.write_table(crawled, work / "crawled.parquet")
        declared = self.job.sources.pages.model_copy(
            update={"table": "crawled", "where": None, "time": None, "time_unit": None}
        )
        source = {"crawled": TableSource(path=str(work / "crawled.parquet"))}
        place = work / "pages.parquet"
        with open_tables(source, work, work / "work") as connection:
            key_type = self.job.key_types.get("page")
            write_nodes(connection, "page", declared, self.job.data, place, key_type, None)
        return pq.read_table(place)

    @cached_property
    def _search(self) -> NeighbourSearch:
        config = self.model.config
        return NeighbourSearch.of(self.graph, config.walks, config.training.seed)

    def _neighbours(self, rows: pa.Table) -> Neighbours:
        """Of known pages those that walks find, of new ones the pins that they name."""
        walks = self.model.config.walks
        places = rows_of(rows["key"], self.features.pages.keys)
        known = torch.from_numpy(np.unique(places[places >= 0]))
        walked = self._search.find(known)
        at = np.searchsorted(known.numpy(), places)
        each = [
            _row(walked, int(row)) if place >= 0 else self._named(named, walks.walks * walks.length)
            for row, place, named in zip(at, places, rows[PINS].to_pylist(), strict=True)
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
        rows = rows_of(pa.chunked_array([pa.array(pins, known.type)]), known)
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
        # Neighbours show what the refresh has seen of them, the pages themselves what is new.
        tokens = around.tokens(batch, torch.zeros_like(batch))
        itself = own.tokens(batch, alone=torch.ones(len(batch), dtype=torch.bool))
        mine = {name: getattr(itself, name) for name in ("text", "images", "shares", "has_image")}
        near, nodes = around.distinct(replace(tokens, **mine))
        self.model.to(device).modules.eval()
        with torch.inference_mode(), brain_float(self.model, device):
            vectors = encode(self.model.encoder, near.to(device), nodes.to(device))
        normed: NDArray[np.float32] = F.normalize(vectors.float(), dim=1).cpu().numpy()
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


def _with_pins(content: str, pins: Sequence[Any]) -> str:
    named = "\n".join([content, *sorted({str(pin) for pin in pins})])
    return hashlib.sha256(named.encode()).hexdigest()
