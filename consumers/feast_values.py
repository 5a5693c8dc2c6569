"""Feast's protobuf answers as arrays, for online stores that give nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

from provender.plugin.errors import FetchError
from provender.plugin.online_rows import microseconds_of

Answer = GetOnlineFeaturesResponse.FeatureVector


def vectors_of(
    values: Iterable[Any], dim: int, view: str
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Decode Feast's values of an Array(Float32) feature, where null is an unset value.

    A FloatList's bytes end in its floats, packed as little-endian, by protobuf's encoding of
    packed repeated fields; reading them so takes half the time of going through Python floats.
    """
    packed: list[bytes] = []
    found: list[bool] = []
    for value in values:
        kind = value.WhichOneof("val")
        if kind not in (None, "float_list_val") or (kind and len(value.float_list_val.val) != dim):
            raise FetchError(
                f"embedding view {view}",
                found=f"an online value of type {kind}, or of another length",
                expected=f"{dim} floats",
                remedy="Materialize the view again.",
            )
        found.append(kind is not None)
        if kind is not None:
            packed.append(value.float_list_val.SerializeToString()[-4 * dim :])
    present = np.array(found, dtype=np.bool_)
    vectors = np.zeros((len(found), dim), dtype=np.float32)
    vectors[present] = np.frombuffer(b"".join(packed), dtype="<f4").reshape(-1, dim)
    return vectors, present


def numbers_of(
    values: Iterable[Any],
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Decode Feast's values of a number as (n,) float64 and what is not null, bool (n,)."""
    kinds = [(value, value.WhichOneof("val")) for value in values]
    numbers = [0.0 if kind is None else float(getattr(value, kind)) for value, kind in kinds]
    return np.array(numbers), np.array([kind is not None for _, kind in kinds], dtype=np.bool_)


def ages_of(answer: Answer, instant: datetime) -> npt.NDArray[np.int64]:
    """Microseconds from each value's event time to the request."""
    stamps = [time.seconds * 1_000_000 + time.nanos // 1000 for time in answer.event_timestamps]
    return microseconds_of(instant) - np.array(stamps, dtype=np.int64)
