"""Parting impressions by time, and by time alone: there is no random split here.

    split = split_by_time(world)
    training = load_impressions(world, data, *split.training, split.known, work)

Rows of one moment share users, pins and what was going on; a random part of them knows what the
others will be asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from provender.consumers.ranking_task import RankingTask
from provender.plugin.errors import ConfigError
from provender.plugin.world import World


class Span(NamedTuple):
    """The times from `start` on and before `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class TimeSplit:
    """Three spans, each after the one before it.

    Attributes:
        training: to learn from.
        held_back: to stop by and to calibrate on; the evaluation is never looked at for that.
        evaluation: what no refresh and no ranker has seen.
        known: when the ranker is trained: what comes from then on labels neither of the first two.
    """

    training: Span
    held_back: Span
    evaluation: Span
    known: datetime


def split_by_time(world: World, *, held_back: float = 0.1) -> TimeSplit:
    """Part the times of a world, from its first refresh to the end of its evaluation.

    Impressions too young for the label of any task are in none of the spans: if every label drops
    them, that is what lies within the shortest window before the last refresh.

    Args:
        held_back: share of the time before the last refresh that is held back, its end.

    Raises ConfigError for a share that leaves nothing on one side.
    """
    first = world.dates.as_ofs()[0]
    last, end = world.dates.evaluation()
    labels = RankingTask.of_world(world).labels.declared().values()
    young = min(timedelta(0) if one.immature == "weigh" else one.within for one in labels)
    until = last - young
    if not 0 < held_back < 1 or first >= until:
        raise ConfigError(
            "split by time",
            found=f"{held_back} of {first} to {until} to hold back",
            expected="a share between 0 and 1 of a span in which labels are known",
            remedy="Correct it, shorten the labels' windows, or declare more refreshes.",
        )
    cut = first + (1 - held_back) * (until - first)
    return TimeSplit(Span(first, cut), Span(cut, until), Span(last, end), last)
