"""Ids of what files name: the seen ones first, types apart, the unseen counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from provender.plugin.errors import ConfigError, SourceError
from provender.producers.kg_data import Links, LinkSets, Size, number_links
from provender.producers.kg_files import NamedLinks
from provender.producers.transra_config import TransRAConfig

CONFIG = TransRAConfig(anchor_relation=None, degree_cap=None)


def named(rows: Sequence[tuple[str, ...]], name: str = "file.tsv") -> NamedLinks:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return NamedLinks(
        Path(name), columns[0], columns[1] if len(columns) == 3 else None, columns[-1]
    )


def _names(sets: LinkSets, links: Links) -> list[tuple[str, str, str]]:
    one = sets.relations[0]
    heads, tails = sets.keys[one.head].to_pylist(), sets.keys[one.tail].to_pylist()
    ids = zip(links.head.tolist(), links.relation.tolist(), links.tail.tolist(), strict=True)
    return [(heads[h], sets.relations[r].name, tails[t]) for h, r, t in ids]


TRAIN = [("c", "r", "a"), ("a", "r", "b"), ("b", "p", "a")]
VALID = [("a", "r", "z"), ("b", "q", "c")]
TEST = [("y", "r", "a"), ("c", "p", "b"), ("z", "q", "y")]


def test_ids_stand_for_the_names_and_training_comes_first() -> None:
    sets = number_links([named(TRAIN), named(VALID), named(TEST)])
    assert sets.valid is not None
    assert [_names(sets, each) for each in (sets.train, sets.valid, sets.test)] == [
        TRAIN,
        VALID,
        TEST,
    ]
    assert sets.keys["entity"].to_pylist() == ["a", "b", "c", "y", "z"]
    assert [one.name for one in sets.relations] == ["p", "r", "q"]
    assert (sets.size("head"), sets.seen_relations, sets.kind) == (Size(3, 5), 2, "kg")
    assert sets.unseen(sets.valid) == {"entities": 1, "relations": 1, "links": 2}
    assert sets.unseen(sets.test) == {"entities": 2, "relations": 1, "links": 2}


def test_the_graph_holds_what_training_has() -> None:
    sets = number_links([named([*TRAIN, TRAIN[0]]), named(TEST)])
    graph = sets.graph(CONFIG)
    assert [one.name for one in graph.relations] == ["p", "r"]
    assert graph.keys["entity"].to_pylist() == ["a", "b", "c"]
    edges = zip(
        graph.relation.tolist(),
        graph.head.tolist(),
        graph.tail.tolist(),
        graph.weight.tolist(),
        strict=True,
    )
    assert list(edges) == [(0, 1, 0, 1.0), (1, 0, 1, 1.0), (1, 2, 0, 2.0)]


def test_a_user_5_is_no_item_5_unless_it_is_said() -> None:
    files = [named([("5", "5"), ("5", "7"), ("6", "5")]), named([("6", "8"), ("9", "5")])]
    two = number_links(files)
    assert {entity: keys.to_pylist() for entity, keys in two.keys.items()} == {
        "head": ["5", "6", "9"],
        "tail": ["5", "7", "8"],
    }
    assert (two.kind, two.ranked, two.relations[0].name) == ("interactions", 0, "link")
    assert two.unseen(two.test) == {"entities": 2, "relations": 0, "links": 2}
    assert two.graph(CONFIG).counts == {"head": 2, "tail": 2}
    one = number_links(files, relation="click", one_type=True)
    assert one.keys["entity"].to_pylist() == ["5", "6", "7", "8", "9"]
    assert one.relations[0].name == "click"


def test_a_relation_of_three_columns_is_picked() -> None:
    sets = number_links([named(TRAIN), named(TEST)], relation="p")
    assert (sets.kind, sets.relations[sets.ranked or 0].name, sets.valid) == (
        "interactions",
        "p",
        None,
    )
    apart = number_links([named(TRAIN), named(TEST)], relation="p", one_type=False)
    assert apart.keys["head"].to_pylist() == ["a", "b", "c", "y", "z"]
    assert apart.keys["tail"].to_pylist() == ["a", "b", "y"]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(SourceError, match=r"test\.tsv: found 2 columns; expected 3"):
        number_links([named(TRAIN), named([("a", "b")], "test.tsv")])
    with pytest.raises(ConfigError, match="relation: found 'q'; expected one of p, r"):
        number_links([named(TRAIN), named(TEST)], relation="q")
    with pytest.raises(SourceError, match=r"valid\.tsv: found no link of 'p'"):
        number_links([named(TRAIN), named(VALID, "valid.tsv"), named(TEST)], relation="p")
