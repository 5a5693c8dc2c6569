"""Where true links rank among all candidates, those known to be true set aside.

For each link (h, r, t) its tail is ranked among all entities that may be a tail, and its head among
all that may be a head; other entities that are known to make a true link are not counted (Bordes et
al. 2013, the filtered setting). A batch is scored by one matrix product and compared with the true
scores as it is; what the filter sets aside is then subtracted by its index, so that no mask over
all candidates is ever built.

One rule holds for what was not trained on: a link with an unseen head, relation or tail scores
minus infinity. An unseen answer so comes last, level with the other unseen ones, and of an unseen
question all answers are level; what is level is judged by expectation (rank_figures.py).

Legend of shapes: L links, B links of a batch, U questions of a batch, n candidates, K known links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from provender.plugin.errors import TrainingError
from provender.producers.kg_data import Links, Size

End = Literal["head", "tail"]
#: Scores held at once, at most; few enough to stay near the processor.
SCORES = 2**22
T = TypeVar("T")


#: One relation's scorer: the end that is looked for and seen entities (U,) at the other end, to
#: scores (U, n) of all seen candidates, on any device; greater is more likely.
RelationScorer = Callable[[End, Tensor], Tensor]
#: A relation to its scorer, None for an unseen one; asked once for each relation of a ranking.
Scorer = Callable[[int], RelationScorer | None]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Of L links: how many others score `above`, and how many are `level`, oneself included.

    Both int64 (L,), on the CPU, in the order of the links.
    """

    above: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.above)

    def at(self, where: Tensor) -> Ranks:
        """Those at positions, or where a mask is true."""
        return Ranks(self.above[where], self.level[where])


