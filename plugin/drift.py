"""Drift: how far a refresh has moved from the former one of the same view.

What learned from the former vectors reads the new ones in their place. It can as long as the same
entities point in much the same direction, are still there, are about as long, and have the same
entities near them. NumPy and Arrow only: no Feast, no torch.

Legend of shapes: n former rows, m new rows, c common rows, b of them compared, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from provender.plugin.errors import DriftError
from provender.plugin.gates import DriftGates

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Rows that are compared at once, and queries whose neighbours are looked for at once.
_ROWS, _QUERIES = 65_536, 128


@dataclass(frozen=True)
class Drift:
    """What has changed. None where there is nothing to measure it by.

    Attributes:
        former: rows of the former refresh.
        rows: rows of this one.
        common: entities in both.
        coverage: share of the former entities that are kept.
        added: share of this refresh's entities that are new.
        cosine_mean: mean cosine between an entity's former and new vector. A zero vector has the
            cosine 0 with any other, and 1 with a zero vector: it has not moved.
        cosine_p05: the cosine that one entity in twenty is below.
        norm_ratio: mean length of the common entities' vectors, new by former.
        neighbours_changed: mean share of an entity's nearest neighbours, by cosine and among the
            common entities, that are others now. A rotation of the space does not show in it.
    """

    former: int
    rows: int
    common: int
    coverage: float
    added: float
    cosine_mean: float | None
    cosine_p05: float | None
    norm_ratio: float | None
    neighbours_changed: float | None

    def metrics(self) -> dict[str, float | None]:
        """The measures under the names they have in a manifest, such as `drift/cosine_mean`."""
        counts = ("former", "rows", "common")
        return {f"drift/{name}": v for name, v in asdict(self).items() if name not in counts}


def drift(
    former_keys: pa.Array[Any],
    former_vectors: Vectors,
    keys: pa.Array[Any],
    vectors: Vectors,
    *,
    sample: int = 1_000,
    neighbours: int = 10,
    base: int = 100_000,
    seed: int = 0,
) -> Drift:
    """Measure how far two refreshes are apart.

    Args:
        former_keys: int64 or string (n,), each key once.
        former_vectors: float32 (n, dim).
        keys: (m,) of the same type.
        vectors: float32 (m, dim).
        sample: entities, drawn by `seed`, whose neighbours are compared.
        neighbours: how many of each; one fewer than there are entities at most.
        base: common entities, drawn likewise, among which neighbours are looked for.
        seed: of the draws.

    Raises DriftError where the two can't be compared: other key types or dims.
    """
    _check_alike(former_keys, former_vectors, keys, vectors)
    position = pc.index_in(former_keys, value_set=keys)
    kept = np.flatnonzero(np.asarray(position.is_valid()))  # (c,) rows of the former
    now = position.drop_null().to_numpy().astype(np.int64)  # (c,) their rows of the new
    cosines, lengths, former_lengths = _compare(former_vectors, kept, vectors, now)
    common = len(kept)
    return Drift(
        former=len(former_keys),
        rows=len(keys),
        common=common,
        coverage=common / len(former_keys) if len(former_keys) else 1.0,
        added=1 - common / len(keys) if len(keys) else 0.0,
        cosine_mean=float(cosines.mean()) if common else None,
        cosine_p05=float(np.quantile(cosines, 0.05)) if common else None,
        norm_ratio=_ratio(lengths, former_lengths) if common else None,
        neighbours_changed=_neighbours_changed(
            lambda drawn: (former_vectors[kept[drawn]], vectors[now[drawn]]),
            common,
            sample=sample,
            neighbours=neighbours,
            base=base,
            seed=seed,
        ),
    )


def check_drift(view: str, found: Drift, gates: DriftGates) -> None:
    """Raise DriftError where a measure is beyond its gate, naming each that is."""
    measures = [
        ("mean cosine", found.cosine_mean, "at least", gates.cosine),
        ("coverage", found.coverage, "at least", gates.coverage),
        ("neighbours changed", found.neighbours_changed, "at most", gates.neighbours),
        ("norm ratio", found.norm_ratio, "at most", gates.norm),
        ("norm ratio", found.norm_ratio, "at least", 1 / gates.norm),
    ]
    beyond = [
        (name, value, side, gate)
        for name, value, side, gate in measures
        if value is not None and (value < gate if side == "at least" else value > gate)
    ]
    if beyond:
        raise DriftError(
            f"refresh of {view}",
            found=", ".join(f"{name} {value:.3f}" for name, value, _, _ in beyond),
            expected=", ".join(f"{name} {side} {gate:.3g}" for name, _, side, gate in beyond),
            remedy="What learned from the former vectors may not read these: declare a new "
            "version, or have them published with --force --reason TEXT; the gates are in "
            "releases.yaml.",
        )


def _check_alike(
    former_keys: pa.Array[Any], former_vectors: Vectors, keys: pa.Array[Any], vectors: Vectors
) -> None:
    found, expected = (
        f"{each_keys.type} keys and vectors of shape {each.shape}"
        for each_keys, each in ((keys, vectors), (former_keys, former_vectors))
    )
    shapes = ((len(keys), former_vectors.shape[-1]), (len(former_keys), vectors.shape[-1]))
    if keys.type != former_keys.type or (vectors.shape, former_vectors.shape) != shapes:
        raise DriftError(
            "two refreshes to compare",
            found=found,
            expected=f"a vector a key, of the key type and dim of the former: {expected}",
            remedy="Compare refreshes of one view; another dim or key needs a new version.",
        )


def _compare(
    former: Vectors, kept: Ints, vectors: Vectors, now: Ints
) -> tuple[Floats, Floats, Floats]:
    """Cosines, new lengths and former lengths (c,) of the common rows, a block at a time."""
    cosines, lengths, former_lengths = (np.empty(len(kept)) for _ in range(3))
    for rows in _blocks(len(kept), _ROWS):
        x, y = former[kept[rows]].astype(np.float64), vectors[now[rows]].astype(np.float64)
        former_lengths[rows] = a = np.linalg.norm(x, axis=1)
        lengths[rows] = b = np.linalg.norm(y, axis=1)
        # Divided one after the other: the product of two tiny lengths would vanish.
        unit = np.einsum("ij,ij->i", _scaled(x, a), _scaled(y, b))
        cosines[rows] = np.where((a == 0) & (b == 0), 1.0, np.clip(unit, -1, 1))
    return cosines, lengths, former_lengths


def _scaled(rows: Any, lengths: Any) -> Any:
    """The rows at length 1; zero vectors as they are."""
    return rows / np.where(lengths == 0, 1, lengths)[:, None]


def _ratio(lengths: Floats, former: Floats) -> float:
    new, old = float(lengths.mean()), float(former.mean())
    if old == 0:
        return 1.0 if new == 0 else float("inf")
    return new / old


def _neighbours_changed(
    vectors_of: Callable[[Ints], tuple[Vectors, Vectors]],
    common: int,
    *,
    sample: int,
    neighbours: int,
    base: int,
    seed: int,
) -> float | None:
    """Mean of 1 - |A & B| / k over the drawn entities' sets of k nearest, former and new."""
    generator = np.random.default_rng(seed)
    drawn = np.arange(common)
    if common > base:
        drawn = np.sort(generator.choice(common, base, replace=False))
    k = min(neighbours, len(drawn) - 1)
    if k < 1 or sample < 1:
        return None
    queries = np.arange(len(drawn))
    if len(drawn) > sample:
        queries = np.sort(generator.choice(len(drawn), sample, replace=False))
    sides = [_scaled(side, np.linalg.norm(side, axis=1)) for side in vectors_of(drawn)]  # 2 (b, d)
    kept = 0
    for rows in _blocks(len(queries), _QUERIES):
        one, other = (_nearest(side, queries[rows], k) for side in sides)
        kept += sum(len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True))
    return 1 - kept / (k * len(queries))


def _nearest(rows: Vectors, queries: Ints, k: int) -> Ints:
    """The k nearest rows of each query (q,) but itself, by cosine, in no order: (q, k)."""
    cosine = rows[queries] @ rows.T  # (q, b)
    cosine[np.arange(len(queries)), queries] = -np.inf
    return np.argpartition(-cosine, k - 1, axis=1)[:, :k]


def _blocks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))
