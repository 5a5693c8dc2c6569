"""Snapshots: the immutable Parquet files of one refresh of one embedding view.

They lie at ``<root>/<view>/<as-of>/part-0.parquet`` beside their manifest, readable as they are by
DuckDB, Spark and Ray. A snapshot without a manifest does not exist.

A *supplement* is a snapshot too, of only those entities that came after a refresh, computed with
all else as that refresh left it. It lies at ``<as-of>-supplement``, so that a refresh of the same
time has its place. Who reads vectors reads both alike; who looks for a refresh sees none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provender.plugin.errors import SnapshotError
from provender.plugin.files import (
    STAGING,
    remove_empty,
    remove_folder,
    sha256_of,
    stamp,
    whole_folder,
)
from provender.plugin.manifest import (
    MANIFEST_NAME,
    Manifest,
    RunInfo,
    SnapshotFile,
    VectorPage,
    code_version,
)
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec

PART = "part-0.parquet"
_SUPPLEMENT = "-supplement"
#: Rows a Parquet row group, at most, and bytes of vectors: what a bounded reader holds at once.
ROW_GROUP = 16_384
ROW_GROUP_BYTES = 16 * 2**20
#: More than any row group has, so that its vectors are one page, which can be mapped as it lies.
ONE_PAGE = 2**30
_TIME = pa.timestamp("us", tz="UTC")

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Snapshot:
    """One whole snapshot on disk."""

    path: Path
    manifest: Manifest

    def read(self) -> tuple[pa.Array, Vectors]:
        """Return the keys, in ascending order, and their vectors: (n, dim) float32."""
        try:
            parts = [pq.read_table(self.path / part.name) for part in self.manifest.files]
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(str(error)) from None
        table = pa.concat_tables(parts).combine_chunks()
        flat = table[VECTOR_COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if table.num_rows != self.manifest.rows or len(flat) != table.num_rows * self.manifest.dim:
            raise self._damaged(f"{table.num_rows} rows with {len(flat)} floats in all")
        keys = table[self.manifest.join_key].combine_chunks()
        return keys, flat.astype(np.float32, copy=False).reshape(-1, self.manifest.dim)

    def keys(self) -> pa.Array:
        """Return the keys alone, in ascending order, without reading a vector."""
        name = self.manifest.join_key
        try:
            parts = [pq.read_table(self.path / p.name, columns=[name]) for p in self.manifest.files]
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(str(error)) from None
        keys = pa.concat_tables(parts)[name].combine_chunks()
        if len(keys) != self.manifest.rows:
            raise self._damaged(f"{len(keys)} keys")
        return keys

    def verify(self) -> None:
        """Compare every file with the manifest's checksum; raises SnapshotError at the first."""
        for part in self.manifest.files:
            path = self.path / part.name
            if not path.is_file():
                raise self._damaged(f"no file {part.name}")
            if path.stat().st_size != part.bytes or sha256_of(path) != part.sha256:
                raise self._damaged(f"other bytes in {part.name} than were written")

    def _damaged(self, found: str) -> SnapshotError:
        return SnapshotError(
            f"snapshot {self.path}",
            found=found,
            expected=f"{self.manifest.rows} rows of {self.manifest.dim} floats, by its manifest",
            remedy="Remove its folder and run the producer again for this as-of date.",
        )


def snapshot_path(root: Path, view_name: str, as_of: datetime, *, supplement: bool = False) -> Path:
    """Return the folder where the snapshot of ``view_name`` as of ``as_of`` lies or will lie."""
    return root / view_name / (stamp(as_of) + (_SUPPLEMENT if supplement else ""))


def find_snapshot(
    root: Path, view_name: str, as_of: datetime, *, supplement: bool = False
) -> Snapshot | None:
    """Return the refresh, or the supplement, of a view as of a time; None where there is none."""
    path = snapshot_path(root, view_name, as_of, supplement=supplement)
    if not (path / MANIFEST_NAME).is_file():
        return None
    return Snapshot(path, Manifest.read(path))