@dataclass(frozen=True, eq=False)
class Filter:
    """Which end is the `answer`, how many there are of what is asked and answered, what is known.

    `codes`: the known links, each as one number, sorted by relation, then asked, then answer.
    """

    answer: End
    asked: Size
    answers: Size
    codes: Tensor

    @classmethod
    def of(cls, known: Sequence[Links], answer: End, *, heads: Size, tails: Size) -> Filter:
        """Index the links that are to be set aside when an `answer` is looked for."""
        asked, answers = _turned(answer, heads, tails)
        empty = cls(answer, asked, answers, torch.zeros(0, dtype=torch.int64))
        codes = [
            empty._code(each.relation, *_turned(answer, each.head, each.tail)) for each in known
        ]
        return cls(answer, asked, answers, torch.cat([empty.codes, *codes]).unique())

    def answers_to(self, relation: int, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Known answers to questions (B,): each one's place among the questions, and it: (K,)."""
        number = torch.full_like(asked, relation)
        start = torch.searchsorted(self.codes, self._code(number, asked, 0))
        counts = torch.searchsorted(self.codes, self._code(number, asked + 1, 0)) - start
        place = torch.repeat_interleave(counts)
        within = torch.arange(len(place)) - (counts.cumsum(0) - counts)[place]
        return place, self.codes[start[place] + within] % self.answers.known

    def _code(self, relation: Tensor, asked: Tensor, answer: Tensor | int) -> Tensor:
        return (relation * self.asked.known + asked) * self.answers.known + answer


def rank_links(links: Links, scorer: Scorer, filters: Sequence[Filter]) -> list[Ranks]:
    """Rank each filter's end of every link among all candidates that it does not set aside.

    A link's own answer is never set aside. Raises TrainingError for scores that are no numbers.
    """
    ranks = [Ranks(torch.zeros_like(links.head), torch.zeros_like(links.head)) for _ in filters]
    for relation, where in _by_relation(links.relation):
        one = scorer(relation)
        for aside, whole in zip(filters, ranks, strict=True):
            _rank(links.at(where), where, relation, one, aside, whole)
    return ranks


def _rank(
    links: Links,
    where: Tensor,
    relation: int,
    one: RelationScorer | None,
    aside: Filter,
    ranks: Ranks,
) -> None:
    """Rank the links of one relation, and write at `where` of `ranks` what comes out."""
    asked, answers = _turned(aside.answer, links.head, links.tail)
    answered = (asked < aside.asked.seen) & (one is not None)
    scored = answered & (answers < aside.answers.seen)
    for batch in _batches(scored, asked, aside):
        if one is None:
            break  # And then nothing is scored.
        questions, row = asked[batch].unique_consecutive(return_inverse=True)
        place, known = _others(relation, asked[batch], answers[batch], aside)
        counts = _counts(one(aside.answer, questions), row, answers[batch], place, known)
        ranks.above[where[batch]], ranks.level[where[batch]] = counts
    for batch in _batches(~scored, asked, aside):
        place, known = _others(relation, asked[batch], answers[batch], aside)
        counts = _unscored(answered[batch], place, known, aside.answers)
        ranks.above[where[batch]], ranks.level[where[batch]] = counts


def _batches(chosen: Tensor, asked: Tensor, aside: Filter) -> Iterator[Tensor]:
    """Positions where `chosen` (L,) is true, few at a time, equal questions side by side."""
    positions = chosen.nonzero()[:, 0]
    positions = positions[asked[positions].argsort()]
    return (each for each in positions.split(max(1, SCORES // aside.answers.known)) if len(each))


def _others(relation: int, asked: Tensor, own: Tensor, aside: Filter) -> tuple[Tensor, Tensor]:
    """Known answers (K,) other than one's own, and the place of their question."""
    place, known = aside.answers_to(relation, asked)
    others = known != own[place]
    return place[others], known[others]


def _counts(
    scores: Tensor, row: Tensor, true: Tensor, place: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Above and level (B,) of the answers `true` (B,) by the scores (n,) at their `row` (B,).

    `known` (K,) are set aside, each for the link at its `place` (K,); unseen ones have no score.
    """
    place, known = place[known < scores.shape[1]], known[known < scores.shape[1]]
    row, true, place, known = (each.to(scores.device) for each in (row, true, place, known))
    own = scores[row, true]
    if bool(own.isnan().any()):
        raise TrainingError(
            "ranking",
            found="scores that are no numbers",
            expected="numbers",
            remedy="Lower learning_rate or score_scale.",
        )
    set_aside = scores[row[place], known]
    rivals = scores if len(scores) == len(row) else scores.index_select(0, row)  # (B, n)
    flags = torch.empty_like(rivals)  # As floats they are summed far faster than as bool.
    whole = torch.float64 if rivals.shape[1] > 2**24 else torch.float32
    counts = []
    for compare in (torch.gt, torch.eq):
        compare(rivals, own.unsqueeze(1), out=flags)
        less = place[compare(set_aside, own[place])].bincount(minlength=len(row))
        counts.append((flags.sum(1, dtype=whole).long() - less).cpu())
    return counts[0], counts[1]


def _unscored(answered: Tensor, place: Tensor, known: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Above and level (B,) of links that score minus infinity, by counting.

    Where the question is `answered` (B,), every seen candidate is above and the unseen ones are
    level; where it is not, all are level.
    """
    seen = size.seen - place[known < size.seen].bincount(minlength=len(answered))
    others = size.known - size.seen
    unseen = others - place[known >= size.seen].bincount(minlength=len(answered))
    return seen.where(answered, 0), unseen.where(answered, seen + unseen)


def _by_relation(relation: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each relation with the positions of its links."""
    order = relation.argsort(stable=True)
    relations, counts = relation[order].unique_consecutive(return_counts=True)
    yield from zip(relations.tolist(), order.split(counts.tolist()), strict=True)


def _turned(answer: End, head: T, tail: T) -> tuple[T, T]:
    """What is asked, then what is looked for."""
    return (head, tail) if answer == "tail" else (tail, head)
