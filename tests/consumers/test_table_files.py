"""Tables in folders: what comes back, what is refused, what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from provender.consumers import table_files
from provender.consumers.entity_table import EntityTable, RowTraining
from provender.consumers.host_table import HostTable
from provender.consumers.table_files import load_table, save_table
from provender.plugin.errors import CheckpointError

KEYS = {"int64": pa.array([7, -3, 2**40]), "string": pa.array(["b", "", "é"]), "none": None}
HOW = RowTraining(rate=0.5, warmup_steps=3)


@pytest.fixture(params=list(KEYS))
def table(request: pytest.FixtureRequest) -> EntityTable:
    found = KEYS[request.param]
    keys = pa.array([], pa.int64()) if found is None else found
    return moved(EntityTable.from_nothing(keys, 3, seed=1, buckets=2, training=HOW))


def moved(table: EntityTable) -> EntityTable:
    table(torch.tensor([1, 0])).square().sum().backward()
    table.step()
    return table


def same(left: EntityTable, right: EntityTable) -> bool:
    one, other = left.state_dict(), right.state_dict()
    equal = all(torch.equal(one[name], other[name]) for name in one)
    return equal and left.keys.equals(right.keys) and left.row_training == right.row_training


def test_it_comes_back_and_goes_on(table: EntityTable, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "table"
    save_table(folder, table)
    loaded = load_table(folder)
    assert same(loaded, table)
    assert same(moved(loaded), moved(table))
    host = load_table(folder, HostTable, capacity=2, folder=tmp_path / "rows")
    assert isinstance(host, HostTable)
    assert not same(host, table), "the file is as it was when it was saved"
    assert same(moved(host), table)
    save_table(folder, host)
    assert same(load_table(folder), table)
    assert len(list(folder.iterdir())) == 3, "nothing of the former one is left"
    (rows,) = folder.glob("*.safetensors")
    assert torch.equal(load_file(rows)["values"], table.values)


def test_damage_is_refused(table: EntityTable, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    with pytest.raises(CheckpointError, match="a whole table"):
        load_table(folder)
    for name in ("rows-*.safetensors", "keys-*.parquet", "table.json"):
        save_table(folder, table)
        (path,) = folder.glob(name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="a whole table"):
            load_table(folder)
        path.unlink()
        with pytest.raises(CheckpointError, match="a whole table"):
            load_table(folder)


@pytest.mark.parametrize("crash", ["_write_tensors", "sync", "sha256_of", "write_whole"])
def test_a_save_that_is_broken_off_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    table = EntityTable.from_nothing(pa.array([1, 2]), 3, seed=1, training=HOW)
    save_table(tmp_path / "table", table)
    old = load_table(tmp_path / "table")
    moved(table)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(table_files, crash, fail)
        with pytest.raises(KeyboardInterrupt):
            save_table(tmp_path / "table", table)
    assert same(load_table(tmp_path / "table"), old)
    save_table(tmp_path / "table", table)
    assert same(load_table(tmp_path / "table"), table)
