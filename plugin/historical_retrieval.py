"""A historical retrieval: entity rows in batches, each view's features joined beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.offline_stores.offline_store import RetrievalMetadata

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.entity_frame import EntityFrame, Frame, FrameReader
from provender.plugin.errors import ConfigError, EntityFrameError
from provender.plugin.feature_rows import Window
from provender.plugin.instants import LATEST, NO_INSTANT, Instants
from provender.plugin.retrieval_job import Options
from provender.plugin.view_join import JoinRequest, ViewJoin, view_join

_TIME_TYPE = pa.timestamp("ns", tz="UTC")
#: Rows whose times are read at once to find the first and the last.
_SPAN_ROWS = 1_000_000
#: An Arrow list array counts its floats in 32 bits.
_MOST_FLOATS = 2**31 - 1


@dataclass(frozen=True)
class Wanted:
    """Which features of which views, as Feast asks for them.

    Attributes:
        references: ``view:feature``, with the view's alias or ``@vN`` where it has one.
        strict: no value before it was created.
    """

    views: Sequence[FeatureView]
    references: Sequence[str]
    full_names: bool
    strict: bool

    def requests(self, options: Options) -> list[JoinRequest]:
        """Return one request a view; raises ConfigError for a dim that the view does not have."""
        unknown = set(options.dims) - {_label(view) for view in self.views}
        if unknown:
            raise _not_asked(sorted(unknown)[0], self.views)
        return [
            JoinRequest(view, self._features(view), self.strict, _dim(view, options))
            for view in self.views
        ]

    def _features(self, view: FeatureView) -> tuple[tuple[str, str], ...]:
        start = f"{view.projection.name_to_use()}:"  # type: ignore[no-untyped-call]
        names = [ref.removeprefix(start) for ref in self.references if ref.startswith(start)]
        return tuple((name, self._output(view, name)) for name in dict.fromkeys(names))

    def _output(self, view: FeatureView, feature: str) -> str:
        return f"{_label(view)}__{feature}" if self.full_names else feature


class HistoricalRetrieval:
    """Entity rows and the features wanted for them; nothing is read before :meth:`batches`."""

    def __init__(self, config: RepoConfig, entities: Frame, wanted: Wanted) -> None:
        self._config, self._entities, self._wanted = config, entities, wanted

    def batches(self, rows: int, options: Options) -> Iterator[pa.RecordBatch]:
        """Yield entity rows with their features, at most ``rows`` at a time, at least one batch."""
        requests = self._wanted.requests(options)
        with FrameReader(self._entities) as frame:
            joins = [view_join(self._config, request) for request in requests]
            _refuse_twice(_fields(frame, requests, joins, options))
            window = _window(frame)
            for join in joins:
                join.prepare(frame, window)
            fields = _fields(frame, requests, joins, options)
            start = 0
            rows = min(rows, _MOST_FLOATS // max(1, *(join.width for join in joins)))
            for table in frame.batches(rows):
                yield _joined(frame, table, joins, start, fields, options)
                start += table.num_rows
            if not start:
                yield pa.RecordBatch.from_pylist([], schema=pa.schema(fields))

    def metadata(
        self, references: list[str], span: tuple[datetime, datetime] | None
    ) -> RetrievalMetadata:
        """Return what is asked for, and the times of the first and the last row.

        Args:
            span: the times, where they were given instead of an entity frame.
        """
        with FrameReader(self._entities) as frame:
            names = [name for name in frame.schema.names if name != frame.time_column]
            first, last = span or map(_datetime, _window(frame))
        return RetrievalMetadata(references, names, min(first, last), last)


def _joined(
    frame: EntityFrame,
    table: pa.Table,
    joins: Sequence[ViewJoin],
    start: int,
    fields: Sequence[pa.Field],
    options: Options,
) -> pa.RecordBatch:
    times = frame.instants(table)
    arrays = [_whole(column) for column in table.columns]
    events: list[pa.Array] = []
    for join in joins:
        features, event = join.join(table, times, start)
        arrays.extend(features)
        events.append(_times(event))
    if options.event_times:
        arrays.extend(events)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _fields(
    frame: EntityFrame,
    requests: Sequence[JoinRequest],
    joins: Sequence[ViewJoin],
    options: Options,
) -> list[pa.Field]:
    fields = [*frame.schema, *(field for join in joins for field in join.fields)]
    if options.event_times:
        names = [f"{_label(request.view)}__event_timestamp" for request in requests]
        fields.extend(pa.field(name, _TIME_TYPE) for name in names)
    return [field.with_nullable(True) for field in fields]


def _refuse_twice(fields: Sequence[pa.Field]) -> None:
    names = [field.name for field in fields]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise EntityFrameError(
            f"column {twice[0]} of the result",
            found="several columns of this name in the entity frame and the features",
            expected="a name for each",
            remedy="Ask with full_feature_names=True, or rename the column of the entity frame.",
        )


def _window(frame: EntityFrame) -> Window:
    """Return the first and last time of a frame; a span without any instant of no rows."""
    batches = frame.batches(_SPAN_ROWS, [frame.time_column])
    edges = [(int(t.min()), int(t.max())) for t in map(frame.instants, batches) if len(t)]
    return reduce(lambda a, b: (min(a[0], b[0]), max(a[1], b[1])), edges, (LATEST, NO_INSTANT + 1))


def _dim(view: FeatureView, options: Options) -> int | None:
    dim = options.dims.get(_label(view))
    if dim is None:
        return None
    known = [*spec_of(view).nested_dims, spec_of(view).dim] if is_embedding_view(view) else []
    if dim not in known:
        raise ConfigError(
            f"feature view {view.name}",
            found=f"the dim {dim} asked for",
            expected=f"one of {known}" if known else "an embedding view, for only these have dims",
            remedy="Ask for a dim that the view declares.",
        )
    return dim


def _not_asked(name: str, views: Sequence[FeatureView]) -> ConfigError:
    return ConfigError(
        f"dim of {name}",
        found="no such view in this retrieval",
        expected=f"one of {', '.join(map(_label, views))}",
        remedy="Correct the name.",
    )


def _label(view: FeatureView) -> str:
    return str(view.projection.name_alias or view.name)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _times(event: Instants) -> pa.Array:
    return pa.array(event, pa.int64(), mask=event == NO_INSTANT).cast(_TIME_TYPE)


def _datetime(instant: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant // 1000)
