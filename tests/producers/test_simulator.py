"""The simulated world: the same for a seed, whole or absent, and true to what it planted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from provender.plugin.errors import SimulationError
from provender.producers.simulator import SimulationReport, simulate
from provender.producers.simulator_config import SimulatorConfig

SMALL = SimulatorConfig(
    users=1_500, pins=2_400, items=800, advertisers=144, topics=48, days=5, seed=11
)
TINY = SimulatorConfig(users=60, pins=40, items=20, advertisers=5, topics=4, days=3)


def read(root: Path, name: str) -> pd.DataFrame:
    """A table of the world: one file, or all days of a folder."""
    table = pq.read_table(next(p for p in (root / name, root / f"{name}.parquet") if p.exists()))
    frame: pd.DataFrame = table.to_pandas()
    return frame


def matrix(vectors: pd.Series) -> npt.NDArray[np.float32]:
    return np.array(vectors.tolist(), np.float32)


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationReport]:
    out = tmp_path_factory.mktemp("simulator") / "world"
    return out, simulate(SMALL, out)


@pytest.fixture(scope="module")
def root(world: tuple[Path, SimulationReport]) -> Path:
    return world[0]


@pytest.fixture(scope="module")
def impressions(root: Path) -> pd.DataFrame:
    """All impressions, with what was planted and whether they were clicked."""
    impressions = read(root, "events/impressions")
    impressions = impressions.merge(read(root, "truth/click_probability"), on="impression_id")
    engagements = read(root, "events/engagements")
    clicked = engagements[engagements.type == "click"].impression_id
    impressions["click"] = impressions.impression_id.isin(clicked.astype("int64"))
    return impressions


# Bytes


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "a")
    simulate(TINY, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_seed_gives_another_world(tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "a")
    simulate(TINY.model_copy(update={"seed": 8}), tmp_path / "b")
    assert len(read(tmp_path / "a", "events/impressions")) > 100
    assert contents(tmp_path / "a") != contents(tmp_path / "b")


def test_more_days_leave_the_earlier_days_as_they_were(root: Path, tmp_path: Path) -> None:
    simulate(SMALL.model_copy(update={"days": 3}), tmp_path / "w")
    short, long = contents(tmp_path / "w"), contents(root)
    daily = [name for name in short if name.count("/") == 2]
    assert len(daily) == 3 * 5
    assert [name for name in daily if short[name] != long[name]] == []
    for name in ("users", "pins", "items", "pages", "advertisers"):
        few, many = read(tmp_path / "w", f"events/{name}"), read(root, f"events/{name}")
        assert len(few) < len(many) or name == "advertisers"
        pd.testing.assert_frame_equal(few, many.head(len(few)))


def test_rows_do_not_depend_on_the_size_of_row_groups(tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "one")
    simulate(TINY.model_copy(update={"chunk_rows": 64}), tmp_path / "many")
    for path in (tmp_path / "one").rglob("*.parquet"):
        other = tmp_path / "many" / path.relative_to(tmp_path / "one")
        assert pq.read_table(path).equals(pq.read_table(other)), path.name
        groups = pq.ParquetFile(other).metadata
        sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        assert all(size == 64 for size in sizes[:-1])
        assert all(size <= 64 for size in sizes)


# Schemas and references


def test_event_files_have_the_declared_columns(root: Path) -> None:
    time = pa.timestamp("us", tz="UTC")
    schema = pq.read_schema(root / "events/impressions/impressions-2026-03-01.parquet")
    assert schema.names == [
        "impression_id",
        "event_timestamp",
        "user_id",
        "pin_id",
        "position",
        "surface",
    ]
    assert schema.types == [pa.int64(), time, pa.int64(), pa.int64(), pa.int8(), pa.string()]
    schema = pq.read_schema(root / "events/conversions/conversions-2026-03-05.parquet")
    assert schema.names == [
        "conversion_id",
        "event_timestamp",
        "user_id",
        "item_id",
        "page_id",
        "advertiser_id",
        "type",
        "impression_id",
    ]
    pins = pq.read_table(root / "events/pins.parquet")
    assert pins["image_vector"].type == pa.list_(pa.float32())
    assert set(map(len, pins["image_vector"].to_pylist())) == {32}


def test_every_id_exists(root: Path) -> None:
    tables = {n: read(root, f"events/{n}") for n in ("users", "pins", "items", "pages")}
    tables["advertisers"] = read(root, "events/advertisers")
    known = {f"{name[:-1]}_id": set(table.iloc[:, 0]) for name, table in tables.items()}
    known["impression_id"] = set(read(root, "events/impressions").impression_id)
    events = [read(root, f"events/{n}") for n in ("impressions", "engagements", "conversions")]
    for table in [*tables.values(), *events]:
        for column in [c for c in table if c in known]:
            assert set(table[column].dropna().astype("int64")) <= known[column], column


def test_ids_are_unique_and_kinds_do_not_overlap(root: Path) -> None:
    impressions, conversions = read(root, "events/impressions"), read(root, "events/conversions")
    assert impressions.impression_id.is_unique
    assert conversions.conversion_id.is_unique
    users, pins = read(root, "events/users"), read(root, "events/pins")
    assert users.user_id.is_unique
    assert pins.pin_id.is_unique
    assert not set(users.user_id) & set(pins.pin_id)


def test_a_conversion_names_the_page_and_advertiser_of_its_item(root: Path) -> None:
    conversions = read(root, "events/conversions")
    items = read(root, "events/items").set_index("item_id").loc[conversions.item_id]
    assert (items.page_id.to_numpy() == conversions.page_id).all()
    assert (items.advertiser_id.to_numpy() == conversions.advertiser_id).all()


# Times


def test_each_file_holds_its_own_day(root: Path) -> None:
    files = sorted((root / "events").glob("*/*.parquet"))
    assert len(files) == 3 * SMALL.days
    for path in files:
        day = datetime.fromisoformat(path.stem[-10:]).replace(tzinfo=UTC)
        times = pq.read_table(path, columns=["event_timestamp"])["event_timestamp"].to_pylist()
        assert times
        assert day <= min(times)
        assert max(times) < day + timedelta(days=1)


def test_nothing_happens_before_its_user_and_pin_exist(root: Path) -> None:
    users = read(root, "events/users").set_index("user_id").created_timestamp
    pins = read(root, "events/pins").set_index("pin_id").created_timestamp
    pages = read(root, "events/pages").set_index("page_id").crawled_timestamp
    for name in ("impressions", "engagements"):
        events = read(root, f"events/{name}")
        assert (users.loc[events.user_id].to_numpy() <= events.event_timestamp).all()
        assert (pins.loc[events.pin_id].to_numpy() <= events.event_timestamp).all()
    conversions = read(root, "events/conversions")
    assert (users.loc[conversions.user_id].to_numpy() <= conversions.event_timestamp).all()
    assert (pages.loc[conversions.page_id].to_numpy() <= conversions.event_timestamp).all()


def test_an_item_comes_before_its_page_is_crawled_and_its_pins_are_made(root: Path) -> None:
    items = read(root, "events/items").set_index("item_id")
    pages = read(root, "events/pages").set_index("page_id").loc[items.page_id]
    assert (items.created_timestamp.to_numpy() <= pages.crawled_timestamp.to_numpy()).all()
    pins = read(root, "events/pins")
    pages = read(root, "events/pages").set_index("page_id").loc[pins.page_id]
    assert (pages.crawled_timestamp.to_numpy() <= pins.created_timestamp.to_numpy()).all()


def test_new_users_and_pins_come_and_are_seen(root: Path, impressions: pd.DataFrame) -> None:
    start = pd.Timestamp(SMALL.start, tz="UTC")
    for name in ("user", "pin"):
        entities = read(root, f"events/{name}s")
        fresh = entities[entities.created_timestamp >= start]
        assert len(fresh) == len(entities) - getattr(SMALL, f"{name}s") > 0
        assert impressions[f"{name}_id"].isin(fresh[f"{name}_id"]).any()


def test_engagements_follow_their_impression(root: Path, impressions: pd.DataFrame) -> None:
    engagements = read(root, "events/engagements")
    caused = engagements.dropna(subset="impression_id").merge(
        impressions, on="impression_id", suffixes=("", "_shown")
    )
    assert (caused.user_id == caused.user_id_shown).all()
    assert (caused.pin_id == caused.pin_id_shown).all()
    assert (caused.event_timestamp > caused.event_timestamp_shown).all()
    assert set(engagements[engagements.impression_id.isna()].type) == {"save"}
    assert not caused.duplicated(["impression_id", "type"]).any()
    assert caused[caused.type != "hide"].click.all()
    assert not caused[caused.type == "hide"].click.any()


def test_caused_conversions_follow_a_click_within_the_window(root: Path) -> None:
    engagements = read(root, "events/engagements")
    clicks = engagements[engagements.type == "click"].dropna(subset="impression_id")
    conversions = read(root, "events/conversions").dropna(subset="impression_id")
    pins = read(root, "events/pins").set_index("pin_id")
    joined = conversions.merge(clicks, on="impression_id", suffixes=("", "_click"))
    assert len(joined) == len(conversions) > 100
    assert not conversions.impression_id.duplicated().any()
    delay = joined.event_timestamp - joined.event_timestamp_click
    assert delay.min() > timedelta(0)
    assert delay.max() <= timedelta(days=SMALL.attribution_days)
    assert 2 < delay.dt.total_seconds().median() / 3_600 < 24
    assert (joined.user_id == joined.user_id_click).all()
    assert (pins.loc[joined.pin_id].item_id.to_numpy() == joined.item_id).all()


def test_conversions_wait_for_their_day(root: Path, tmp_path: Path) -> None:
    """A world that ends early has lost exactly the conversions that had not happened yet."""
    late = read(root, "events/conversions/conversions-2026-03-05.parquet")
    waited = late.dropna(subset="impression_id").impression_id.astype("int64") // 10**9 < 5
    assert waited.sum() > 20
    simulate(SMALL.model_copy(update={"days": 4}), tmp_path / "w")
    few, many = read(tmp_path / "w", "events/conversions"), read(root, "events/conversions")
    pd.testing.assert_frame_equal(
        few, many[many.event_timestamp < pd.Timestamp("2026-03-05", tz="UTC")]
    )


# Rates and the planted signal


@pytest.mark.parametrize(
    ("click_rate", "conversion_rate"), [(0.02, 0.004), (0.01, 0.001), (0.03, 0.01)]
)
def test_rates_are_what_was_asked_for(
    click_rate: float, conversion_rate: float, tmp_path: Path
) -> None:
    config = SMALL.model_copy(
        update={"click_rate": click_rate, "conversion_rate": conversion_rate, "truth": False}
    )
    report = simulate(config, tmp_path / "w")
    assert report.rates["click_rate"] == pytest.approx(click_rate, rel=0.12)
    # Five days are too short for the slow ones to land.
    assert 0.6 * conversion_rate < report.rates["conversion_rate"] < 1.05 * conversion_rate
    assert not (tmp_path / "w/truth").exists()


def test_the_funnel_narrows(world: tuple[Path, SimulationReport]) -> None:
    counts = world[1].counts
    assert counts["organic page_visit"] > 5 * counts["organic add_to_cart"]
    assert counts["organic add_to_cart"] > counts["organic checkout"] > 0
    assert 0 < counts["long_click"] < counts["click"]
    assert counts["conversions"] == sum(
        counts[f"{prefix}{kind}"]
        for prefix in ("", "organic ")
        for kind in ("page_visit", "add_to_cart", "checkout", "sign_up")
    )


def test_clicks_come_as_often_as_planted(impressions: pd.DataFrame) -> None:
    ranked = impressions.sort_values("p_click")
    for part in np.array_split(np.arange(len(ranked)), 5):
        rows = ranked.iloc[part]
        spread = np.sqrt(rows.p_click.sum())
        assert abs(rows.click.sum() - rows.p_click.sum()) < 4 * spread


def test_affinity_is_the_cosine_of_interests_and_topics(
    root: Path, impressions: pd.DataFrame
) -> None:
    """The oracle: the written truth of a day, multiplied out impression by impression."""
    users = read(root, "truth/interests/interests-2026-03-03.parquet")
    interests = dict(zip(users.user_id, matrix(users.interests), strict=True))
    pins = read(root, "truth/pin_topics")
    topics = dict(zip(pins.pin_id, matrix(pins.topics), strict=True))
    day = impressions[impressions.impression_id // 10**9 == 3].head(500)
    assert len(day) == 500
    for user_id, pin_id, affinity in zip(day.user_id, day.pin_id, day.affinity, strict=True):
        user, pin = interests[user_id], topics[pin_id]
        cosine = (user @ pin) / np.linalg.norm(user) / np.linalg.norm(pin)
        assert affinity == pytest.approx(cosine, abs=1e-5)


def test_truth_ranks_clicks_well_but_not_perfectly(impressions: pd.DataFrame) -> None:
    assert 0.73 < roc_auc_score(impressions.click, impressions.p_click) < 0.85
    assert roc_auc_score(impressions.click, impressions.affinity) > 0.68


def test_counters_alone_explain_little(impressions: pd.DataFrame) -> None:
    """A pin's and a user's click rate so far, smoothed: what a ranker has without embeddings."""
    before = impressions[impressions.impression_id // 10**9 < SMALL.days]
    after = impressions[impressions.impression_id // 10**9 == SMALL.days]
    score = np.zeros(len(after))
    for key in ("user_id", "pin_id"):
        seen = before.groupby(key).click.agg(["sum", "size"])
        rate = (seen["sum"] + 2) / (seen["size"] + 100)
        score += np.log(after[key].map(rate).fillna(0.02).to_numpy())
    assert 0.52 < roc_auc_score(after.click, score) < 0.69


def test_affinity_finds_the_next_days_clicks_far_better_than_popularity(
    root: Path, impressions: pd.DataFrame
) -> None:
    day = impressions.impression_id // 10**9
    users = read(root, "truth/interests/interests-2026-03-05.parquet")
    pins = read(root, "truth/pin_topics")
    popularity = impressions[impressions.click & (day < 5)].groupby("pin_id").size()
    popular = set(popularity.sort_values(ascending=False).index[:80])
    interests = matrix(users.interests)
    affinity = interests @ matrix(pins.topics).T
    top = np.argpartition(-affinity, 80, axis=1)[:, :80]
    liked = dict(zip(users.user_id, pins.pin_id.to_numpy()[top], strict=True))
    clicks = impressions[impressions.click & (day == 5)]
    by_truth = np.mean([row.pin_id in liked[row.user_id] for row in clicks.itertuples()])
    by_popularity = np.mean([row.pin_id in popular for row in clicks.itertuples()])
    assert by_truth > 5 * by_popularity


def test_interests_drift(root: Path) -> None:
    days = [read(root, f"truth/interests/interests-2026-03-0{d}.parquet") for d in (1, 2, 5)]
    first, next_day, later = (matrix(day.interests[: SMALL.users]) for day in days)
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-5)
    near, far = np.abs(first - next_day).sum(axis=1), np.abs(first - later).sum(axis=1)
    assert (near > 0).all()
    assert far.mean() > 1.3 * near.mean()


def test_vectors_show_the_topics(root: Path) -> None:
    """Pins of one topic look alike, in images; so do pages in words."""
    pins, truth = read(root, "events/pins"), read(root, "truth/pin_topics")
    first = matrix(truth.topics).argmax(axis=1)
    image = matrix(pins.image_vector)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    cosine = image @ image.T
    same = first[:, None] == first[None, :]
    off_diagonal = ~np.eye(len(pins), dtype=bool)
    assert cosine[same & off_diagonal].mean() > 0.6
    assert abs(cosine[~same].mean()) < 0.2


# Whole or not at all


def test_a_finished_simulation_is_returned_as_it_is(tmp_path: Path) -> None:
    report = simulate(TINY, tmp_path / "w")
    written = (tmp_path / "w/simulation.json").stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    assert simulate(TINY, tmp_path / "w", lambda *step: steps.append(step)) == report
    assert (tmp_path / "w/simulation.json").stat().st_mtime_ns == written
    assert steps == []


def test_the_report_lists_every_file(tmp_path: Path) -> None:
    report = simulate(TINY, tmp_path / "w")
    found = contents(tmp_path / "w")
    assert found.keys() == {file.name for file in report.files} | {"simulation.json"}
    for file in report.files:
        assert file.bytes == len(found[file.name])
        assert file.rows == pq.read_metadata(tmp_path / "w" / file.name).num_rows
    assert SimulationReport.model_validate_json(found["simulation.json"]) == report


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    simulate(TINY, tmp_path / "w", lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    simulate(TINY, tmp_path / "w")
    assert (tmp_path / "w/simulation.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TINY, tmp_path / "w", interrupt)
    assert not (tmp_path / "w").exists()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from provender.producers.simulator import simulate
from provender.producers.simulator_config import SimulatorConfig
def kill(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
simulate(SimulatorConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), kill)
"""


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_simulation_leaves_nothing_that_looks_whole(step: int, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, TINY.model_dump_json(), str(out), str(step)]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    simulate(TINY, out)
    simulate(TINY, tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]