def find_snapshots(root: Path, view_name: str, *, supplements: bool = False) -> list[Snapshot]:
    """Return a view's refreshes, ascending by as-of time; with its supplements only if asked.

    Of a refresh and a supplement as of the same time, the one that was created later comes later:
    so a point-in-time join breaks the tie.
    """
    manifests = sorted((root / view_name).glob(f"*/{MANIFEST_NAME}"))
    found = [Snapshot(path.parent, Manifest.read(path.parent)) for path in manifests]
    kept = [each for each in found if supplements or each.manifest.supplement_of is None]
    return sorted(kept, key=lambda each: (each.manifest.as_of, each.manifest.created_at))


def all_snapshots(root: Path) -> list[Snapshot]:
    """Return all snapshots of every view under ``root``, supplements too, by view and as-of time.

    Folders without manifests are nobody's or somebody else's, and are passed over.
    """
    folders = sorted(root.iterdir()) if root.is_dir() else []
    views = [folder.name for folder in folders if folder.is_dir() and folder.name != STAGING]
    return [each for view in views for each in find_snapshots(root, view, supplements=True)]


def remove_snapshot(root: Path, path: Path) -> None:
    """Remove a snapshot, whole for every reader, and its view's folder where it was the last."""
    remove_folder(root, path)
    remove_empty(path.parent)


