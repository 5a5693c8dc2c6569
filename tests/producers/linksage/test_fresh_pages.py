"""Vectors of pages that were just crawled, against those of a refresh and a slow oracle."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.plugin.errors import CheckpointError
from provender.producers.linksage.crawled_pages import ORDER
from provender.producers.linksage.features import NodeFeatures, encode_pages
from provender.producers.linksage.fresh_pages import SHOWN, FreshPages
from provender.producers.linksage.page_embedding import embed_pages
from provender.producers.linksage.page_neighbours import Neighbours
from provender.producers.linksage.page_supplements import newest_refresh
from tests.producers.linksage.stream_world import AS_OF, StreamWorld, copied, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> StreamWorld:
    return make_world(tmp_path_factory.mktemp("fresh") / "home")


@pytest.fixture(scope="module")
def fresh(world: StreamWorld) -> FreshPages:
    return FreshPages.open(world.job(), newest_refresh(world.job()))


def read(fresh: FreshPages, *pages: dict[str, Any], orders: list[int] | None = None) -> pa.Table:
    rows = [fresh.columns.check(page) for page in pages]
    for row, order in zip(rows, orders or [0] * len(rows), strict=True):
        row[ORDER] = order
    return fresh.read(fresh.columns.table(rows))


def test_pages_that_have_not_changed_have_the_refreshs_vectors(
    world: StreamWorld, fresh: FreshPages
) -> None:
    numbers = [7, 3, 39, 0]
    found = fresh.embed(read(fresh, *(world.page(n) for n in numbers)))
    keys, vectors = world.refresh(AS_OF).read()
    places = sorted(numbers)
    assert found.keys.to_pylist() == [keys[place].as_py() for place in places]
    np.testing.assert_allclose(found.vectors, vectors[places], atol=1e-5)
    assert read(fresh, world.page(5))[SHOWN].to_pylist() == fresh.known(pa.chunked_array([[105]]))


def test_a_changed_page_has_the_vector_of_a_refresh(world: StreamWorld, tmp_path: Path) -> None:
    mine = copied(world, tmp_path / "home")
    former = FreshPages.open(mine.job(), newest_refresh(mine.job()))
    page = mine.page(6, title="cake jam jam", image=[1.0, 0, -2, 0, 3, 1])
    found = former.embed(read(former, page)).vectors[0]
    mine.recrawl(page, AS_OF + timedelta(hours=1))
    snapshot = mine.refresh(AS_OF + timedelta(hours=2))
    keys, vectors = snapshot.read()
    assert snapshot.manifest.metrics["pages/content"] == 1
    wanted = vectors[keys.to_pylist().index(106)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - world.refresh(AS_OF).read()[1][6]).max() > 0.01


def test_a_new_page_lies_where_its_pins_and_content_say(
    world: StreamWorld, fresh: FreshPages
) -> None:
    page = world.page(2, page_id=900, pins=[8, 4, 4, 12345])
    rows = read(fresh, page)
    found = fresh.embed(rows)
    # The oracle: the page is the last one of features that know it.
    alone = encode_pages(rows, fresh.encoders, fresh.job.data)
    known = fresh.features.pages
    features = replace(
        fresh.features,
        pages=NodeFeatures(
            pa.concat_arrays([pa.array(known.keys.to_pylist()), alone.keys]),
            np.concatenate([known.text, alone.text]),
            np.concatenate([known.images, alone.images]),
            np.concatenate(
                [known.image_offsets, known.image_offsets[-1] + alone.image_offsets[1:]]
            ),
            np.concatenate([known.image_sizes, alone.image_sizes]),
        ),
    )
    nodes = sorted({int(fresh.graph.cluster[4]), int(fresh.graph.cluster[8])})
    share = fresh.model.config.walks.walks * fresh.model.config.walks.length // 4
    around = Neighbours(
        torch.tensor([0, 2]),
        torch.zeros(2, dtype=torch.uint8),
        torch.tensor(nodes),
        torch.full((2,), share, dtype=torch.int32),
        torch.tensor([2]),
    )
    wanted = embed_pages(
        fresh.model, features, fresh.graph, around, torch.tensor([40]), aligned=True, device="cpu"
    )
    np.testing.assert_allclose(found.vectors, wanted, atol=1e-5)
    other = fresh.embed(read(fresh, {**page, "pins": []}))
    assert np.abs(other.vectors - found.vectors).max() > 1e-3


def test_what_a_page_shows(world: StreamWorld, fresh: FreshPages) -> None:
    """Pins count where no refresh knows the page; of several messages the latest counts."""
    new = world.page(1, page_id=901)
    first, second, third = (
        read(fresh, {**new, "pins": pins})[SHOWN][0].as_py() for pins in ([1, 2], [2, 1], [2])
    )
    assert first == second != third
    old = [read(fresh, world.page(1, pins=pins))[SHOWN][0].as_py() for pins in ([1], [])]
    assert old[0] == old[1]
    twice = [world.page(1, title=title) for title in ("late", "early", "later")]
    rows = read(fresh, *twice, world.page(0), orders=[5, 4, 5, 1])
    assert rows["text"].to_pylist()[1] == "later"
    assert rows["key"].to_pylist() == [100, 101]
    assert rows[ORDER].to_pylist() == [1, 5]
    assert fresh.again(rows).equals(rows)
    assert [(f.name, f.type) for f in rows.schema] == [
        (f.name, f.type) for f in fresh.nothing.schema
    ]
    assert fresh.embed(fresh.nothing).vectors.shape == (0, 16)


def test_a_refresh_whose_run_is_gone(world: StreamWorld) -> None:
    base = newest_refresh(world.job()).model_copy(update={"run_id": "linksage-gone"})
    with pytest.raises(CheckpointError, match="linksage-gone"):
        FreshPages.open(world.job(), base)
