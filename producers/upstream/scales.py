"""How a number becomes one that a network can take: fitted once, then the same for a version.

What is missing (NaN or infinite) becomes 0, the middle of every scale but `none`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import ndtri

Numbers = NDArray[np.float32]
Kind = Literal["quantile", "log", "standard", "none"]
#: Quantiles that are kept, ends included.
KNOTS = 256


class _Fitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QuantileScale(_Fitted):
    """To a standard normal distribution by quantiles, linear between `knots`, which ascend."""

    kind: Literal["quantile"] = "quantile"
    knots: tuple[float, ...]
    normals: tuple[float, ...]

    def apply(self, values: Numbers) -> Numbers:
        """Scaled values, float32 of the same shape."""
        return _filled(np.interp(values, self.knots, self.normals), values)


class LinearScale(_Fitted):
    """Less the mean, by the deviation; of `log` after log(1 + |x|) with the sign of x."""

    kind: Literal["log", "standard", "none"]
    mean: float = 0.0
    deviation: float = 1.0

    def apply(self, values: Numbers) -> Numbers:
        """Scaled values, float32 of the same shape."""
        known = _logged(values) if self.kind == "log" else values
        with np.errstate(invalid="ignore"):
            return _filled((known - self.mean) / self.deviation, values)


Scale = Annotated[QuantileScale | LinearScale, Field(discriminator="kind")]


def fit_scale(kind: Kind, values: Numbers) -> QuantileScale | LinearScale:
    """The scale of some values (n,), those that are missing left out; of none at all 0 stays 0."""
    known = values[np.isfinite(values)].astype(np.float64)
    if kind == "none" or not len(known):
        return LinearScale(kind="none")
    if kind == "quantile":
        return _quantiles(known)
    if kind == "log":
        known = _logged(known)
    deviation = float(known.std())
    # Of a constant only rounding is left to divide by.
    constant = deviation <= 1e-6 * max(1.0, float(np.abs(known).max()))
    return LinearScale(
        kind=kind, mean=float(known.mean()), deviation=1.0 if constant else deviation
    )


def _quantiles(known: NDArray[np.float64]) -> QuantileScale:
    """Knots at even quantiles; of equal ones, as of counts, the middle of their quantiles."""
    shares = (np.arange(KNOTS) + 0.5) / KNOTS
    knots, first, count = np.unique(
        np.quantile(known, shares), return_index=True, return_counts=True
    )
    middle = (shares[first] + shares[first + count - 1]) / 2
    return QuantileScale(knots=tuple(knots.tolist()), normals=tuple(ndtri(middle).tolist()))


def _logged(values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _filled(scaled: NDArray[Any], values: Numbers) -> Numbers:
    return np.where(np.isfinite(values), scaled, 0).astype(np.float32)
