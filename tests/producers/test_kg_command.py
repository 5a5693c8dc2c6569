"""`provender evaluate kg` as a user meets it: figures, refusals, going on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import Result
from safetensors import safe_open

from provender.producers.scores import SCORES
from provender.producers.training_log import read_metrics
from provender.producers.vectors import load_vectors

Provender = Callable[..., Result]
SMALL = {"dim": 16, "chunk_size": 32, "negatives": 16, "epochs": 15, "relation_learning_rate": 0.01}


def _write(folder: Path, parts: Mapping[str, Sequence[tuple[str, ...]]]) -> list[str]:
    """Files of links, and the options that name them."""
    words = []
    for name, rows in parts.items():
        path = folder / f"{name}.tsv"
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
        words += [f"--{name}", str(path)]
    return words


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return ["--config", str(path), "--device", "cpu"]


@pytest.fixture
def graph(tmp_path: Path) -> list[str]:
    """A family: children of one parent are siblings, and the test asks for some of these."""
    parents = [(f"c{i}", "child_of", f"p{i % 5}") for i in range(30)]
    siblings = [
        (f"c{i}", "sibling", f"c{j}")
        for i in range(30)
        for j in range(30)
        if i != j and i % 5 == j % 5
    ]
    held = siblings[::6]
    train = parents + [row for row in siblings if row not in held]
    return _write(tmp_path, {"train": train, "valid": held[::2], "test": held[1::2]})


@pytest.fixture
def clicks(tmp_path: Path) -> list[str]:
    """Users of two tastes, by the same numbers as the items."""
    rows = [(u, i) for u in range(20) for i in range(20) if (u + i) % 2 == 0]
    held = [(str(u), str(i)) for u, i in rows if (u // 2 + i // 2) % 5 == 0]
    train = [(str(u), str(i)) for u, i in rows if (str(u), str(i)) not in held]
    return _write(tmp_path, {"train": train, "valid": held[::2], "test": held[1::2]})


def _report(result: Result, path: Path) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(path.read_text())
    return report


@pytest.mark.parametrize("model", SCORES)
def test_every_model_learns_a_graph_and_reports_it(
    model: str, graph: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    path = tmp_path / "report.json"
    words = [*graph, *settings, "--model", model, "--report", path, "--validate-every", 5]
    result = provender("evaluate", "kg", *words)
    report = _report(result, path)
    assert (report["model"], report["config"]["dim"]) == (model, 16)
    assert report["data"]["train"] == 155
    test = report["metrics"]["test"]
    assert test["mrr"] > 0.25  # Chance is 0.12: of 35, few are left by the filter.
    assert set(test["relations"]) == {"sibling"}
    assert [each["epoch"] for each in report["curve"]] == [5, 10, 15]
    assert f"{test['mrr']:.4f}" in result.stdout
    assert report["seconds"]["training"] > 0


def test_training_is_watched_by_epoch_and_drawn(
    graph: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    path, folder = tmp_path / "report.json", tmp_path / "log"
    words = [*graph, *settings, "--report", path, "--validate-every", 5, "--log", folder]
    curve = _report(provender("evaluate", "kg", *words), path)["curve"]
    told = read_metrics(folder)
    assert [{"epoch": one["epoch"], "mrr": one["mrr"]} for one in told if "mrr" in one] == curve
    losses = [one["loss"] for one in told if "loss" in one]
    assert losses[-1] < losses[0]
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_interactions_are_ranked_by_head_beside_popularity(
    clicks: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    path = tmp_path / "report.json"
    words = [*clicks, *settings, "--relation", "click", "--k", 5, "--k", 2, "--report", path]
    words += ["--log", tmp_path / "log"]
    result = provender("evaluate", "kg", *words)
    report = _report(result, path)
    assert (report["relation"], report["data"]["kind"]) == ("click", "interactions")
    assert report["data"]["entities"] == {"head": 20, "tail": 20}
    assert report["config"]["anchor_relation"] == "click"
    test = report["per_head"]["test"]
    assert set(test["model"]) == {"heads", "links", "recall@2", "recall@5", "ndcg@2", "ndcg@5"}
    assert test["popularity"]["recall@5"] == pytest.approx(5 / 11, abs=0.02)  # All alike.
    assert test["model"]["recall@5"] > 0.8
    assert report["metrics"]["valid"]["mrr"] > 0
    assert "recall@20" in report["curve"][0]
    assert f"{test['popularity']['ndcg@5']:.4f}" in result.stdout
    assert (tmp_path / "log" / "curves.png").is_file()


def test_valid_may_be_left_out_and_what_is_unseen_is_told(
    graph: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    path = tmp_path / "report.json"
    test = Path(graph[graph.index("--test") + 1])
    test.write_text("c1\tsibling\tnobody\nc2\tmarried\tc3\n")
    words = ["--train", graph[1], "--test", test, *settings, "--epochs", 1, "--report", path]
    result = provender("evaluate", "kg", *words)
    report = _report(result, path)
    assert report["data"]["unseen"] == {"test": {"entities": 1, "relations": 1, "links": 2}}
    assert report["curve"] == []
    assert report["config"]["epochs"] == 1
    assert "2 of 2 links hold entities (1) or relations (1)" in " ".join(result.stderr.split())
    # Both ends of the first link: nobody comes last of 36 but for known siblings (4 in training).
    assert report["metrics"]["test"]["tail"]["hits@10"] < 0.5


def test_a_header_of_other_names_is_pointed_out(
    settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    header = ("user", "item")
    parts = {"train": [header, ("1", "2"), ("2", "1")], "test": [header, ("1", "3")]}
    words = [*_write(tmp_path, parts), *settings, "--epochs", "1"]
    result = provender("evaluate", "kg", *words)
    assert result.exit_code == 0
    assert "Every file begins with user and item" in " ".join(result.stderr.split())


def test_what_was_learned_is_saved_by_name_and_replaced(
    graph: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    folder = tmp_path / "saved"
    for seed in (1, 2):
        words = [*graph, *settings, "--epochs", 1, "--save", folder, "--seed", seed]
        result = provender("evaluate", "kg", *words)
        assert result.exit_code == 0, result.output
    vectors = load_vectors(folder)["entity"]
    assert vectors.keys.to_pylist() == sorted(
        [f"c{i}" for i in range(30)] + [f"p{i}" for i in range(5)]
    )
    assert vectors.vectors.shape == (35, 16)
    assert np.isfinite(vectors.vectors).all()
    with safe_open(folder / "relations.safetensors", "pt") as file:
        assert file.metadata()["model"] == "transra"
        assert json.loads(file.metadata()["relations"]) == ["child_of", "sibling"]
        assert file.get_tensor("translation").shape == (2, 16)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_does_not_fit_is_refused_in_one_line(
    graph: list[str], settings: list[str], tmp_path: Path, provender: Provender
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("dimension: 5")
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("- 5")
    other = tmp_path / "other.yaml"
    other.write_text("model: rotate")
    refused: list[tuple[list[Any], str]] = [
        ([*settings, "--save", tmp_path / "full"], "a folder with other files in it"),
        (["--config", wrong], "dimension"),
        (["--config", nothing], "a YAML list"),
        (["--config", other, "--model", "transe"], "'rotate'; expected 'transe'"),
        ([*settings, "--relation", "aunt"], "'aunt'; expected one of child_of, sibling"),
        ([*settings, "--device", "abacus"], "abacus"),
        (["--train", tmp_path / "none.tsv"], "no such file"),
    ]
    for words, told in refused:
        result = provender("evaluate", "kg", *graph, *map(str, words))
        assert (result.exit_code, type(result.exception)) == (1, SystemExit), words
        assert told in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_evaluate_without_kg_is_still_for_homes(tmp_path: Path, provender: Provender) -> None:
    result = provender("evaluate", "--home", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr


_KILLED = """
import os, signal, sys
import provender.producers.training_loop as training_loop
from provender.plugin.cli import main
save, saved = training_loop.save_checkpoint, []
def save_and_die(*given):
    save(*given)
    saved.append(given)
    if len(saved) == 25:
        os.kill(os.getpid(), signal.SIGKILL)
training_loop.save_checkpoint = save_and_die
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_and_ends_the_same(
    graph: list[str], tmp_path: Path, provender: Provender
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({**SMALL, "checkpoint_minutes": 0}))
    words = ["evaluate", "kg", *graph, "--config", str(settings), "--device", "cpu"]
    words += ["--validate-every", "1", "--patience", "99"]
    reports = {name: tmp_path / f"{name}.json" for name in ("whole", "resumed")}
    whole = provender(*words, "--report", reports["whole"])
    again = [*words, "--checkpoints", str(tmp_path / "runs"), "--report", str(reports["resumed"])]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *again], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not reports["resumed"].exists()
    resumed = provender(*again)
    one, two = _report(whole, reports["whole"]), _report(resumed, reports["resumed"])
    assert len(one["curve"]) == SMALL["epochs"]
    assert (one["metrics"], one["curve"]) == (two["metrics"], two["curve"])
