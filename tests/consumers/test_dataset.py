"""Training rows as files, frames and matrices, and the command that writes them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from feast import FeatureStore

from provender.consumers.dataset_command import dataset
from provender.consumers.dataset_files import to_parquet, training_matrix
from provender.consumers.training_stream import TrainingStream
from tests.consumers.kitchen import OURS, hours
from tests.consumers.stream_world import shown

VIEWS = ("user_test_v1", "pin_test_v1")


@pytest.fixture
def ours(kitchen: Any) -> FeatureStore:
    if kitchen.stores != OURS:
        pytest.skip("files are made of the same batches")
    store: FeatureStore = kitchen.store()
    return store


def made(store: FeatureStore, rows: int = 50, **options: Any) -> TrainingStream:
    return TrainingStream(store, shown(rows), "rich", batch_size=7, pool_rows=16, **options)


def by_time(rows: int = 50) -> list[dict[str, Any]]:
    table = shown(rows).sort_by([("event_timestamp", "ascending"), ("impression_id", "ascending")])
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_a_file_has_every_row_by_time_with_null_where_nothing_is(
    ours: FeatureStore, tmp_path: Path
) -> None:
    stream = made(ours, rank=1, ranks=2)
    told: list[int] = []
    assert to_parquet(stream, tmp_path / "out.parquet", on_rows=told.append) == 50 == sum(told)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    batch = stream.joined(pa.Table.from_pylist(by_time(), schema=shown(1).schema))
    for place, (row, wanted) in enumerate(zip(found, by_time(), strict=True)):
        given = {name: row[name] for name in wanted if name != "click_weight"}
        assert given == {name: wanted[name] for name in given}
        known = wanted["click"] is not None
        assert row["click_weight"] == (wanted["click_weight"] if known else 0)
        assert row["conversion_weight"] == float(wanted["conversion"] is not None)
        for view in VIEWS:
            there = bool(batch.present[view][place])
            vector = batch.vectors[view][place].tolist() if there else None
            assert row[f"{view}__embedding"] == vector
        for column, feature in enumerate(stream.layout.dense):
            there = bool(batch.dense_present[place, column])
            value = float(batch.dense[place, column]) if there else None
            assert row[feature.column] == value
    assert any(row["user_test_v1__embedding"] is None for row in found)


def test_a_flat_frame_has_numbers_and_what_they_say_together(ours: FeatureStore) -> None:
    stream = made(ours)
    frame = stream.to_pandas()
    lists = stream.to_pandas(frame="vectors")
    assert frame["number"].tolist() == [row["number"] for row in by_time()]
    for view in VIEWS:
        for place, vector in enumerate(lists[f"{view}__embedding"]):
            numbers = [frame[f"{view}_{n}"][place] for n in range(4)]
            assert numbers == list(vector) if vector is not None else np.isnan(numbers).all()
    dots = frame["user_test_v1_pin_test_v1_dot"]
    for place, (user, pin) in enumerate(
        zip(*(lists[f"{v}__embedding"] for v in VIEWS), strict=True)
    ):
        if user is None or pin is None:
            assert np.isnan(dots[place])
        else:
            assert dots[place] == pytest.approx(float(np.dot(user, pin)), rel=1e-5)
            cosine = np.dot(user, pin) / np.linalg.norm(user) / np.linalg.norm(pin)
            found = frame["user_test_v1_pin_test_v1_cosine"][place]
            assert found == pytest.approx(float(cosine), rel=1e-4)
    assert dots.notna().any()


def test_a_matrix_is_what_lightgbm_takes(ours: FeatureStore) -> None:
    stream = made(ours)
    matrix, frame = training_matrix(stream), stream.to_pandas()
    assert matrix.features.dtype == np.float32
    assert matrix.features.shape == (50, len(matrix.names))
    assert {"user_test_v1_0", "pin_counters__clicks"} <= set(matrix.names)
    assert all(name.replace("_", "").isalnum() for name in matrix.names)
    for place, name in enumerate(matrix.names):
        np.testing.assert_array_equal(matrix.features[:, place], frame[name].to_numpy())
    for task in ("click", "conversion"):
        wanted = [float(row[task] or 0) for row in by_time()]
        assert matrix.labels[task].tolist() == wanted
        known = [row[task] is not None for row in by_time()]
        assert ((matrix.weights[task] > 0) == known).all()
    assert (np.diff(matrix.times) >= 0).all()


@pytest.mark.parametrize("frame", ["flat", "vectors"])
def test_no_rows_are_a_file_with_the_same_columns(
    ours: FeatureStore, tmp_path: Path, frame: Any
) -> None:
    assert made(ours, 0).to_parquet(tmp_path / "none.parquet", frame=frame) == 0
    made(ours).to_parquet(tmp_path / "some.parquet", frame=frame)
    names = [pq.read_schema(tmp_path / f"{name}.parquet").names for name in ("none", "some")]
    assert names[0] == names[1]


def test_a_file_is_whole_or_not_there(ours: FeatureStore, tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_parquet(made(ours), tmp_path / "out.parquet", on_rows=stop)
    assert list(tmp_path.glob("*.parquet*")) == []
    assert list(tmp_path.glob(".*")) == []


@pytest.fixture
def home(kitchen: Any, tmp_path: Path) -> Path:
    """A home whose world labels clicks within an hour; the kitchen is its repo."""
    if kitchen.stores != OURS:
        pytest.skip("files are made of the same batches")
    kitchen.store()
    folder = tmp_path / "home"
    data = folder / "simulation" / "events"
    data.mkdir(parents=True)
    (folder / "feature_repo").symlink_to(kitchen.folder)
    rows = shown(300).select(["impression_id", "user_id", "pin_id", "event_timestamp", "number"])
    clicked = rows.filter(pa.compute.less(rows["number"], 60))
    pq.write_table(rows, data / "shown.parquet")
    pq.write_table(clicked, data / "clicks.parquet")
    columns = {"table": "shown", "id": "impression_id", "user": "user_id", "pin": "pin_id"}
    world = {
        "tables": {name: {"path": f"{name}.parquet"} for name in ("shown", "clicks")},
        "entities": {"user": "int64", "pin": "int64"},
        "events": {"click": {}},
        "ranking": {
            "impressions": {**columns, "time": "event_timestamp", "context": ["number"]},
            "labels": {
                "click": {
                    "table": "clicks",
                    "match": {"impression_id": "impression_id"},
                    "time": "event_timestamp",
                    "within": "1h",
                }
            },
            "negatives": 0.5,
        },
        "dates": {"first_as_of": "2026-03-02", "refreshes": 3, "evaluate_days": 1},
    }
    (folder / "world.yaml").write_text(yaml.safe_dump(world))
    return folder


def asked(home: Path, *options: str) -> Result:
    common = ["--home", str(home), "--service", "rich", "--to", str(home / "out.parquet")]
    return CliRunner().invoke(dataset, [*common, *options])


def read(home: Path) -> pd.DataFrame:
    found: pd.DataFrame = pq.read_table(home / "out.parquet").to_pandas()
    return found


def test_the_command_writes_the_worlds_own_rows_parted_by_time(home: Path) -> None:
    spans = {
        "training": (hours(24), hours(24) + 0.9 * timedelta(hours=47)),
        "held-back": (hours(24) + 0.9 * timedelta(hours=47), hours(71)),
        "evaluation": (hours(72), hours(96)),
    }
    times = shown(300)["event_timestamp"].to_pylist()
    for part, (start, end) in spans.items():
        done = asked(home, "--part", part, "--negatives", "1")
        assert done.exit_code == 0, done.output
        found = read(home)
        wanted = {no for no, time in enumerate(times) if start <= time < end}
        assert set(found["number"]) == wanted
        assert len(wanted) > 3
        clicks = dict(zip(found["number"], found["click"], strict=True))
        assert clicks == {no: int(no < 60) for no in wanted}


def test_the_command_keeps_the_worlds_share_of_negatives_in_training(home: Path) -> None:
    assert asked(home, "--frame", "flat").exit_code == 0
    fewer = read(home)
    assert set(fewer["click_weight"]) == {1, 2}
    assert (fewer["click_weight"] == np.where(fewer["click"] == 1, 1, 2)).all()
    assert asked(home, "--part", "evaluation").exit_code == 0
    assert set(read(home)["click_weight"]) == {1}


def test_the_command_takes_files_and_queries_in_their_place(home: Path) -> None:
    table = shown(30)
    pq.write_table(table, home / "mine.parquet")
    assert asked(home, "--impressions", str(home / "mine.parquet")).exit_code == 0
    first = read(home)
    assert len(first) == 30
    assert asked(home, "--query", f"FROM '{home}/mine.parquet'").exit_code == 0
    pd.testing.assert_frame_equal(read(home), first)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--url", "sqlite://"], "--url without --query"),
        (["--impressions", "x.parquet", "--query", "SELECT 1"], "--impressions and --query"),
        (["--impressions", "x.parquet"], "nothing at x.parquet"),
        (["--negatives", "0"], "0"),
    ],
)
def test_what_does_not_go_together_is_one_line(home: Path, options: list[str], said: str) -> None:
    done = asked(home, *options)
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output
    assert not (home / "out.parquet").exists()
