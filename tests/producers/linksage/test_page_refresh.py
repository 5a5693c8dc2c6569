"""Refreshes of LinkSage: what is kept, what is embedded anew, and that it is what all would be."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import remove_folder
from provender.plugin.home import Home
from provender.plugin.snapshot import Snapshot, find_snapshot, remove_snapshot
from provender.producers.linksage.features import ENCODERS, compute_features
from provender.producers.linksage.page_embedding import embed_pages
from provender.producers.linksage.page_graph import build_graph
from provender.producers.linksage.page_neighbours import find_neighbours
from provender.producers.linksage.page_refresh import FEATURES, ROWS, PageRun, refresh_pages
from provender.producers.linksage.page_tables import read_page_set
from provender.producers.refresh import Refresh
from provender.producers.version_lineage import parent_of
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


def moved(world: PageWorld, path: Path) -> PageWorld:
    """A copy of a world and of all that was made of it, in another home."""
    shutil.copytree(world.home.path, path)
    return replace(copy.deepcopy(world), home=Home(path))


@pytest.mark.parametrize("part", [ROWS, FEATURES])
def test_a_part_of_a_run_that_is_gone_is_named(
    second: tuple[PageWorld, Refresh], tmp_path: Path, part: str
) -> None:
    world, done = moved(second[0], tmp_path / "home"), second[1]
    remove_folder(world.home.runs, world.home.runs / done.run_id / part)
    with pytest.raises(CheckpointError, match=f"run {done.run_id}: .* declare a new version"):
        refresh_pages(world.job(), day(3), quiet)


def test_the_manifest_tells_the_edges_of_the_graph(first: PageWorld) -> None:
    found = find_snapshot(first.home.snapshots, "page_linksage_v1", day(1))
    links = {(pin["pin_id"], pin["page_id"]) for pin in first.pins}
    boards = {(save["user"], save["pin_id"]) for save in first.saves}
    assert found is not None
    assert found.manifest.metrics["edges"] == len(links) + len(boards) + len(first.pages)


def test_a_run_killed_between_its_views_writes_the_other(
    second: tuple[PageWorld, Refresh], tmp_path: Path
) -> None:
    world, done = moved(second[0], tmp_path / "home"), second[1]
    before = vectors(world, 2, "pin_linksage_v1")
    lost = find_snapshot(world.home.snapshots, "pin_linksage_v1", day(2))
    assert lost is not None
    remove_snapshot(world.home.snapshots, lost.path)
    again = refresh_pages(world.job(), day(2), quiet)
    assert (again.run_id, again.done_before) == (done.run_id, False)
    after = vectors(world, 2, "pin_linksage_v1")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_graph_and_walks_may_change_under_a_version_and_go_with_its_model(
    second: tuple[PageWorld, Refresh], tmp_path: Path
) -> None:
    world = moved(second[0], tmp_path / "home")
    training = {"epochs": 2, "batch_size": 32, "negatives": 32, "checkpoint_minutes": 1.0}
    job = world.job(walks={"walks": 25, "neighbours": 8}, training=training)
    done = refresh_pages(job, day(3), quiet)
    assert PageRun.load(world.home.runs / done.run_id).model.config == job.config


def test_no_model_is_trained_before_the_first_of_its_version(first: PageWorld) -> None:
    with pytest.raises(
        ConfigError, match="as of 2026-03-01 00:00: found refreshes from 2026-03-02"
    ):
        refresh_pages(first.job(), day(0), quiet)


def test_a_view_that_joins_a_version_later_takes_its_model(first: PageWorld) -> None:
    job = first.job()
    joined = job.specs[1].model_copy(update={"name": "another_pin"})
    found = parent_of(replace(job, specs=(joined, *job.specs)), day(2))
    assert found is not None
    assert found.manifest.as_of == day(1)


def test_a_page_that_vanished_and_came_back_is_embedded_as_it_is(
    second: tuple[PageWorld, Refresh], tmp_path: Path
) -> None:
    world = moved(second[0], tmp_path / "home")
    pages = world.pages
    world.pages = [page for page in pages if page["page_id"] != CHANGED]
    world.write()
    refresh_pages(world.job(), day(3), quiet)
    assert CHANGED not in vectors(world, 3)
    world.pages = pages
    world.write()
    done = refresh_pages(world.job(), day(4), quiet)
    assert done.snapshots[0].manifest.metrics["pages/new"] == 1
    anew = all_anew(world, 4, tmp_path / "anew")
    np.testing.assert_allclose(vectors(world, 4)[CHANGED], anew[CHANGED], atol=1e-5)


def test_pages_around_a_pin_that_shows_something_else_are_embedded(
    second: tuple[PageWorld, Refresh], tmp_path: Path
) -> None:
    world = moved(second[0], tmp_path / "home")
    world.pins.append({**world.pins[0], "title": "word70 word71", "at": day(2)})
    world.write()
    before = all_anew(world, 2, tmp_path / "before")
    done = refresh_pages(world.job(incremental={"neighbourhood_change": 0.0}), day(3), quiet)
    assert (done.snapshots[0].manifest.metrics["pages/neighbourhood"] or 0) > 0
    anew = all_anew(world, 3, tmp_path / "anew")
    for key, vector in vectors(world, 3).items():
        np.testing.assert_allclose(vector, anew[key], atol=1e-5)
    assert any(not np.allclose(before[key], anew[key], atol=1e-3) for key in anew)


def test_an_old_model_of_given_targets_is_trained_anew_in_their_space(tmp_path: Path) -> None:
    world = PageWorld.planted(tmp_path / "home")
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(6, 16))
    for number, pin in enumerate(world.pins):
        pin["vector"] = (topics[number % 6] + 0.3 * rng.normal(size=16)).tolist()
    world.write()
    pins = {"table": "pins", "key": "pin_id", "text": ["title"], "time": "at", "target": "vector"}
    job = world.job(pins=pins, incremental={"full_after_days": 2})
    runs = [refresh_pages(job, day(number), quiet) for number in (1, 2, 3)]
    trained = [each.snapshots[0].manifest.notes["trained_as_of"] for each in runs]
    assert trained == [day(1).isoformat(), day(1).isoformat(), day(3).isoformat()]
    assert runs[2].snapshots[0].manifest.parent == runs[1].run_id
    given = vectors(world, 3, "pin_linksage_v1")
    for pin in world.pins:
        unit = np.array(pin["vector"]) / np.linalg.norm(pin["vector"])
        np.testing.assert_allclose(given[pin["pin_id"]], unit, atol=1e-5)
    for pin in world.pins:
        pin["vector"] = None
    world.pins.append({**world.pins[0], "pin_id": 20_000, "at": day(9), "vector": [1.0] * 16})
    world.write()
    with pytest.raises(ConfigError, match="targets of pins"):
        refresh_pages(job, day(5), quiet)
