"""The rankers that a study compares: the same network, each with more of what embeddings offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from provender.consumers.ranker_config import Vectors

#: What rows of ID tables begin as; `residual` ones begin as zeros and correct frozen vectors.
Start = Literal["nothing", "snapshot", "residual"]

NONE, FROZEN, SCRATCH, SNAPSHOT, ATTENTION = (
    "no embeddings",
    "frozen",
    "ID table from scratch",
    "ID table from snapshot",
    "attention finetuning",
)
_LESS_PAST, _LESS_TABLE, _LESS_HEAD = (
    f"{ATTENTION}, less the past",
    f"{ATTENTION}, less the ID table",
    f"{ATTENTION}, less the attention",
)


class Variant(BaseModel):
    """One way to use embeddings.

    Attributes:
        name: as it stands in tables.
        vectors: how frozen vectors come in (RankerConfig.vectors).
        families: whose vectors; none for none.
        tables: what rows of users and pins begin as; None for no table.
        history: whether the user's last actions are seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    vectors: Vectors
    families: tuple[str, ...] = ()
    tables: Start | None = None
    history: bool = False


class Question(NamedTuple):
    """Whether one variant is better than another: the two names."""

    better: str
    than: str


def variants_of(families: Sequence[str], *, history: bool) -> list[Variant]:
    """Return the variants that can be had.

    Args:
        families: those whose vectors there are, in the order in which they are shown.
        history: whether the world says what users did.
    """
    every = tuple(families)
    found = [
        Variant(name=NONE, vectors="none"),
        Variant(name=FROZEN, vectors="concat", families=every),
        Variant(name=SCRATCH, vectors="none", tables="nothing"),
        Variant(name=SNAPSHOT, vectors="none", tables="snapshot"),
        Variant(
            name=ATTENTION, vectors="attention", families=every, tables="residual", history=history
        ),
    ]
    if len(every) > 1:
        found += [
            Variant(name=alone(each), vectors="concat", families=(each,)) for each in families
        ]
    found.append(Variant(name=_LESS_TABLE, vectors="attention", families=every, history=history))
    if history:
        found += [
            Variant(name=_LESS_PAST, vectors="attention", families=every, tables="residual"),
            Variant(
                name=_LESS_HEAD,
                vectors="concat",
                families=every,
                tables="snapshot",
                history=True,
            ),
        ]
    return found


def alone(family: str) -> str:
    """Return the name of the variant with the frozen vectors of one family."""
    return f"{FROZEN}, {family} alone"


def questions(variants: Sequence[Variant]) -> list[Question]:
    """Return what is asked of some variants: the paper's order first, then each part's worth."""
    asked = [
        Question(FROZEN, NONE),
        Question(SNAPSHOT, SCRATCH),
        Question(ATTENTION, FROZEN),
        Question(ATTENTION, NONE),
        *(Question(one.name, NONE) for one in variants if one.name.startswith(f"{FROZEN}, ")),
        *(Question(ATTENTION, less) for less in (_LESS_TABLE, _LESS_PAST, _LESS_HEAD)),
    ]
    there = {one.name for one in variants}
    return [one for one in asked if {one.better, one.than} <= there]
