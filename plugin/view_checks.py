"""What an embedding view is refused for: its version, its space, its stored vectors.

No Feast here: the checks get declarations and paths, and :mod:`provender.plugin.provider` and
:mod:`provender.plugin.embedding_view` call them at the right moment of ``feast apply``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import duckdb

from provender.plugin.errors import SnapshotError, SpecError, VersionError
from provender.plugin.snapshot import Snapshot
from provender.plugin.snapshot_source import snapshots_at
from provender.plugin.spec import VECTOR_COLUMN, EmbeddingSpec, check_unchanged

#: What a snapshot's manifest must say of it, exactly as its view declares.
_DECLARED = ("version", "entity", "join_key", "dim", "dtype", "space", "producer", "facet")
#: Rows of the newest snapshot whose vectors are measured; its manifest vouches for the others.
_SAMPLE = 10_000


def check_declarations(
    declared: Iterable[EmbeddingSpec], registered: Mapping[str, EmbeddingSpec]
) -> None:
    """Refuse declarations that contradict each other or the registry.

    Raises:
        SpecError: one view is declared twice, or a facet in the space of something else.
        VersionError: an old version number with a new meaning, or one space for two versions.
    """
    known = dict(registered)
    seen: set[str] = set()
    for spec in declared:
        if spec.view_name in seen:
            raise _twice(spec)
        seen.add(spec.view_name)
        if spec.view_name in registered:
            check_unchanged(registered[spec.view_name], spec)
        _check_space(spec, known.values())
        _check_facet(spec, known.values())
        known[spec.view_name] = spec


def check_vectors(spec: EmbeddingSpec, path: str) -> None:
    """Refuse files whose vectors are not what ``spec`` declares; files may be missing yet.

    Beside manifests, every manifest is compared and the newest snapshot's vectors are sampled; of
    a Parquet file without one, all vectors are measured. Files on remote storage are not opened.

    Raises:
        SnapshotError: naming the file, what is in it and what the view declares.
    """
    if "://" in path:
        return
    snapshots = snapshots_at(path)
    for snapshot in snapshots:
        _check_manifest(spec, snapshot)
    if snapshots:
        newest = snapshots[-1]
        for part in newest.manifest.files:
            _check_lengths(spec, str(newest.path / part.name), f"limit {_SAMPLE}")
    elif _matches(path):
        _check_lengths(spec, path, "")


#: What a version that is anchored to another must have in common with it.
_ANCHORED = ("entity", "join_key", "dim", "space", "family", "facet")


def _check_space(spec: EmbeddingSpec, others: Iterable[EmbeddingSpec]) -> None:
    # Vectors of one space may be compared, those of two versions never, save where the newer one
    # was trained to stay in the older one's space.
    for other in others:
        if other.name != spec.name or other.version == spec.version:
            continue
        if spec.anchored_to == other.version:
            _check_anchor(spec, other)
        elif other.anchored_to == spec.version:
            _check_anchor(other, spec)
        elif other.space == spec.space:
            newer = max(spec, other, key=lambda each: each.version)
            if newer.anchored_to is None:
                raise _shared_space(spec, other)


def _check_anchor(spec: EmbeddingSpec, anchor: EmbeddingSpec) -> None:
    differing = [each for each in _ANCHORED if getattr(spec, each) != getattr(anchor, each)]
    if differing:
        found, expected = (
            ", ".join(f"{each} {getattr(one, each)!r}" for each in differing)
            for one in (spec, anchor)
        )
        raise VersionError(
            f"embedding view {spec.view_name}, anchored to version {anchor.version}",
            found=found,
            expected=f"{expected}, as {anchor.view_name} has",
            remedy="Correct it, or leave anchored_to out and name a space of its own.",
        )


def _shared_space(spec: EmbeddingSpec, other: EmbeddingSpec) -> VersionError:
    return VersionError(
        f"embedding view {spec.view_name}",
        found=f"space {spec.space!r}, which {other.view_name} has",
        expected="a space of its own for each version",
        remedy=f"Name another space, for example '{spec.name}_v{spec.version}', or declare "
        f"anchored_to={min(spec.version, other.version)} if it was trained to stay in that one.",
    )


def _check_facet(spec: EmbeddingSpec, others: Iterable[EmbeddingSpec]) -> None:
    # A relation's score compares its two facets, and raw vectors go with raw vectors: nothing else
    # may be taken for comparable.
    for other in others:
        if other.space == spec.space and other.relation != spec.relation:
            raise SpecError(
                f"embedding view {spec.view_name}, {_seen(spec)}",
                found=f"space {spec.space!r}, in which {other.view_name} has {_seen(other)}",
                expected="a space of raw vectors alone, or of the facets of one relation alone",
                remedy=f"Name another space, for example "
                f"'{spec.family}_v{spec.version}_{spec.relation or 'raw'}'.",
            )


def _seen(spec: EmbeddingSpec) -> str:
    return f"facet {spec.facet!r}" if spec.facet else "raw vectors"


def _twice(spec: EmbeddingSpec) -> SpecError:
    return SpecError(
        f"embedding view {spec.view_name}",
        found="two declarations",
        expected="one",
        remedy=f"Remove one, or declare it as version {spec.version + 1}.",
    )


def _check_manifest(spec: EmbeddingSpec, snapshot: Snapshot) -> None:
    for field in _DECLARED:
        found, declared = getattr(snapshot.manifest, field), getattr(spec, field)
        if found != declared:
            raise SnapshotError(
                f"snapshot {snapshot.path} of {spec.view_name}",
                found=f"{field} {found!r} in its manifest",
                expected=f"{field} {declared!r}, as declared",
                remedy=f"Declare {field} {found!r}, or version {spec.version + 1} for the new one.",
            )


def _matches(path: str) -> bool:
    """Return whether a file lies at ``path``, which may be a glob."""
    with duckdb.connect() as connection:
        rows = connection.execute("select count(*) from glob(?)", [path]).fetchone()
    return bool(rows and rows[0])


def _check_lengths(spec: EmbeddingSpec, path: str, limit: str) -> None:
    shortest, longest = _lengths(spec, path, limit)
    if {shortest, longest} - {spec.dim, None}:
        lengths = str(shortest) if shortest == longest else f"{shortest} to {longest}"
        raise SnapshotError(
            f"vectors of {spec.view_name} in {path}",
            found=f"vectors of length {lengths}",
            expected=f"length {spec.dim}, as declared",
            remedy="Correct the dim in the declaration, or write the vectors again.",
        )


def _lengths(spec: EmbeddingSpec, path: str, limit: str) -> tuple[int | None, int | None]:
    """Return the least and greatest length of the vectors; None of no vectors at all."""
    columns = (spec.join_key, "event_timestamp", "created_timestamp")
    keys = ", ".join(_quoted(column) for column in columns)
    # Without the cast a column of text would have lengths as well.
    vector = f"cast({VECTOR_COLUMN} as float[]) as vector"
    sample = f"select {vector}, {keys} from read_parquet(?) {limit}"
    query = f"select min(len(vector)), max(len(vector)) from ({sample})"
    try:
        with duckdb.connect() as connection:
            row = connection.execute(query, [path]).fetchone()
    except duckdb.Error as error:
        raise SnapshotError(
            f"vectors of {spec.view_name} in {path}",
            found=str(error).splitlines()[0],
            expected=f"Parquet with the columns {', '.join(columns)} and {VECTOR_COLUMN} (floats)",
            remedy="Write the file again, or correct the path in the declaration.",
        ) from None
    return (row[0], row[1]) if row else (None, None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
