"""Links for training, validation and test as ids, and the graph that is learned from.

Ids count within an entity type; those of the entities and relations that the training links have
come first, what only valid or test have comes behind them. The graph knows the first alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from provender.plugin.errors import SourceError
from provender.producers.graph import TripleGraph, build_graph, check_relations
from provender.producers.kg_files import NamedLinks, read_links
from provender.producers.transra_config import TransRAConfig

#: The relation of a file that names none, if nobody else names it.
LINK = "link"


@dataclass(frozen=True)
class LinkType:
    """A relation's name and the entity types at its ends."""

    name: str
    head: str
    tail: str


@dataclass(frozen=True, eq=False)
class Links:
    """L links: `head`, `relation` and `tail` int64 (L,), ids within their types."""

    head: Tensor
    relation: Tensor
    tail: Tensor

    def __len__(self) -> int:
        return len(self.head)

    def at(self, where: Tensor) -> Links:
        """Those at positions, or where a mask is true."""
        return Links(self.head[where], self.relation[where], self.tail[where])


@dataclass(frozen=True)
class Size:
    """How many entities there are at one end: `seen` in training, and `known` in any file."""

    seen: int
    known: int


@dataclass(frozen=True, eq=False)
class LinkSets:
    """What was read; `valid` is None where there is none.

    `ranked` is the relation whose links are also ranked head by head, None where there is none.
    """

    train: Links
    valid: Links | None
    test: Links
    relations: tuple[LinkType, ...]
    seen_relations: int
    keys: dict[str, pa.Array[Any]]
    seen: dict[str, int]
    ranked: int | None

    @property
    def kind(self) -> Literal["kg", "interactions"]:
        """What the files hold."""
        return "kg" if self.ranked is None else "interactions"

    @property
    def held_out(self) -> dict[str, Links]:
        """What is predicted, by name: valid, where there is one, and test."""
        return ({} if self.valid is None else {"valid": self.valid}) | {"test": self.test}

    @property
    def all(self) -> list[Links]:
        """Every set of links there is."""
        return [self.train, *self.held_out.values()]

    def size(self, end: Literal["head", "tail"]) -> Size:
        """The number of entities that may stand at an end."""
        entity = getattr(self.relations[0], end)
        return Size(self.seen[entity], len(self.keys[entity]))

    def graph(self, config: TransRAConfig) -> TripleGraph:
        """The training links as a graph; repeated links weigh more, and none has an age."""
        seen = self.relations[: self.seen_relations]
        triples = pa.table(
            {
                "relation": self.train.relation.numpy(),
                "head": self.train.head.numpy(),
                "tail": self.train.tail.numpy(),
                "time": pa.nulls(len(self.train), pa.timestamp("us", tz="UTC")),
                "weight": torch.ones(len(self.train), dtype=torch.float64).numpy(),
            }
        )
        return build_graph(
            triples,
            seen,
            {entity: keys[: self.seen[entity]] for entity, keys in self.keys.items()},
            as_of=datetime(1970, 1, 1, tzinfo=UTC),
            degree_cap=config.degree_cap,
            chosen=config.relations,
            aside=config.aside,
        )

    def unseen(self, links: Links) -> dict[str, int]:
        """How many entities and relations of these links training lacks, and in how many links."""
        head = links.head >= self.size("head").seen
        tail = links.tail >= self.size("tail").seen
        relation = links.relation >= self.seen_relations
        both = [links.head[head], links.tail[tail]]
        if len(self.keys) == 1:
            both = [torch.cat(both)]
        return {
            "entities": sum(len(ids.unique()) for ids in both),
            "relations": len(links.relation[relation].unique()),
            "links": int((head | tail | relation).sum()),
        }


def read_link_sets(
    train: Path,
    valid: Path | None,
    test: Path,
    *,
    relation: str | None = None,
    one_type: bool | None = None,
) -> LinkSets:
    """Read the files and number what they name.

    Files of three columns have one entity type, those of two have two (head and tail), unless
    `one_type` says otherwise. `relation` names that of two-column files, and of three-column files
    the one whose links are ranked head by head.

    Raises SourceError (a file that cannot be read, files with different numbers of columns, no
    link of `relation` to predict) and ConfigError (`relation` is not in the training file).
    """
    files = [read_links(path) for path in (train, valid, test) if path is not None]
    return number_links(files, relation=relation, one_type=one_type)


