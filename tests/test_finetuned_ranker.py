"""`provender rank --finetune` where the demo was walked: its ranker is asked and explained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from provender.consumers.ranker import load_ranker

#: On one worker with all others that need the demo: it is walked once.
pytestmark = pytest.mark.xdist_group("demo")
Provender = Callable[..., Result]


def test_a_finetuned_ranker_is_trained_asked_and_explained(
    demo_home: Path, provender: Provender
) -> None:
    words = ["--home", demo_home, "--backfills", "--seeds", 1, "--epochs", 2, "--finetune"]
    result = provender("rank", *words)
    assert result.exit_code == 0, result.output
    path = demo_home / "rankers" / "finetuned-0.safetensors"
    ranker = load_ranker(path)
    assert ranker.config.history is not None
    assert ranker.config.history.kinds == ("click", "save", "conversion")
    corrected = {table.name: table.corrects for table in ranker.config.tables}
    assert corrected == {"user": "user_transra_v1", "pin": "pin_transra_v1"}
    assert all(ranker.table(name).values.any() for name in corrected), "rows have learned"
    lift = json.loads((demo_home / "reports" / "lift-finetuned.json").read_text())
    assert {row[0] for row in lift["table"]} >= {"click AUC", "conversion AUC"}

    asked = provender("request", "--home", demo_home, "--ranker", path, "--candidates", 20)
    assert asked.exit_code == 0, asked.output
    assert "20 candidates in" in asked.output
    explained = provender("explain", "--home", demo_home, "--ranker", path)
    assert explained.exit_code == 0, explained.output
    assert "pin_transra_v1" in explained.output
