"""How well the former refresh has placed pages for the pairs that became known since.

So each refresh is judged by what nobody knew when it was made; its figures stand in the manifest of
the next one, as those of TransRA do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from provender.producers.linksage.page_evaluation import rows_of
from provender.producers.linksage.page_tables import PageSet
from provender.producers.linksage.quality import POPULARITY, Quality, judge
from provender.producers.pin_ranking import Pairs, popularity
from provender.producers.vectors import Vectors

#: With fewer new pairs a recall is no figure.
FEWEST = 20


def quality_since(
    former: PageSet, now: PageSet, pages: Vectors, pins: Vectors, dims: Sequence[int]
) -> Quality | None:
    """Judge a former refresh's pages by the pairs that it did not know; None with too few.

    Args:
        former: what it was made from.
        now: what is known by now.
        pages: its vectors.
        pins: vectors of the pins of now, in the same space: all of them are candidates.
        dims: nested dims to judge too.
    """
    known, found = (_pairs(each, pages, pins) for each in (former, now))
    codes = [each.rows * len(pins.keys) + each.pins for each in (known, found)]
    news = np.setdiff1d(codes[1], codes[0])
    if len(news) < FEWEST:
        return None
    test = Pairs(news // len(pins.keys), news % len(pins.keys))
    ranked = {POPULARITY: popularity(known, len(pins.keys))}
    return judge(pages.vectors, pins.vectors, test, known, dims, baselines=ranked)


def _pairs(rows: PageSet, pages: Vectors, pins: Vectors) -> Pairs:
    """The pairs of pages and pins that have vectors, as rows of these."""
    table = pq.read_table(rows.pairs, columns=["page", "pin"])
    both = [rows_of(table[n], v.keys) for n, v in (("page", pages), ("pin", pins))]
    there = (both[0] >= 0) & (both[1] >= 0)
    return Pairs(both[0][there], both[1][there])
