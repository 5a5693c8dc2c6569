"""What rows count whose conversion may still come: importance weights for delayed feedback.

A row is shown, converts within the window with probability p, and does so after a delay with the
distribution F. When only a time e has passed, a conversion has been seen with probability p F(e).
Learning from what was seen as if it were the truth teaches p F(e), which is too little (Chapelle
2014). Weights make up for the shift between the two (Yasui et al. 2020, feedback shift importance
weighting, eq. 4): the probability of the true label over that of the seen one,

    seen positive:  p / (p F)             = 1 / F
    seen negative:  (1 - p) / (1 - p F)   = 1 - p (1 - F) / (1 - p F)

so that for every loss l, with y the truth and s what was seen,

    E[w l(s)] = p F (1 / F) l(1) + (1 - p F) (1 - p) / (1 - p F) l(0) = p l(1) + (1 - p) l(0)
              = E[l(y)].

F and p are those of the mature rows: F the empirical distribution of the delays of their positives
and p their rate. As p is one number for all rows, the expectation is exact over all rows of an age,
and near for each kind of them where conversions are rare (the weight of negatives is near 1 then).
That delays do not hang on who converts is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Rows so young that fewer of their conversions than this would have been seen say nothing: their
#: positives would count more than ten times. They are left out by their age, whatever their label,
#: which biases nothing.
LEAST_SEEN = 0.1


@dataclass(frozen=True)
class DelayDistribution:
    """How long positives took, and how many of the mature rows became positive.

    Attributes:
        delays: (n,) microseconds from impression to event of the mature positives, ascending.
        rate: p, the share of positives among the mature rows.
    """

    delays: Ints
    rate: float

    @classmethod
    def of(cls, delays: Ints, mature_rows: int) -> DelayDistribution:
        """From the delays of the mature positives, in any order, and the number of mature rows."""
        return cls(np.sort(delays), len(delays) / mature_rows if mature_rows else 0.0)

    def seen(self, elapsed: Ints) -> Floats:
        """F: the share of positives that were seen before so many microseconds had passed.

        Without any mature positive nothing is known of delays, and it is 0.
        """
        before = np.searchsorted(self.delays, elapsed, side="left")
        return before / max(len(self.delays), 1)

    def weights(self, labels: NDArray[np.bool_], elapsed: Ints) -> Floats:
        """What each row counts: 0 where less than LEAST_SEEN of the positives would be seen.

        Args:
            labels: (n,) whether the event has been seen.
            elapsed: (n,) microseconds from the impression to what was observed last.
        """
        share = self.seen(elapsed)
        known = share >= LEAST_SEEN
        share = np.where(known, share, 1.0)
        unseen = 1 - self.rate * share
        negative = np.divide(1 - self.rate, unseen, out=np.zeros_like(unseen), where=unseen > 0)
        return np.where(known, np.where(labels, 1 / share, negative), 0.0)
