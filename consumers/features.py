"""The one shaping of features to tensors, for training and serving alike.

Legend of shapes: B rows, D the dim of a view, F dense features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.feature_view import FeatureView
from feast.types import Float32, Float64, Int32, Int64
from pydantic import BaseModel, ConfigDict

from provender.consumers.user_history import History
from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.errors import ConfigError, VersionError
from provender.plugin.spec import FIXED_BY_VERSION, VECTOR_COLUMN, EmbeddingSpec

_COUNTS, _REALS = (Int32, Int64), (Float32, Float64)


class DenseFeature(BaseModel):
    """One ordinary number of a feature view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    view: str
    name: str
    join_key: str
    integer: bool
    ttl: timedelta | None = None

    @property
    def column(self) -> str:
        """The name under which Feast returns it."""
        return f"{self.view}__{self.name}"


class FeatureLayout(BaseModel):
    """What a feature service holds: embeddings with their specs, and dense numbers, in its order.

    It is kept in a ranker's checkpoint, so that whatever serves it can be held to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    embeddings: tuple[EmbeddingSpec, ...]
    dense: tuple[DenseFeature, ...]

    @classmethod
    def of_service(cls, store: FeatureStore, service: str) -> FeatureLayout:
        """Read a registered feature service.

        Raises:
            ConfigError: no such service, or one with features that no ranker here can read.
        """
        try:
            projections = store.get_feature_service(service).feature_view_projections
        except FeastObjectNotFoundException:
            known = ", ".join(sorted(each.name for each in store.list_feature_services()))
            raise ConfigError(
                f"feature service {service}",
                found="none of that name",
                expected=f"one of {known or '(the registry has none)'}",
                remedy="Declare it in the feature repo and run `feast apply`.",
            ) from None
        embeddings: list[EmbeddingSpec] = []
        dense: list[DenseFeature] = []
        for projection in projections:
            renamed = projection.name_alias or projection.join_key_map
            if renamed or projection.version_tag is not None:
                raise _unreadable(service, f"the view {projection.name} under another name or key")
            view = store.get_feature_view(projection.name)
            if is_embedding_view(view):
                embeddings.append(spec_of(view))
            else:
                names = [each.name for each in projection.features]
                dense.extend(_dense_features(service, view, names))
        return cls(service=service, embeddings=tuple(embeddings), dense=tuple(dense))

    @property
    def join_keys(self) -> tuple[str, ...]:
        """The key columns that a row needs, each once."""
        keys = [spec.join_key for spec in self.embeddings] + [each.join_key for each in self.dense]
        return tuple(dict.fromkeys(keys))

    def references(self, join_key: str) -> list[str]:
        """Feast's references of the features that hang on one key."""
        vectors = [e for e in self.embeddings if e.join_key == join_key]
        dense = [each for each in self.dense if each.join_key == join_key]
        return [f"{spec.view_name}:{VECTOR_COLUMN}" for spec in vectors] + [
            f"{each.view}:{each.name}" for each in dense
        ]

    def columns(self) -> dict[str, str]:
        """Feast's full name of each feature -> the join key that it hangs on."""
        vectors = {f"{e.view_name}__{VECTOR_COLUMN}": e.join_key for e in self.embeddings}
        return vectors | {each.column: each.join_key for each in self.dense}

    def by_view(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """Return one column of each view: of an embedding its vectors, of another its first."""
        views = {e.view_name: columns[f"{e.view_name}__{VECTOR_COLUMN}"] for e in self.embeddings}
        for each in reversed(self.dense):
            views[each.view] = columns[each.column]
        return views

    def check_same(self, trained: FeatureLayout) -> None:
        """Refuse, with VersionError, to serve a ranker with other features than it learned from.

        The freshness (ttl) may be changed without a new version; nothing else may.
        """
        served, wanted = _identity(self), _identity(trained)
        if served == wanted:
            return
        raise VersionError(
            f"feature service {self.service}",
            found=_named(served, but_not=wanted) or "fewer features",
            expected=f"{_named(wanted, but_not=served) or 'none of these'}, as the ranker learned",
            remedy="Serve the versions that the ranker was trained on, or train it again.",
        )


def _unreadable(service: str, found: str) -> ConfigError:
    return ConfigError(
        f"feature service {service}",
        found=found,
        expected="embedding views and numbers keyed by one column, under their own names",
        remedy="Leave it out of the service that the ranker reads.",
    )


def _dense_features(service: str, view: FeatureView, names: Sequence[str]) -> list[DenseFeature]:
    keys = [column.name for column in view.entity_columns]
    types = {each.name: each.dtype for each in view.features}
    if len(keys) != 1:
        raise _unreadable(service, f"the view {view.name} keyed by {keys}")
    for name in names:
        if types.get(name) not in (*_COUNTS, *_REALS):
            raise _unreadable(service, f"{view.name}:{name} of type {types.get(name)}")
    return [
        DenseFeature(
            view=view.name,
            name=name,
            join_key=keys[0],
            integer=types[name] in _COUNTS,
            ttl=view.ttl or None,
        )
        for name in names
    ]


def _identity(layout: FeatureLayout) -> list[str]:
    specs = [
        f"{spec.view_name} ({', '.join(f'{f} {getattr(spec, f)}' for f in FIXED_BY_VERSION)})"
        for spec in layout.embeddings
    ]
    return specs + [f"{each.column} by {each.join_key}" for each in layout.dense]


def _named(these: Sequence[str], *, but_not: Sequence[str]) -> str:
    return ", ".join(each for each in these if each not in but_not)


@dataclass(frozen=True)
class RankerBatch:
    """Rows as tensors. What is missing is marked and zero, never NaN.

    Attributes:
        vectors: view -> (B, D) float32, zero where missing.
        present: view -> (B,) bool.
        age_seconds: view -> (B,) float32, request time less the value's event time; NaN where
            missing, and where the store does not tell. For monitoring: no ranker reads it.
        dense: (B, F) float32 in the layout's order, zero where missing.
        dense_present: (B, F) bool.
        context: column -> (B,) Arrow array of what the request brings along.
        labels: task -> (B,) float32; empty in serving.
        weights: task -> (B,) float32, of each row in the task's loss: 0 where its label is not
            known; 1 throughout for a task that is not there.
        keys: join key -> (B,) the entities of the rows, for tables of learned rows.
        history: what the users did before, where the ranker looks at it.
        versions: family -> the version that was read online; empty in training.
    """

    vectors: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    age_seconds: dict[str, torch.Tensor]
    dense: torch.Tensor
    dense_present: torch.Tensor
    context: dict[str, pa.Array] = field(default_factory=dict)
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    keys: dict[str, pa.Array] = field(default_factory=dict)
    history: History | None = None
    versions: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dense)

    def without_context(self) -> RankerBatch:
        """The same rows less what a ranker's inputs were made of already, lighter to take from."""
        return replace(self, age_seconds={}, context={})

    def take(self, rows: torch.Tensor) -> RankerBatch:
        """The chosen rows, (n,) int64, in that order; a row may be taken twice."""

        def chosen(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}

        places = pa.array(rows.numpy())
        return RankerBatch(
            vectors=chosen(self.vectors),
            present=chosen(self.present),
            age_seconds=chosen(self.age_seconds),
            dense=self.dense.index_select(0, rows),
            dense_present=self.dense_present.index_select(0, rows),
            context={name: column.take(places) for name, column in self.context.items()},
            labels=chosen(self.labels),
            weights=chosen(self.weights),
            keys={name: column.take(places) for name, column in self.keys.items()},
            history=None if self.history is None else self.history.take(rows),
            versions=self.versions,
        )


