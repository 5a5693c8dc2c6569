"""Refreshes of LinkSage: what is kept, what is embedded anew, and that it is what all would be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import remove_folder
from provender.plugin.snapshot import Snapshot, find_snapshot
from provender.producers.linksage.features import ENCODERS, compute_features
from provender.producers.linksage.page_embedding import embed_pages
from provender.producers.linksage.page_graph import build_graph
from provender.producers.linksage.page_neighbours import find_neighbours
from provender.producers.linksage.page_refresh import FEATURES, PageRun, refresh_pages
from provender.producers.linksage.page_tables import read_page_set
from provender.producers.refresh import Refresh
from tests.producers.linksage.page_world import PageWorld, day, quiet

CHANGED, NEW = 7, 500


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> PageWorld:
    """A world with a first refresh as of day 1."""
    world = PageWorld.planted(tmp_path_factory.mktemp("world") / "home")
    world.write()
    refresh_pages(world.job(), day(1), quiet)
    return world


@pytest.fixture(scope="module")
def second(first: PageWorld) -> tuple[PageWorld, Refresh]:
    """The same on day 2: one page says something else, one is new, with a pin of its own."""
    world = copy.deepcopy(first)
    world.pages.append({**world.pages[CHANGED], "title": "word1 word2 word3", "at": day(1)})
    world.pages.append({**world.pages[0], "page_id": NEW, "title": "word4", "at": day(1)})
    world.pins.append({**world.pins[0], "pin_id": 20_000, "page_id": NEW, "at": day(1)})
    world.write()
    return world, refresh_pages(world.job(), day(2), quiet)


def vectors(world: PageWorld, number: int, view: str = "page_linksage_v1") -> dict[int, np.ndarray]:
    found = find_snapshot(world.home.snapshots, view, day(number))
    assert isinstance(found, Snapshot)
    keys, rows = found.read()
    return dict(zip(keys.to_pylist(), rows, strict=True))


def all_anew(world: PageWorld, number: int, tmp_path: Path) -> dict[int, np.ndarray]:
    """All pages by the first refresh's model and encoders, with nothing taken over."""
    job = world.job()
    (run_id,) = {
        one.manifest.run_id
        for one in [find_snapshot(world.home.snapshots, "page_linksage_v1", day(1))]
        if one
    }
    folder = world.home.runs / run_id
    rows = read_page_set(
        job.sources,
        job.world.tables,
        job.data,
        tmp_path / "rows",
        key_types=job.key_types,
        as_of=day(number),
    )
    fitted = folder / FEATURES / ENCODERS
    features = compute_features(rows, job.config.features, tmp_path / "features", fitted=fitted)
    graph = build_graph(rows, features, job.config.graph)
    neighbours = find_neighbours(graph, job.config.walks, job.config.training.seed)
    model = PageRun.load(folder).model
    found = embed_pages(model, features, graph, neighbours, device="cpu")
    return dict(zip(features.pages.keys.to_pylist(), found, strict=True))


def test_the_first_refresh_holds_all_pages_and_pins(first: PageWorld) -> None:
    pages, pins = vectors(first, 1), vectors(first, 1, "pin_linksage_v1")
    assert (len(pages), len(pins)) == (len(first.pages), len(first.pins))
    for found in (pages, pins):
        norms = np.linalg.norm(list(found.values()), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)
    # Pages lie near to the pins of their topic.
    near = [
        np.mean([pages[n] @ pins[pin["pin_id"]] for pin in first.pins if pin["page_id"] == n])
        for n in range(0, 120)
        if any(pin["page_id"] == n for pin in first.pins)
    ]
    others = [pages[n] @ pins[10_000 + n + 1] for n in range(119)]
    assert np.mean(near) > np.mean(others) + 0.1


def test_what_has_not_changed_keeps_its_vector_and_all_else_is_as_if_done_anew(
    second: tuple[PageWorld, Refresh], tmp_path: Path
) -> None:
    world, done = second
    before, after = vectors(world, 1), vectors(world, 2)
    metrics = done.snapshots[0].manifest.metrics
    kept = [key for key in before if np.array_equal(before[key], after[key])]
    assert metrics["pages/new"] == 1
    assert metrics["pages/content"] == 1
    assert metrics["pages/kept"] == len(kept) > len(before) / 2
    assert set(after) - set(before) == {NEW}
    anew = all_anew(world, 2, tmp_path)
    for key in set(after) - set(kept):
        np.testing.assert_allclose(after[key], anew[key], atol=1e-5)
    assert CHANGED not in kept
    assert done.snapshots[0].manifest.parent is not None


def test_with_nothing_allowed_every_changed_neighbourhood_is_embedded(
    first: PageWorld, tmp_path: Path
) -> None:
    world = PageWorld.planted(tmp_path / "home")
    strict: dict[str, Any] = {"incremental": {"neighbourhood_change": 0.0}}
    world.write()
    refresh_pages(world.job(**strict), day(1), quiet)
    world.pins.append({**world.pins[0], "pin_id": 20_000, "page_id": 3, "at": day(1)})
    world.write()
    refresh_pages(world.job(**strict), day(2), quiet)
    anew = all_anew(world, 2, tmp_path / "anew")
    for key, vector in vectors(world, 2).items():
        np.testing.assert_allclose(vector, anew[key], atol=1e-5)


def test_what_lies_at_or_after_the_cut_changes_nothing(first: PageWorld, tmp_path: Path) -> None:
    world = PageWorld.planted(tmp_path / "home")
    world.pages += [{**page, "title": "word70 word71", "at": day(1)} for page in world.pages]
    world.pins += [{**pin, "page_id": 0, "at": day(1)} for pin in world.pins]
    world.saves += [{**save, "user": 1, "at": day(1)} for save in world.saves]
    world.write()
    refresh_pages(world.job(), day(1), quiet)
    for view in ("page_linksage_v1", "pin_linksage_v1"):
        one, other = vectors(first, 1, view), vectors(world, 1, view)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_run_that_was_stopped_anywhere_goes_on(first: PageWorld, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop_at(stage: str) -> Callable[..., None]:
        def on_stage(name: str, done: int, total: int, note: str) -> None:
            if name == stage and done:
                raise StoppedError

        return on_stage

    world = PageWorld.planted(tmp_path / "home")
    world.write()
    for stage in ("read pages", "features", "graph", "train", "embed"):
        with pytest.raises(StoppedError):
            refresh_pages(world.job(), day(1), stop_at(stage))
        assert find_snapshot(world.home.snapshots, "page_linksage_v1", day(1)) is None
    done = refresh_pages(world.job(), day(1), quiet)
    assert not done.done_before
    assert refresh_pages(world.job(), day(1), quiet).done_before
    one, other = vectors(first, 1), vectors(world, 1)
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_settings_of_the_model_are_those_of_its_version(second: tuple[PageWorld, Refresh]) -> None:
    world, _ = second
    with pytest.raises(ConfigError, match=r"training\.epochs.*found 3; expected 2, as its model"):
        refresh_pages(
            world.job(training={"epochs": 3, "batch_size": 32, "negatives": 32}), day(3), quiet
        )


def test_a_run_that_is_gone_is_named(second: tuple[PageWorld, Refresh], tmp_path: Path) -> None:
    world, done = second
    gone = world.home.runs / done.run_id
    kept = tmp_path / "kept"
    gone.rename(kept)
    try:
        with pytest.raises(CheckpointError, match=f"run {done.run_id}: .* declare a new version"):
            refresh_pages(world.job(), day(3), quiet)
    finally:
        remove_folder(world.home.runs, gone)
        kept.rename(gone)
