"""Row groups of a bounded size, and values that come back as what they meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provender.producers.simulator_files import SCHEMAS, RowGroupFile, table, vectors


@pytest.mark.parametrize("additions", [[], [3], [10], [4, 4, 4], [25, 1, 0, 9], [10, 10]])
def test_row_groups_are_full_and_memory_holds_less_than_one(
    additions: list[int], tmp_path: Path
) -> None:
    file = RowGroupFile(tmp_path / "f.parquet", SCHEMAS["advertisers"], chunk_rows=10)
    first = 0
    for size in additions:
        file.add(table("advertisers", {"advertiser_id": np.arange(first, first + size)}))
        first += size
        assert file._waiting_rows == first % 10
    file.close()
    written = pq.ParquetFile(tmp_path / "f.parquet")
    sizes = [written.metadata.row_group(i).num_rows for i in range(written.num_row_groups)]
    assert sizes == [10] * (first // 10) + ([first % 10] if first % 10 else [])
    assert file.rows == first
    ids = written.read()["advertiser_id"].to_pylist()
    assert ids == list(range(5_000_000_000, 5_000_000_000 + first))


def test_codes_and_positions_become_words_and_ids() -> None:
    rows = table(
        "engagements",
        {
            "impression_id": np.array([1_000_000_000, -1]),
            "event_timestamp": np.array([0, 86_400_000_000]),
            "user_id": np.array([0, 5]),
            "pin_id": np.array([7, 0]),
            "type": np.array([1, 2]),
        },
    )
    assert rows.schema == SCHEMAS["engagements"]
    values = rows.drop_columns("event_timestamp").to_pylist()
    assert values == [
        {
            "impression_id": 1_000_000_000,
            "user_id": 1_000_000_000,
            "pin_id": 2_000_000_007,
            "type": "long_click",
        },
        {"impression_id": None, "user_id": 1_000_000_005, "pin_id": 2_000_000_000, "type": "save"},
    ]
    assert rows["event_timestamp"][1].as_py().isoformat() == "1970-01-02T00:00:00+00:00"


def test_vectors_are_lists_of_their_rows() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert vectors(matrix).to_pylist() == matrix.tolist()
    assert vectors(matrix).type == pa.list_(pa.float32())