@dataclass(frozen=True)
class Column:
    """The raw values of one feature: (B, D) float32 vectors or (B,) float64 numbers.

    Where `present` is False the value is arbitrary; `age_seconds` is None where it is not known.
    """

    values: npt.NDArray[np.floating]
    present: npt.NDArray[np.bool_]
    age_seconds: npt.NDArray[np.float64] | None = None


def shape_batch(
    layout: FeatureLayout,
    columns: Mapping[str, Column],
    rows: int,
    *,
    context: Mapping[str, pa.Array] | None = None,
    labels: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    keys: Mapping[str, pa.Array] | None = None,
    history: History | None = None,
    versions: Mapping[str, int] | None = None,
) -> RankerBatch:
    """Turn raw columns, by Feast's full names, into a batch of `rows` rows.

    A value that is not finite, in a vector or a number, counts as missing.
    """
    vectors, present, ages = {}, {}, {}
    for spec in layout.embeddings:
        column = columns[f"{spec.view_name}__{VECTOR_COLUMN}"]
        vectors[spec.view_name], mask = masked(column)
        present[spec.view_name] = torch.from_numpy(mask)
        age = np.full(rows, np.nan) if column.age_seconds is None else column.age_seconds
        ages[spec.view_name] = torch.from_numpy(np.where(mask, age, np.nan).astype(np.float32))
    dense = torch.zeros(rows, len(layout.dense))
    dense_present = torch.zeros(rows, len(layout.dense), dtype=torch.bool)
    for place, feature in enumerate(layout.dense):
        values, mask = masked(columns[feature.column])
        dense[:, place] = values
        dense_present[:, place] = torch.from_numpy(mask)
    return RankerBatch(
        vectors=vectors,
        present=present,
        age_seconds=ages,
        dense=dense,
        dense_present=dense_present,
        context=dict(context or {}),
        labels=dict(labels or {}),
        weights=dict(weights or {}),
        keys=dict(keys or {}),
        history=history,
        versions=dict(versions or {}),
    )


def masked(column: Column) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    """Return the values as float32, zero where missing or not finite, and what is not: bool (n,).

    Values of which nothing is missing are not copied where they can be written to.
    """
    values = column.values.astype(np.float32, copy=False)
    present = column.present
    if not np.isfinite(values).all():
        finite = np.isfinite(values)
        present = present & (finite if finite.ndim == 1 else finite.all(axis=1))
    if present.all():
        # Torch takes no memory that may not be written to.
        plain = np.require(values, requirements=["C", "W"])
        return torch.from_numpy(plain), present
    kept = np.where(present if values.ndim == 1 else present[:, None], values, np.float32(0))
    return torch.from_numpy(kept), present