def number_links(
    files: Sequence[NamedLinks], *, relation: str | None = None, one_type: bool | None = None
) -> LinkSets:
    """The same of files that were read: train, valid where there is one, test."""
    _check_alike(files)
    three = files[0].columns == 3
    one_type = three if one_type is None else one_type
    names, seen_relations = _relations(files, relation)
    if relation is not None:
        check_relations([relation], names[:seen_relations].to_pylist())
    ends = ("entity", "entity") if one_type else ("head", "tail")
    keys, seen = _entities(files, ends)
    links = [_numbered(file, names, [keys[end] for end in ends]) for file in files]
    sets = LinkSets(
        train=links[0],
        valid=links[1] if len(links) == 3 else None,
        test=links[-1],
        relations=tuple(LinkType(name, *ends) for name in names.to_pylist()),
        seen_relations=seen_relations,
        keys=keys,
        seen=seen,
        ranked=None if three and relation is None else names.index(relation or LINK).as_py(),
    )
    _check_ranked(sets, files)
    return sets


def _relations(files: Sequence[NamedLinks], relation: str | None) -> tuple[pa.Array[Any], int]:
    """The names of the relations, and how many of them training has."""
    found = [file.relation for file in files if file.relation is not None]
    if not found:
        return pa.array([relation or LINK]), 1
    seen, unseen = _seen_first(found[:1], found[1:])
    return pa.concat_arrays([seen, unseen]), len(seen)


def _entities(
    files: Sequence[NamedLinks], ends: tuple[str, str]
) -> tuple[dict[str, pa.Array[Any]], dict[str, int]]:
    """The keys of each entity type, and how many of them training has."""
    keys, seen = {}, {}
    for entity in dict.fromkeys(ends):
        here = [
            [each for each, end in zip((file.head, file.tail), ends, strict=True) if end == entity]
            for file in files
        ]
        first, later = _seen_first(here[0], [each for file in here[1:] for each in file])
        keys[entity], seen[entity] = pa.concat_arrays([first, later]), len(first)
    return keys, seen


def _seen_first(
    train: Sequence[pa.Array[Any]], others: Sequence[pa.Array[Any]]
) -> tuple[pa.Array[Any], pa.Array[Any]]:
    """The names in training, and those elsewhere only; each sorted."""
    seen = _sorted(pa.concat_arrays(train))
    if not others:
        return seen, seen[:0]
    other = _sorted(pa.concat_arrays(others))
    return seen, other.filter(pc.invert(pc.is_in(other, value_set=seen)))


def _sorted(names: pa.Array[Any]) -> pa.Array[Any]:
    distinct = names.unique()
    return distinct.take(pc.sort_indices(distinct))


def _numbered(file: NamedLinks, names: pa.Array[Any], keys: Sequence[pa.Array[Any]]) -> Links:
    head, tail = (
        _ids(column, known) for column, known in zip((file.head, file.tail), keys, strict=True)
    )
    relation = torch.zeros_like(head) if file.relation is None else _ids(file.relation, names)
    return Links(head, relation, tail)


def _ids(column: pa.Array[Any], known: pa.Array[Any]) -> Tensor:
    places = pc.index_in(column, value_set=known).to_numpy(zero_copy_only=False)
    return torch.from_numpy(places.astype("int64"))


def _check_alike(files: Sequence[NamedLinks]) -> None:
    for file in files[1:]:
        if file.columns != files[0].columns:
            raise SourceError(
                str(file.path),
                found=f"{file.columns} columns",
                expected=f"{files[0].columns}, as in {files[0].path}",
                remedy="Write all files with two columns or all with three.",
            )


def _check_ranked(sets: LinkSets, files: Sequence[NamedLinks]) -> None:
    """Of the ranked relation there is something to predict in every file that is predicted."""
    if sets.ranked is None:
        return
    for file, links in zip(files[1:], sets.held_out.values(), strict=True):
        if not bool((links.relation == sets.ranked).any()):
            raise SourceError(
                str(file.path),
                found=f"no link of {sets.relations[sets.ranked].name!r}",
                expected="at least one to predict",
                remedy="Name another relation, or leave --relation out.",
            )
