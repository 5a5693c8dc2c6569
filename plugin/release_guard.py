"""What a release needs is not dropped: `feast apply` is asked before it takes a table away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from provender.plugin.errors import ReleaseError
from provender.plugin.online_database import OnlineDatabase
from provender.plugin.release_table import RELEASES, last_moves
from provender.plugin.spec import EmbeddingSpec


def check_unreleased(
    database: OnlineDatabase, thing: str, project: str, specs: Iterable[EmbeddingSpec]
) -> None:
    """Refuse to drop the tables of views.

    Args:
        database: of the tables and the releases.
        thing: what messages name where it does not answer.
        project: Feast's.
        specs: of the views that are to go.

    Raises:
        ReleaseError: a view is of a version that its family's release needs.
    """
    if not database.has(thing, RELEASES.name):
        return
    moves = database.execute(thing, sa.select(RELEASES).where(last_moves(project)))
    states = {move.family: move for move in moves}
    for spec in specs:
        if spec.family in states:
            _check(spec, states[spec.family])


def _check(spec: EmbeddingSpec, state: sa.Row[Any]) -> None:
    family, version = spec.family, spec.version
    if version == state.live:
        raise _refused(spec, "live", f"promote {family} VERSION", f"retire {family} {version}")
    if version == state.candidate:
        raise _refused(spec, "a canary", f"canary {family} {version} 0")
    if version == state.former:
        raise _refused(spec, "what a rollback returns to", f"retire {family} {version}")


def _refused(spec: EmbeddingSpec, role: str, *commands: str) -> ReleaseError:
    told = " and ".join(f"`provender release {command}`" for command in commands)
    return ReleaseError(
        f"embedding view {spec.view_name}",
        found=f"its declaration gone, while version {spec.version} of family {spec.family} is "
        f"{role}",
        expected="every view that a release needs; its table is kept",
        remedy=f"Declare it again, or run {told} first.",
    )
