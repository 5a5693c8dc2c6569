"""`provender study` where the demo was walked: all forms of its report, pieces that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from provender.consumers.study.figures import Study
from provender.consumers.study.variants import ATTENTION, NONE, SNAPSHOT

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]


def test_a_study_on_the_demo_s_home(demo_home: Path, provender: Provender) -> None:
    words = ["study", "--home", demo_home, "--backfills", "--seeds", 1, "--epochs", 1]
    chosen = [part for name in (NONE, SNAPSHOT, ATTENTION) for part in ("--variant", name)]
    result = provender(*words, *chosen)
    assert result.exit_code == 0, result.output
    folder = demo_home / "reports" / "study"
    study = Study.model_validate_json((folder / "study.json").read_text())
    assert list(study.means) == [NONE, SNAPSHOT, ATTENTION]
    assert study.rows["all"]["click"] > 0 and study.coverage["pin_transra_v1"] > 0.9
    assert {answer.better for answer in study.answers} == {ATTENTION}
    assert (folder / "study.html").is_file() and (folder / "auc_click.png").is_file()
    assert ATTENTION in result.output and "…" not in result.output

    kept = {path: path.stat().st_mtime_ns for path in (folder / "pieces").iterdir()}
    assert len(kept) == 3
    assert provender(*words, *chosen).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "pieces").iterdir()} == kept


def test_a_variant_that_there_is_not_is_named(demo_home: Path, provender: Provender) -> None:
    result = provender("study", "--home", demo_home, "--backfills", "--variant", "magic")
    assert result.exit_code == 1
    assert "--variant: found 'magic'; expected one of: no embeddings; frozen" in result.output


def test_a_family_without_vectors_is_named(demo_home: Path, provender: Provender) -> None:
    result = provender("study", "--home", demo_home, "--family", "pinsage")
    assert result.exit_code == 1
    assert "no vectors of pinsage" in result.output and "transra" in result.output