def write_snapshot(
    root: Path,
    spec: EmbeddingSpec,
    as_of: datetime,
    keys: pa.Array,
    vectors: Vectors,
    run: RunInfo,
) -> Snapshot:
    """Write the refresh, or a supplement, of one view as of one time, whole or not at all.

    Args:
        root: the folder of all snapshots.
        keys: int64 or string, ascending and without repetition, length n.
        vectors: (n, dim) float32, finite; looked at in blocks, so they may be mapped from a file.

    Writing the same content again returns what stands; other content raises SnapshotError, for a
    snapshot never changes.
    """
    _check(spec, keys, vectors)
    supplement = run.supplement_of is not None
    path = snapshot_path(root, spec.view_name, as_of, supplement=supplement)
    checksum = content_checksum(keys, vectors)
    try:
        with whole_folder(root, path) as staged:
            part = _write_part(staged / PART, spec, as_of, keys, vectors)
            manifest = _manifest(spec, as_of, run, len(keys), (part,), checksum)
            (staged / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
    except FileExistsError:
        return _same_or_refused(path, checksum)
    return Snapshot(path, manifest)


def content_checksum(keys: pa.Array, vectors: Vectors) -> str:
    """Return the SHA-256 over keys and little-endian vectors, in hexadecimal."""
    digest = hashlib.sha256()
    for key in _key_bytes(keys):
        digest.update(key)
    for start in range(0, len(vectors), ROW_GROUP):
        digest.update(np.ascontiguousarray(vectors[start : start + ROW_GROUP], dtype="<f4").data)
    return digest.hexdigest()


def _key_bytes(keys: pa.Array) -> Iterator[bytes]:
    blocks = [keys[start : start + ROW_GROUP] for start in range(0, len(keys), ROW_GROUP)]
    if pa.types.is_integer(keys.type):
        for block in blocks:
            yield block.to_numpy(zero_copy_only=False).astype("<i8").tobytes()
        return
    for block in blocks:
        yield pc.binary_length(block).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
    for block in blocks:
        yield "".join(block.to_pylist()).encode()


def _check(spec: EmbeddingSpec, keys: pa.Array, vectors: Vectors) -> None:
    if vectors.dtype != np.float32 or vectors.shape != (len(keys), spec.dim):
        raise _refused(
            spec,
            f"{vectors.dtype} vectors of shape {vectors.shape}",
            f"float32 of shape ({len(keys)}, {spec.dim}): one row a key, as declared",
        )
    for start in range(0, len(keys), ROW_GROUP):
        finite = np.isfinite(vectors[start : start + ROW_GROUP]).all(axis=1)
        if not finite.all():
            key = keys[start + int(np.argmin(finite))]
            raise _refused(spec, f"NaN or Inf in the vector of {key}", "finite numbers")
    if not (pa.types.is_int64(keys.type) or pa.types.is_string(keys.type)):
        raise _refused(spec, f"keys of type {keys.type}", "int64 or string keys")
    if keys.null_count:
        raise _refused(spec, f"{keys.null_count} null keys", "a key for every vector")
    if len(keys) > 1 and not pc.all(pc.less(keys[:-1], keys[1:])).as_py():
        raise _refused(spec, "keys out of order or repeated", "ascending keys, each one once")


def _refused(spec: EmbeddingSpec, found: str, expected: str) -> SnapshotError:
    return SnapshotError(
        f"snapshot of {spec.view_name}",
        found=found,
        expected=expected,
        remedy="Correct the producer; nothing was written.",
    )


def _write_part(
    path: Path, spec: EmbeddingSpec, as_of: datetime, keys: pa.Array, vectors: Vectors
) -> SnapshotFile:
    created = datetime.now(UTC)
    schema = pa.schema(
        [
            pa.field(spec.join_key, keys.type, nullable=False),
            pa.field("event_timestamp", _TIME, nullable=False),
            pa.field("created_timestamp", _TIME, nullable=False),
            pa.field(VECTOR_COLUMN, pa.list_(pa.float32()), nullable=False),
        ]
    )
    # Vectors do not compress, and decompressing them costs more than reading them: keys only.
    compression = {name: "snappy" for name in schema.names if name != VECTOR_COLUMN}
    compression[f"{VECTOR_COLUMN}.list.element"] = "none"
    with pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        use_dictionary=["event_timestamp", "created_timestamp"],
        data_page_size=ONE_PAGE,
    ) as writer:
        for start in range(0, len(keys), _group_rows(spec.dim)):
            rows = slice(start, min(start + _group_rows(spec.dim), len(keys)))
            count = rows.stop - rows.start
            offsets = pa.array(np.arange(count + 1, dtype=np.int32) * spec.dim)
            columns = [
                keys[rows],
                pa.repeat(pa.scalar(as_of, _TIME), count),
                pa.repeat(pa.scalar(created, _TIME), count),
                pa.ListArray.from_arrays(offsets, pa.array(vectors[rows].reshape(-1))),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return SnapshotFile(
        name=path.name,
        rows=len(keys),
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
        pages=_vector_pages(path, vectors),
    )


def _group_rows(dim: int) -> int:
    return max(1, min(ROW_GROUP, ROW_GROUP_BYTES // (4 * dim)))


def _vector_pages(path: Path, vectors: Vectors) -> tuple[VectorPage, ...]:
    """Return where each row group's vectors lie in the file, or nothing if they can't be mapped.

    Uncompressed, plain and without nulls they end the only page of their column. That is looked
    up and not trusted: the bytes must be the vectors'.
    """
    file = pq.ParquetFile(path).metadata
    if not file.num_row_groups:
        return ()
    mapped = np.memmap(path, np.uint8, mode="r")
    pages: list[VectorPage] = []
    start = 0
    for group in range(file.num_row_groups):
        rows = file.row_group(group).num_rows
        column = file.row_group(group).column(file.num_columns - 1)
        wanted = np.ascontiguousarray(vectors[start : start + rows], dtype="<f4").reshape(-1)
        end = column.data_page_offset + column.total_compressed_size
        offset = end - wanted.nbytes
        if not np.array_equal(mapped[offset:end], wanted.view(np.uint8)):
            return ()
        pages.append(VectorPage(offset=offset, rows=rows))
        start += rows
    return tuple(pages)


def _manifest(
    spec: EmbeddingSpec,
    as_of: datetime,
    run: RunInfo,
    rows: int,
    files: tuple[SnapshotFile, ...],
    checksum: str,
) -> Manifest:
    return Manifest(
        run_id=run.run_id,
        producer=run.producer,
        config_hash=run.config_hash,
        code_version=code_version(),
        view=spec.view_name,
        version=spec.version,
        entity=spec.entity,
        join_key=spec.join_key,
        dim=spec.dim,
        dtype=spec.dtype,
        space=spec.space,
        family=spec.family,
        facet=spec.facet,
        as_of=as_of,
        window_start=run.window_start,
        window_end=run.window_end,
        rows=rows,
        files=files,
        checksum=checksum,
        metrics=run.metrics,
        parent=run.parent,
        supplement_of=run.supplement_of,
        notes=run.notes,
        created_at=datetime.now(UTC),
    )


def _same_or_refused(path: Path, checksum: str) -> Snapshot:
    standing = Snapshot(path, Manifest.read(path))
    if standing.manifest.checksum == checksum:
        return standing
    raise SnapshotError(
        f"snapshot {path}",
        found="other vectors already there",
        expected="no snapshot yet, or the same one: a snapshot never changes",
        remedy="Remove its folder first if the refresh is really to be replaced.",
    )
