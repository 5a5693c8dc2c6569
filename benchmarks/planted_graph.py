"""Knowledge graphs with a known answer, and large ones with a power law, from a seed.

    python benchmarks/planted_graph.py --out /tmp/planted --entities 20000 --triples 200000
    python benchmarks/planted_graph.py --out /tmp/large --kind power_law --entities 200000

Every relation leads from one type of entity (users, say) to the other (pins): TransR can't
represent permutations in closed cycles, and an ads graph has none. Written are `train.npy`,
`valid.npy` and `test.npy`, int64 (E, 3) of head, relation and tail, and `graph.json`. Heads are the
entities from 0 on, tails those from `heads` on. Of a planted graph, `truth.npz` is the model
that drew it, whose filtered MRR is what can be reached.

Legend of shapes: E triples, H heads, T tails, R relations, d hidden dims, k of them seen.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
#: Scores held at once, at most.
_SCORES = 2**24


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Triples int64 (E, 3) of head, relation, tail, each once; none of `valid` and `test` is new.

    `truth` scores tail t by left[r, h] . right[r, t]: (R, H, k + 1) and (R, T, k + 1).
    """

    heads: int
    tails: int
    relations: int
    train: Ints
    valid: Ints
    test: Ints
    truth: dict[str, Floats] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the graph into a folder, as the peers read it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train", "valid", "test"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        if self.truth:
            np.savez(folder / "truth.npz", **self.truth)
        sizes = {"heads": self.heads, "tails": self.tails, "relations": self.relations}
        (folder / "graph.json").write_text(json.dumps(sizes) + "\n")


def planted(
    entities: int = 20_000,
    relations: int = 8,
    triples: int = 200_000,
    *,
    seed: int = 0,
    hidden: int = 16,
    seen: int = 8,
    sharpness: float = 12.0,
    exponent: float = 0.7,
) -> KnowledgeGraph:
    """Draw tails from the softmax of a hidden TransR: sharpness * -|h M_r + r - t M_r|^2 + log p_t.

    Heads are drawn by the power law, p is the tails' own; each relation sees `seen` of the `hidden`
    dims by a projection of its own. A twentieth each is for validation and test, less the triples
    of entities that training would not know.
    """
    generator = np.random.default_rng(seed)
    heads, tails = entities // 2, entities - entities // 2
    vectors = generator.standard_normal((entities, hidden)) / np.sqrt(hidden)
    projections = generator.standard_normal((relations, hidden, seen)) / np.sqrt(seen)
    moves = generator.standard_normal((relations, 1, seen)) / np.sqrt(seen) / 2
    popularity = np.log(power_weights(tails, exponent, generator))
    left = _with_column(vectors[:heads] @ projections + moves, 1.0)
    ends = vectors[heads:] @ projections
    bias = popularity - sharpness * np.square(ends).sum(-1)
    right = _with_column(2 * sharpness * ends, bias[..., None])

    def tails_of(relation: int, of: Ints) -> Ints:
        return heads + _drawn(left[relation][of], right[relation], generator)

    found = _distinct(heads, relations, triples, exponent, generator, tails_of)
    parts = _split(found, heads + tails, len(found) // 20, generator)
    return KnowledgeGraph(heads, tails, relations, *parts, {"left": left, "right": right})


def power_law(
    entities: int = 200_000,
    relations: int = 8,
    triples: int = 2_000_000,
    *,
    seed: int = 0,
    exponent: float = 0.7,
) -> KnowledgeGraph:
    """Draw heads and tails by power laws, independently: nothing to learn, all to compute."""
    generator = np.random.default_rng(seed)
    heads, tails = entities // 2, entities - entities // 2
    weights = power_weights(tails, exponent, generator)

    def tails_of(relation: int, of: Ints) -> Ints:
        return heads + generator.choice(tails, size=len(of), p=weights)

    found = _distinct(heads, relations, triples, exponent, generator, tails_of)
    return KnowledgeGraph(heads, tails, relations, found, found[:0], found[:0])


def power_weights(
    count: int, exponent: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Probabilities (count,) that fall with the rank to this power, in no order."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return generator.permutation(weights / weights.sum())


def _distinct(heads, relations, triples, exponent, generator, tails_of) -> Ints:
    """So many distinct triples (E, 3), shuffled; relations differ threefold in their number."""
    if triples > heads * heads * relations // 4:
        raise ValueError(f"{2 * heads} entities have too few pairs for {triples} distinct triples")
    by_head = power_weights(heads, exponent, generator)
    by_relation = np.linspace(1.0, 3.0, relations)
    found = np.zeros((0, 3), dtype=np.int64)
    while len(found) < triples:
        count = int(1.2 * (triples - len(found))) + 100
        relation = np.sort(
            generator.choice(relations, size=count, p=by_relation / by_relation.sum())
        )
        head = generator.choice(heads, size=count, p=by_head)
        parts = [tails_of(r, head[relation == r]) for r in range(relations)]
        drawn = np.stack([head, relation, np.concatenate(parts)], axis=1)
        found = np.unique(np.concatenate([found, drawn]), axis=0)
    return generator.permutation(found)[:triples]


def _drawn(left: Floats, right: Floats, generator: np.random.Generator) -> Ints:
    """A column of right (T, k) for each row of left (B, k), by the softmax of their products."""
    batch = max(1, _SCORES // len(right))
    parts = []
    for start in range(0, len(left), batch):
        scores = left[start : start + batch] @ right.T
        chances = np.exp(scores - scores.max(1, keepdims=True)).cumsum(1)
        point = generator.random((len(scores), 1)) * chances[:, -1:]
        parts.append((chances < point).sum(1))
    return np.minimum(np.concatenate(parts), len(right) - 1)


def _split(triples: Ints, entities: int, held: int, generator) -> tuple[Ints, Ints, Ints]:
    """Train, valid and test; a held triple with an entity that training lacks goes back to it."""
    chosen = generator.permutation(triples)
    train = chosen[2 * held :]
    known = np.zeros(entities, dtype=bool)
    known[train[:, [0, 2]]] = True
    fit = known[chosen[: 2 * held, [0, 2]]].all(1)
    train = np.concatenate([train, chosen[: 2 * held][~fit]])
    return train, chosen[:held][fit[:held]], chosen[held : 2 * held][fit[held:]]


def _with_column(vectors, column) -> Floats:
    shape = (*vectors.shape[:-1], 1)
    return np.concatenate([vectors, np.broadcast_to(column, shape)], -1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=["planted", "power_law"], default="planted")
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--relations", type=int, default=8)
    parser.add_argument("--triples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make = planted if given.kind == "planted" else power_law
    graph = make(given.entities, given.relations, given.triples, seed=given.seed)
    graph.write(given.out)
    print(f"{len(graph.train)} train, {len(graph.valid)} valid, {len(graph.test)} test")


if __name__ == "__main__":
    main()
