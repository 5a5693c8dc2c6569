"""Which runs' vectors a training join has used, view by view."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from provender.consumers.features import FeatureLayout
from provender.plugin.instants import instant, to_nanoseconds
from provender.plugin.manifest import RunRecord
from provender.plugin.snapshot_source import runs_within, snapshot_folder, source_path

#: view -> its runs, ascending by as-of time
Runs = dict[str, tuple[RunRecord, ...]]


class UsedRuns:
    """Collects the event times of joined vectors: that of a snapshot is its run's as-of time.

    Files without manifests have no runs; nothing is collected of them.
    """

    def __init__(self, store: FeatureStore, layout: FeatureLayout) -> None:
        self._specs = layout.embeddings
        views = {spec.view_name: store.get_feature_view(spec.view_name) for spec in self._specs}
        self._sources = {name: view.batch_source for name, view in views.items()}
        self._times: dict[str, set[int]] = {
            name: set()
            for name, source in self._sources.items()
            if snapshot_folder(source_path(source))
        }
        self._told: set[str] = set()

    def saw(self, view: str, times: pa.ChunkedArray) -> None:
        """Note the event times of a view's vectors in some rows; null where a row has none."""
        self._told.add(view)
        if view in self._times:
            distinct = pc.unique(times).drop_null()
            self._times[view].update(to_nanoseconds(distinct).tolist())

    def runs(self, first: datetime, last: datetime) -> Runs:
        """Return what was used by impressions from first to last.

        Where the store does not tell from when its values are, it is what can have been used:
        every run as of a time from first, less the view's ttl, to last.
        """
        found: Runs = {}
        for spec in self._specs:
            runs = runs_within(self._sources[spec.view_name], first - spec.ttl, last)
            if spec.view_name in self._told:
                used = self._times.get(spec.view_name, set())
                runs = [run for run in runs if instant(run.as_of) in used]
            found[spec.view_name] = tuple(runs)
        return found
