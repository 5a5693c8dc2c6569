"""All users' nearest pins in one Parquet file, written in chunks that outlast an interruption.

    <file>.parts/plan.json        what is being written
    <file>.parts/part-00000.parquet, ...
    <file>                        at the end, when the parts are removed

Who runs it again with the same plan, over the same vectors, goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from provender.consumers.retrieval import Retrieval, Seen
from provender.consumers.retrieval_vectors import VectorStamp
from provender.plugin.files import whole_file, write_whole
from provender.plugin.nearest import Metric

#: Users of a part.
PART_USERS = 8_192


class Plan(BaseModel):
    """What is written: a part of another plan is of no use.

    Attributes:
        only, seen: digests of what restricts the answers, where anything does.
        index: how the index is built and searched, as JSON; None where it is exact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: VectorStamp
    pins: VectorStamp
    k: int
    metric: Metric
    only: str | None = None
    seen: str | None = None
    index: str | None = None
    part_users: int = PART_USERS


def write_all(
    retrieval: Retrieval,
    plan: Plan,
    path: Path,
    *,
    seen: Seen | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write every user's nearest pins: user, rank, pin, distance, ascending by user and rank.

    Args:
        plan: of what is written; parts of another one are removed.
        path: the file; it is replaced once all parts are there.
        seen: user -> pins that are not to be answered.
        progress: called with the number of users after each part, those found there as well.

    Returns the rows written.
    """
    parts = path.with_name(f"{path.name}.parts")
    _prepare(parts, plan)
    users = retrieval.users.keys
    files = []
    for number, start in enumerate(range(0, len(users), plan.part_users)):
        chosen = users[start : start + plan.part_users]
        file = parts / f"part-{number:05}.parquet"
        if not file.is_file():
            table = retrieval.for_users(chosen, plan.k, seen=seen).table()
            named = _typed(table, retrieval)
            with whole_file(file) as staged:
                pq.write_table(named, staged)
        files.append(file)
        if progress is not None:
            progress(len(chosen))
    rows = _join(files, path, retrieval)
    shutil.rmtree(parts)
    return rows


def _prepare(parts: Path, plan: Plan) -> None:
    told = plan.model_dump_json(indent=2).encode()
    note = parts / "plan.json"
    if not note.is_file() or note.read_bytes() != told:
        shutil.rmtree(parts, ignore_errors=True)
        write_whole(note, told)


def _typed(table: pa.Table, retrieval: Retrieval) -> pa.Table:
    """The columns under their names, of the keys' own types even where there are no rows."""
    return table.rename_columns(_schema(retrieval).names).cast(_schema(retrieval))


def _schema(retrieval: Retrieval) -> pa.Schema:
    users, pins = retrieval.users, retrieval.search.pins
    return pa.schema(
        [
            (users.spec.join_key, users.keys.type),
            ("rank", pa.int32()),
            (pins.spec.join_key, pins.keys.type),
            ("distance", pa.float64()),
        ]
    )


def _join(files: list[Path], path: Path, retrieval: Retrieval) -> int:
    rows = 0
    with (
        whole_file(path) as staged,
        pq.ParquetWriter(staged, _schema(retrieval)) as writer,
    ):
        for file in files:
            table = pq.read_table(file)
            writer.write_table(table)
            rows += table.num_rows
    return rows
