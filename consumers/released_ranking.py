"""Ranking by whatever is released: each request is served by the ranker of its versions.

    ranking = ReleasedRanking(store, [ranker_of_v1, ranker_of_v2])
    answer = ranking.rank(user_id, pin_ids, {"position": 1, "surface": "home"})
    answer.versions  # {"transra": 1}; {"transra": 2} after a promotion, or for a canary's share

A request looks at the releases once; what it reads follows from that look alone, so all vectors
of an answer are of one version of each family, whatever is promoted meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from feast import FeatureStore

from provender.consumers.fetch_metrics import FetchMetrics
from provender.consumers.ranker import Ranker
from provender.consumers.ranker_choice import Choice, RankerChoice
from provender.consumers.ranking_request import Ranked, Scored, in_order
from provender.consumers.served_versions import Wanted
from provender.consumers.shadow import ShadowLog
from provender.consumers.user_history import Action
from provender.plugin.errors import ConfigError
from provender.plugin.releases import Release, Releases, ReleaseWatch, part_of

_log = logging.getLogger(__name__)
States = Mapping[str, Release]
#: A user, candidates, context, and what the user did.
Request: TypeAlias = tuple[
    int | str, Sequence[int | str], Mapping[str, Any] | None, Sequence[Action]
]
#: A key's place in the shadow's share has nothing to do with its place in a canary's.
_SHADOW = "shadow"


class ReleasedRanking:
    """Answers requests by what is live, or for a canary's share of them by the candidate.

    For many threads. A candidate that no ranker here reads gets no request: what is live answers,
    and a warning says so once.

    Attributes:
        shadow: how the candidate's scores differ from those that were answered.

    Args:
        store: a feature store with provender's online store.
        rankers: those of the same versions in the order in which they are preferred; one without
            embeddings answers nothing here.
        seconds: for how long the releases are used before they are read again.
        now: the time of all requests, for a replay; each request's own time by default.
        shadow_share: of the requests that what is live answers, the share (by their keys) that
            the candidate scores as well, into `shadow`. It is done within the request, before the
            answer is given, so these take twice as long; what goes wrong in it is counted and
            harms no answer.
        metrics: where fetches are counted; nowhere by default.

    Raises:
        ConfigError: another online store, no ranker that reads embeddings, or a share that is none.
        VersionError: a ranker's service is not what it learned from.
    """

    def __init__(
        self,
        store: FeatureStore,
        rankers: Sequence[Ranker],
        *,
        seconds: float = 1.0,
        now: datetime | None = None,
        shadow_share: float = 0.0,
        metrics: FetchMetrics | None = None,
    ) -> None:
        if not 0 <= shadow_share <= 1:
            raise ConfigError(
                "shadow_share",
                found=str(shadow_share),
                expected="a share of the requests, from 0 to 1",
                remedy="Correct it.",
            )
        releases = self._releases = Releases.of(store)
        self._watch = ReleaseWatch(releases, seconds)
        self._rankers = RankerChoice(store, rankers, releases.online, now=now, metrics=metrics)
        self._families = self._rankers.families
        self._choices: dict[tuple[Any, ...], Choice | None] = {}
        self._warned: set[tuple[str, int | None]] = set()
        self._shadow_share = shadow_share
        self.shadow = ShadowLog()

    def rank(
        self,
        user_id: int | str,
        pin_ids: Sequence[int | str],
        context: Mapping[str, Any] | None = None,
        request_key: object = None,
        history: Sequence[Action] = (),
    ) -> Ranked:
        """Rank candidates for a user by the probability of a click.

        Args:
            user_id: whose request it is.
            pin_ids: the candidates.
            context: as :meth:`OnlineFetcher.fetch` takes it.
            request_key: what a canary's share and the shadow's go by: the same key is served by
                the same version; the user by default.
            history: what the user did, as :meth:`OnlineFetcher.fetch` takes it; rankers that look
                at none leave it out.

        Raises:
            VersionError: what is live is what no ranker here may read.
            FetchError: as :meth:`OnlineFetcher.fetch`.
        """
        states = self._watch.states()
        key = user_id if request_key is None else request_key
        request = user_id, pin_ids, context, history
        canary = self._moved(states, {f: each.version_for(key) for f, each in states.items()})
        scored = (canary or self._live(states)).score(*request)
        if canary is None and self._shadow_share and part_of(_SHADOW, key) < self._shadow_share:
            self._follow(states, scored, request)
        return in_order(scored, pin_ids)

    def ready(self) -> tuple[dict[str, int], str | None]:
        """Return the versions that are live now, and the run id of the ranker that answers.

        Raises:
            VersionError: what is live is what no ranker here may read.
            OnlineStoreError: the online store can't be reached.
        """
        choice = self._live(self._releases.states())
        stamp = choice.ranker.stamp
        return dict(choice.assignment.versions), None if stamp is None else stamp.run_id

    def _live(self, states: States) -> Choice:
        wanted = {family: each.live for family, each in states.items()}
        choice = self._choice(states, wanted)
        if choice is None:
            raise self._rankers.refusal(wanted)
        return choice

    def _moved(self, states: States, wanted: Wanted) -> Choice | None:
        """Return who serves versions that are not the live ones; None if they are, or nobody."""
        families = [f for f in self._families if f in states and wanted[f] != states[f].live]
        choice = self._choice(states, wanted) if families else None
        if choice is None:
            for family in families:
                self._warn(family, wanted[family])
        return choice

    def _choice(self, states: States, wanted: Wanted) -> Choice | None:
        """Return who serves these versions, as settled once after each move of a release."""
        mine = [family for family in self._families if family in states]
        settled = tuple((family, states[family].serial, wanted[family]) for family in mine)
        if settled not in self._choices:
            self._choices[settled] = self._rankers.of(wanted, states)
        return self._choices[settled]

    def _follow(self, states: States, live: Scored, request: Request) -> None:
        """Let the candidate score a request that was answered without it."""
        try:
            wanted = {f: each.candidate or each.live for f, each in states.items()}
            choice = self._moved(states, wanted)
            if choice is not None:
                self.shadow.add(live, choice.score(*request))
        except Exception as error:  # Whatever it is, the request has its answer.
            self.shadow.failed(error)

    def _warn(self, family: str, version: int | None) -> None:
        if (family, version) not in self._warned:
            self._warned.add((family, version))
            _log.warning(
                "family %s: no ranker reads version %s, the candidate; what is live answers its "
                "share of the requests",
                family,
                version,
            )
