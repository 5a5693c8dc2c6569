"""The moves of a release: promote, rollback, retire, canary.

    promote(store, "transra", 2)                  # or ReleaseError, naming what fails
    move = promotion(store, "transra", 2)         # the same in two steps
    move.make(reason="v1 is broken")              # after a look at move.checks

Each reads the family's state before it looks at anything else. If somebody moves the family while
the gates look, the move is refused: it was decided on what is no longer so.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore

from provender.plugin.errors import ReleaseError
from provender.plugin.ranker_stamp import read_stamps
from provender.plugin.release_family import Family, Move
from provender.plugin.release_gates import (
    Gate,
    complete,
    coverage,
    fresh,
    materialized,
    one_run,
    rankers,
)
from provender.plugin.releases import Check, Release
from provender.plugin.snapshot_gates import anchored, quality, same_vectors

#: What a version has to pass before requests read it.
GATES: tuple[Gate, ...] = (
    complete,
    materialized,
    one_run,
    fresh,
    coverage,
    quality,
    same_vectors,
    anchored,
    rankers,
)


def promote(
    store: FeatureStore, family: str, version: int, *, reason: str | None = None, **how: Any
) -> Release:
    """Let all requests read a version, and return the new state.

    Args:
        store: the feature store, with provender's online store.
        family: which.
        version: which of its versions.
        reason: why it is to be made though gates fail; None to refuse it then.
        how: `rankers`, `gates`, `now` and `seed` of :meth:`release_family.Family.judged`.

    Raises:
        ReleaseError: gates fail and no reason is given; or what no reason can force: a version
            that is not declared, has no online table, is retired or serves already.
        ReleaseConflictError: somebody else has moved the family meanwhile.
    """
    return promotion(store, family, version, **how).make(reason)


def promotion(store: FeatureStore, family: str, version: int, **how: Any) -> Move:
    """Examine what :func:`promote` would do. A canary of another version goes on."""
    thing = f"promotion of version {version} of family {family}"
    found = Family.of(store, family)
    found.check_servable(thing, version)
    changes: dict[str, Any] = {"live": version, "former": found.live}
    if found.candidate == version:
        changes |= _NO_CANARY
    return Move(thing, found, "promote", changes, found.judged(version, GATES, **how))


def rollback(
    store: FeatureStore,
    family: str,
    *,
    to: int | None = None,
    now: datetime | None = None,
    reason: str | None = None,
) -> Release:
    """Let all requests read the former version again, and return the new state.

    It ends any canary: who rolls back has trouble, and wants one version to serve. What it leaves
    is the former version then, so a second rollback undoes the first.

    Args:
        store: the feature store, with provender's online store.
        family: which.
        to: another version that was live before; the former one by default.
        now: the time of judgement; the clock's by default.
        reason: why it is to be made though the version is stale.

    Raises:
        ReleaseError: there is nothing to return to; it was never live, is retired or has no rows
            online; or it is stale and no reason is given.
        ReleaseConflictError: somebody else has moved the family meanwhile.
    """
    found = Family.of(store, family)
    version = found.former if to is None else to
    thing = f"rollback of family {family}"
    if version is None:
        raise ReleaseError(
            thing,
            found="no former version",
            expected="one that was live before",
            remedy=f"Run `provender release promote {family} VERSION`.",
        )
    thing += f" to version {version}"
    found.check_servable(thing, version)
    _check_known(thing, found, version)
    checks = found.judged(version, (materialized, fresh), now=now)
    changes = {"live": version, "former": found.live, **_NO_CANARY}
    return Move(thing, found, "rollback", changes, checks).make(reason)


def retire(
    store: FeatureStore,
    family: str,
    version: int,
    *,
    rankers: Path | None = None,
    reason: str | None = None,
) -> Release:
    """Let a version never serve again, and return the new state.

    Its declaration can be taken out of the repo afterwards. If a rollback would have returned to
    it, there is nothing to return to any more.

    Args:
        store: the feature store, with provender's online store.
        family: which.
        version: which of its versions.
        rankers: a folder of rankers, none of which may have been trained on it; None for none.
        reason: why it is to be made though rankers or feature services read it.

    Raises:
        ReleaseError: it is live, a canary, retired or not declared; or something reads it and no
            reason is given.
        ReleaseConflictError: somebody else has moved the family meanwhile.
    """
    thing = f"retirement of version {version} of family {family}"
    found = Family.of(store, family)
    found.check_not_retired(thing, version)
    if version in (found.live, found.candidate):
        live = version == found.live
        raise ReleaseError(
            thing,
            found="it is live" if live else f"{found.share:.1%} of the requests read it",
            expected="a version that no request reads",
            remedy=f"Run `provender release promote {family} OTHER` first."
            if live
            else f"Run `provender release canary {family} {version} 0` first.",
        )
    changes: dict[str, Any] = {"retired": tuple(sorted((*found.retired, version)))}
    if found.former == version:
        changes["former"] = None
    checks = (_unread_by_rankers(found, version, rankers), _unread_by_services(found, version))
    return Move(thing, found, "retire", changes, checks).make(reason)


def canary(
    store: FeatureStore,
    family: str,
    version: int,
    share: float,
    *,
    reason: str | None = None,
    **how: Any,
) -> Release:
    """Let a share of the requests read a version, and return the new state.

    Args:
        store: the feature store, with provender's online store.
        family: which.
        version: which of its versions; it takes the place of another canary.
        share: of the requests, from 0, which ends the canary, to 1.
        reason: why it is to be made though gates fail; None to refuse it then.
        how: `rankers`, `gates`, `now` and `seed` of :meth:`release_family.Family.judged`.

    Raises:
        ReleaseError: a share that is none, no live version, and all that :func:`promote` refuses.
        ReleaseConflictError: somebody else has moved the family meanwhile.
    """
    return canary_of(store, family, version, share, **how).make(reason)


def canary_of(store: FeatureStore, family: str, version: int, share: float, **how: Any) -> Move:
    """Examine what :func:`canary` would do.

    The gates are a promotion's; a share that is no larger than before needs none.
    """
    thing = f"canary of version {version} of family {family}"
    found = Family.of(store, family)
    _check_share(thing, found, version, share)
    changes = {"candidate": version, "share": share} if share else _NO_CANARY
    if found.candidate == version and share <= found.share:
        return Move(thing, found, "canary", changes)
    found.check_servable(thing, version)
    return Move(thing, found, "canary", changes, found.judged(version, GATES, **how))


_NO_CANARY: dict[str, Any] = {"candidate": None, "share": 0.0}


def _check_known(thing: str, family: Family, version: int) -> None:
    """Refuse to return to what has never served, or holds nothing."""
    if not family.releases.was_live(family.name, version):
        raise ReleaseError(
            thing,
            found="a version that was never live",
            expected="one that passed its gates before",
            remedy=f"Run `provender release promote {family.name} {version}`.",
        )
    empty = [view.view.name for view in family.versions[version] if not view.rows]
    if empty:
        raise ReleaseError(
            thing,
            found=f"no rows online of {', '.join(empty)}",
            expected="rows to serve",
            remedy="Run `feast materialize` for them.",
        )


def _check_share(thing: str, family: Family, version: int, share: float) -> None:
    if not 0 <= share <= 1:
        raise ReleaseError(
            thing,
            found=f"share {share:g}",
            expected="a share of the requests from 0 to 1",
            remedy="Correct it.",
        )
    if family.live is None:
        raise ReleaseError(
            thing,
            found="no live version",
            expected="one that the other requests read",
            remedy=f"Run `provender release promote {family.name} {version}` instead.",
        )
    if not share and family.candidate != version:
        other = family.candidate
        raise ReleaseError(
            thing,
            found="no canary" if other is None else f"a canary of version {other}",
            expected=f"one of version {version}, to end it",
            remedy="Look at `provender release status`.",
        )


def _unread_by_rankers(family: Family, version: int, folder: Path | None) -> Check:
    stamps = read_stamps(folder) if folder else {}
    reading = [
        path.name
        for path, stamp in stamps.items()
        if any(stamp.reads(view.spec.view_name) for view in family.versions[version])
    ]
    return Check(
        name="rankers",
        passed=not reading,
        found=", ".join(reading) or "none",
        expected="no ranker that was trained on it",
    )


def _unread_by_services(family: Family, version: int) -> Check:
    names = {view.view.name for view in family.versions[version]}
    reading = [
        service.name
        for service in family.store.list_feature_services()
        if any(projection.name in names for projection in service.feature_view_projections)
    ]
    return Check(
        name="feature services",
        passed=not reading,
        found=", ".join(sorted(reading)) or "none",
        expected="no feature service that reads it",
    )
