"""Where a request's features come from: provender's own online store, or any other of Feast's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureStore, FeatureView

from provender.consumers.feast_values import Answer, ages_of, numbers_of, vectors_of
from provender.consumers.features import Column, FeatureLayout
from provender.plugin.errors import FetchError
from provender.plugin.online_rows import usable
from provender.plugin.online_store import ProvenderOnlineStore, is_ours
from provender.plugin.online_view import OnlineView
from provender.plugin.spec import VECTOR_COLUMN


class OnlineReader(Protocol):
    """Reads a layout's features by key."""

    def read(
        self, join_key: str, keys: pa.Array, instant: datetime, views: Mapping[str, str]
    ) -> dict[str, Column]:
        """Return the features that hang on one key, by Feast's full names, one row a key.

        Values past their view's ttl at ``instant``, or from later, are missing. Raises FetchError.

        Args:
            join_key: which key of the layout.
            keys: (n,) int64 or string, each once.
            instant: the time of the request.
            views: embedding view of the layout -> the one that is read in its place; its vectors
                are returned under the layout's names.
        """


def online_reader(
    store: FeatureStore, layout: FeatureLayout, online: ProvenderOnlineStore
) -> OnlineReader:
    """Return the reader that fits a feature store's online store, `online` if that is ours."""
    if is_ours(store.config):
        return TensorReader(store, layout, online)
    return FeastReader(store, layout)


class TensorReader:
    """Rows of provender's online store, straight into arrays."""

    def __init__(
        self, store: FeatureStore, layout: FeatureLayout, online: ProvenderOnlineStore
    ) -> None:
        self._store, self._layout, self._online = store, layout, online
        names = {spec.view_name for spec in layout.embeddings} | {f.view for f in layout.dense}
        self._views = {name: store.get_feature_view(name) for name in names}
        self._opened: dict[str, OnlineView] = {}

    def read(
        self, join_key: str, keys: pa.Array, instant: datetime, views: Mapping[str, str]
    ) -> dict[str, Column]:
        """As :class:`OnlineReader`."""
        columns: dict[str, Column] = {}
        for spec in self._layout.embeddings:
            if spec.join_key == join_key:
                read = views.get(spec.view_name, spec.view_name)
                (vectors,) = self._view(read, join_key, keys, [VECTOR_COLUMN], instant).values()
                columns[f"{spec.view_name}__{VECTOR_COLUMN}"] = vectors
        dense = [each for each in self._layout.dense if each.join_key == join_key]
        for view in dict.fromkeys(each.view for each in dense):
            names = [each.name for each in dense if each.view == view]
            columns |= self._view(view, join_key, keys, names, instant)
        return columns

    def _view(
        self, name: str, join_key: str, keys: pa.Array, features: list[str], instant: datetime
    ) -> dict[str, Column]:
        view, opened = self._registered(name)
        asked = {join_key: keys.to_numpy() if pa.types.is_integer(keys.type) else keys}
        rows = self._online.read_columns(self._store.config, opened, asked, features)
        fresh, ages = rows.fresh(view.ttl, instant), rows.ages(instant)
        return {
            f"{name}__{feature}": Column(column.values, column.valid & fresh, ages)
            for feature, column in rows.columns.items()
        }

    def _registered(self, name: str) -> tuple[FeatureView, OnlineView]:
        if name not in self._views:  # Another version than the layout's, met the first time.
            self._views[name] = self._store.get_feature_view(name)
        view = self._views[name]
        known = self._opened.get(name)
        opened = self._opened[name] = self._online.opened(self._store.config, known or view)
        return view, opened


class FeastReader:
    """Feast's public online retrieval, decoded from its protobuf.

    Releases lie beside provender's online tables: here nothing is read in another's place.
    """

    def __init__(self, store: FeatureStore, layout: FeatureLayout) -> None:
        self._store, self._layout = store, layout

    def read(
        self, join_key: str, keys: pa.Array, instant: datetime, views: Mapping[str, str]
    ) -> dict[str, Column]:
        """As :class:`OnlineReader`."""
        answer = self._ask(join_key, keys.to_pylist()) if len(keys) else {}
        columns: dict[str, Column] = {}
        for spec in self._layout.embeddings:
            if spec.join_key == join_key:
                name = f"{spec.view_name}__{VECTOR_COLUMN}"
                found = answer.get(name, Answer())
                vectors, present = vectors_of(found.values, spec.dim, spec.view_name)
                columns[name] = _fresh(vectors, present, ages_of(found, instant), spec.ttl)
        for feature in self._layout.dense:
            if feature.join_key == join_key:
                found = answer.get(feature.column, Answer())
                numbers, present = numbers_of(found.values)
                ages = ages_of(found, instant)
                columns[feature.column] = _fresh(numbers, present, ages, feature.ttl)
        return columns

    def _ask(self, join_key: str, keys: list[int | str]) -> dict[str, Answer]:
        try:
            response = self._store.get_online_features(
                features=self._layout.references(join_key),
                entity_rows={join_key: keys},
                full_feature_names=True,
            ).proto
        except Exception as error:  # Each online store raises its own; the user gets one line.
            raise FetchError(
                f"online features of {self._layout.service} by {join_key}",
                found=str(error)[:300],
                expected="an answer of the online store",
                remedy="See that `feast materialize` has run and the keys have their type.",
            ) from error
        return dict(zip(response.metadata.feature_names.val, response.results, strict=True))


def _fresh(
    values: npt.NDArray[np.floating],
    present: npt.NDArray[np.bool_],
    ages: npt.NDArray[np.int64],
    ttl: timedelta | None,
) -> Column:
    """Hold values to their ttl as the point-in-time join does: Feast's online stores do not."""
    return Column(values, present & usable(ages, ttl), ages / 1e6)