def test_another_simulation_is_not_overwritten(tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "w")
    with pytest.raises(SimulationError, match=r"another simulation: seed=7 \(not 9\).*rm -r"):
        simulate(TINY.model_copy(update={"seed": 9}), tmp_path / "w")


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SimulationError, match="found other files"):
        simulate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["remove", "truncate"])
def test_a_damaged_simulation_is_not_taken_for_finished(damage: str, tmp_path: Path) -> None:
    simulate(TINY, tmp_path / "w")
    path = tmp_path / "w/events/impressions/impressions-2026-03-02.parquet"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SimulationError, match=r"impressions-2026-03-02\.parquet missing or of"):
        simulate(TINY, tmp_path / "w")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SimulationError, match="found a file; expected a folder"):
        simulate(TINY, tmp_path / "file")
    with pytest.raises(SimulationError, match="Not a directory"):
        simulate(TINY, tmp_path / "file" / "w")


# Sizes


def test_the_smallest_world(tmp_path: Path) -> None:
    config = SimulatorConfig(
        users=1,
        pins=1,
        items=1,
        advertisers=1,
        topics=2,
        days=2,
        impressions_per_user=0.001,
        saves_per_user=0,
        visits_per_user=0,
        conversion_rate=0,
    )
    report = simulate(config, tmp_path / "w")
    assert report.counts["conversions"] == 0
    assert read(tmp_path / "w", "events/conversions").empty


def test_memory_does_not_grow_with_the_days(tmp_path: Path) -> None:
    """What waits in the middle of a long simulation is no more than in a short one."""
    from provender.producers import simulator_day_files

    waiting: dict[int, int] = {}

    class Watched(simulator_day_files.DayFiles):
        def close(self) -> None:
            super().close()
            waiting[self._day] = sum(
                len(part["type"]) for parts in self._later.values() for part in parts
            )
            assert all(day - self._day <= 3 for _, day in self._later)

    config = TINY.model_copy(
        update={"users": 400, "days": 16, "attribution_days": 2, "user_growth": 0.0}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("provender.producers.simulator.DayFiles", Watched)
        simulate(config, tmp_path / "w")
    assert 0 < max(waiting[day] for day in range(8, 13)) < 3 * waiting[4]
    assert waiting[15] == 0
