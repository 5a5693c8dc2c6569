"""Several rankers, and which of them serves which versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feast import FeatureStore

from provender.consumers.fetch_metrics import FetchMetrics
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker
from provender.consumers.ranking_request import Scored, score
from provender.consumers.served_versions import Assignment, Wanted
from provender.consumers.user_history import Action
from provender.plugin.errors import ConfigError, VersionError
from provender.plugin.online_store import ProvenderOnlineStore
from provender.plugin.releases import Release


@dataclass(frozen=True)
class Choice:
    """Who answers a request, and from what."""

    fetcher: OnlineFetcher
    ranker: Ranker
    assignment: Assignment

    def score(
        self,
        user_id: int | str,
        pin_ids: Sequence[int | str],
        context: Mapping[str, Any] | None,
        history: Sequence[Action] = (),
    ) -> Scored:
        """Score the candidates of a request."""
        asked = user_id, pin_ids, context, history
        return score(self.fetcher, self.ranker, *asked, assignment=self.assignment)


class RankerChoice:
    """Rankers, each with what fetches its features.

    Args:
        store: a feature store with provender's online store.
        rankers: those of the same versions in the order in which they are preferred; one without
            embeddings is never chosen by a release.
        online: the open online store, whose connections they share.
        now: the time of all requests, for a replay; each request's own time by default.
        metrics: where fetches are counted; nowhere by default.

    Raises:
        ConfigError: no ranker reads embeddings.
        VersionError: a ranker's service is not what it learned from.
    """

    def __init__(
        self,
        store: FeatureStore,
        rankers: Sequence[Ranker],
        online: ProvenderOnlineStore,
        *,
        now: datetime | None = None,
        metrics: FetchMetrics | None = None,
    ) -> None:
        reading = [ranker for ranker in rankers if ranker.layout.embeddings]
        if not reading:
            raise ConfigError(
                "rankers of released versions",
                found=f"{len(rankers)}, none of which reads embeddings",
                expected="at least one that does",
                remedy="Train it on a service with embedding views: `provender rank`.",
            )
        how: dict[str, Any] = {"now": now, "online": online, "metrics": metrics}
        self._served = [
            (OnlineFetcher(store, each.layout.service, ranker=each, **how), each)
            for each in reading
        ]

    @property
    def families(self) -> list[str]:
        """The families that the rankers read."""
        return sorted({family for fetcher, _ in self._served for family in fetcher.guard.families})

    def of(self, wanted: Wanted, states: Mapping[str, Release]) -> Choice | None:
        """Return who serves the wanted versions: who learned from them, else who accepts them."""
        accepting: Choice | None = None
        for fetcher, ranker in self._served:
            assignment = fetcher.guard.reading(wanted)
            if assignment is None or fetcher.guard.retired(states, assignment):
                continue
            choice = Choice(fetcher, ranker, assignment)
            if not assignment.views:
                return choice
            accepting = accepting or choice
        return accepting

    def refusal(self, wanted: Wanted) -> VersionError:
        """Return what to say where nobody serves the wanted versions."""
        asked = {f: wanted[f] for f in self.families if wanted.get(f) is not None}
        return VersionError(
            "rankers of released versions",
            found=", ".join(f"version {version} of family {f} live" for f, version in asked.items())
            or "no ranker of versions that may serve",
            expected=f"what they learned from: {', '.join(map(self._learned, self.families))}",
            remedy="Add a ranker trained on what is live, or return with `provender release "
            "rollback`.",
        )

    def _learned(self, family: str) -> str:
        known = {v for fetcher, _ in self._served for v in fetcher.guard.families.get(family, ())}
        return f"version {' or '.join(map(str, sorted(known)))} of family {family}"
