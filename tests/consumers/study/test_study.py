"""What a study compares, what each variant sees, how its answers are counted."""

from __future__ import annotations

import statistics
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from provender.consumers import ranker_training
from provender.consumers.features import FeatureLayout, RankerBatch
from provender.consumers.metrics import TaskMetrics, t_quantile
from provender.consumers.ranker_training import TrainingConfig
from provender.consumers.study import pieces as pieces_of_study
from provender.consumers.study.charts import charts
from provender.consumers.study.data import StudyData
from provender.consumers.study.figures import ALL, Study, answers_of, means_of
from provender.consumers.study.pieces import RATES, Piece, pieces
from provender.consumers.study.report import write_report
from provender.consumers.study.variants import (
    ATTENTION,
    FROZEN,
    NONE,
    SCRATCH,
    SNAPSHOT,
    Question,
    alone,
    questions,
    variants_of,
)
from provender.consumers.training_join import TrainingSet
from provender.consumers.user_history import History, HistorySpec
from provender.plugin.spec import EmbeddingSpec

DIM = 4
PAST = HistorySpec(length=3, kinds=("click",))


def spec(family: str, entity: str) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=f"{entity}_{family}",
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=DIM,
        space=family,
        producer="test",
        ttl=timedelta(days=1),
        family=family,
    )


SPECS = tuple(spec(family, entity) for family in ("graph", "towers") for entity in ("user", "pin"))
LAYOUT = FeatureLayout(service="all", embeddings=SPECS, dense=())


def rows(count: int, start: int, seed: int) -> TrainingSet:
    """Clicks that follow from how well user and pin fit in the space of the graph."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    vectors = {one.view_name: normal(count, DIM) for one in SPECS}
    fit = (vectors["user_graph_v1"] * vectors["pin_graph_v1"]).sum(1)
    click = (torch.rand(count, generator=generator) < (2 * fit - 1).sigmoid()).float()
    known = torch.ones(count, dtype=torch.bool)
    items = torch.randint(-1, 5, (count, PAST.length), generator=generator)
    pins = [name for name in vectors if name.startswith("pin")]
    batch = RankerBatch(
        vectors=vectors,
        present=dict.fromkeys(vectors, known),
        age_seconds={name: torch.zeros(count) for name in vectors},
        dense=torch.zeros(count, 0),
        dense_present=torch.zeros(count, 0, dtype=torch.bool),
        context={"place": pa.array(torch.randint(0, 3, (count,), generator=generator).numpy())},
        labels={"click": click, "conversion": click * (fit > 1)},
        keys={
            "user_id": pa.array(torch.randint(0, 30, (count,), generator=generator).numpy()),
            "pin_id": pa.array(torch.randint(0, 20, (count,), generator=generator).numpy()),
        },
        history=History(
            items=items,
            kinds=torch.zeros_like(items),
            age_seconds=torch.ones(count, PAST.length) * (items >= 0),
            keys=pa.array(range(5)),
            vectors={name: normal(5, DIM) for name in pins},
            present={name: torch.ones(5, dtype=torch.bool) for name in pins},
        ),
    )
    return TrainingSet(LAYOUT, batch, np.arange(start, start + count))


@pytest.fixture(scope="module")
def data() -> StudyData:
    training, evaluation = rows(1500, 0, 1), rows(500, 1500, 2)
    return StudyData(
        store=None,  # type: ignore[arg-type]  # Only tables from a snapshot ask it.
        training=training,
        evaluation=evaluation,
        segments={ALL: np.ones(500, np.bool_), "first": np.arange(500) < 250},
        table_views={"user_id": SPECS[0], "pin_id": SPECS[1]},
        spec=PAST,
        backfills=True,
        digest="rows",
    )


def named(data: StudyData, name: str) -> Any:
    found = {one.name: one for one in variants_of(data.families, history=data.has_history)}
    return found[name]


def test_the_variants_are_those_that_can_be_had() -> None:
    paper = [NONE, FROZEN, SCRATCH, SNAPSHOT, ATTENTION]
    one = [each.name for each in variants_of(["graph"], history=False)]
    assert one == [*paper, f"{ATTENTION}, less the ID table"]
    both = [each.name for each in variants_of(["graph", "towers"], history=True)]
    assert both[:5] == paper
    assert {alone("graph"), alone("towers"), f"{ATTENTION}, less the past"} < set(both)


def test_only_variants_that_are_there_are_asked_about() -> None:
    some = [one for one in variants_of(["graph"], history=True) if one.name in (NONE, ATTENTION)]
    assert questions(some) == [Question(ATTENTION, NONE)]


def test_a_variant_sees_its_families_alone(data: StudyData) -> None:
    seen, _ = data.seen_by(named(data, alone("towers")))
    views = {"user_towers_v1", "pin_towers_v1"}
    assert set(seen.rows.vectors) == set(seen.rows.present) == views
    assert {one.view_name for one in seen.layout.embeddings} == views
    assert seen.rows.history is None
    assert torch.equal(seen.rows.labels["click"], data.training.rows.labels["click"])
    whole, _ = data.seen_by(named(data, ATTENTION))
    assert whole.rows.history is not None
    assert set(whole.rows.history.vectors) == {"pin_graph_v1", "pin_towers_v1"}
    nothing, _ = data.seen_by(named(data, SCRATCH))
    assert not nothing.rows.vectors and not nothing.layout.embeddings


def test_tables_have_a_row_for_whoever_is_in_the_training_rows(data: StudyData) -> None:
    keys = data.training.rows.keys["pin_id"].unique()
    scratch = data.tables(named(data, SCRATCH), 0.5, 0)["pin"]
    assert set(scratch.keys.to_pylist()) == set(keys.to_pylist())
    assert scratch.row_training.rate == 0.5
    residual = data.tables(named(data, ATTENTION), 0.5, 0)["pin"]
    assert not residual.values.any()
    assert data.tables(named(data, FROZEN), 0.5, 0) == {}
    corrected = {one.name: one.corrects for one in data.config(named(data, ATTENTION)).tables}
    assert corrected == {"user": "user_graph_v1", "pin": "pin_graph_v1"}


def test_what_fits_is_found_and_no_piece_is_made_twice(
    data: StudyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [named(data, name) for name in (NONE, ATTENTION)]
    how = TrainingConfig(epochs=6, batch_size=128, patience=2)

    def made(seeds: range) -> list[Piece]:
        return list(pieces(data, chosen, how, seeds, tmp_path, lambda *_: None))

    first = made(range(1))
    assert [one.variant for one in first] == [NONE, ATTENTION]
    assert first[1].rate in RATES["residual"] and first[0].rate is None
    none, attention = (one.figures[ALL]["click"].auc for one in first)
    assert none is not None and attention is not None
    assert attention > none + 0.1, "clicks follow from the graph's vectors"
    assert first[0].figures["first"]["click"].rows == 250

    trained: list[int] = []
    train = ranker_training.train_ranker

    def counted(*given: Any, seed: int, **named: Any) -> Any:
        trained.append(seed)
        return train(*given, seed=seed, **named)

    monkeypatch.setattr(pieces_of_study, "train_ranker", counted)
    assert made(range(1)) == first and not trained
    (tmp_path / "no-embeddings-0.json").write_text('{"half": ')
    assert made(range(1))[0] == first[0], "a damaged piece is made again, and is the same"
    assert trained == [0]
    other = replace(data, digest="other rows")
    list(pieces(other, chosen[:1], how, range(1), tmp_path, lambda *_: None))
    assert trained == [0, 0]


def piece(variant: str, seed: int, auc: float | None) -> Piece:
    metrics = TaskMetrics(rows=10, positives=3, auc=auc, log_loss=0.5, calibration=1.0)
    return Piece(
        fingerprint="",
        variant=variant,
        seed=seed,
        epochs=1,
        rate=None,
        figures={ALL: {"click": metrics}},
    )


def test_answers_are_paired_by_seed() -> None:
    better, than = [0.7, 0.8, 0.75], [0.6, 0.75, 0.74]
    made = [piece(FROZEN, seed, auc) for seed, auc in enumerate(better)]
    made += [piece(NONE, seed, auc) for seed, auc in reversed(list(enumerate(than)))]
    answers = answers_of(made, [Question(FROZEN, NONE)])
    (answer,) = (one for one in answers if one.figure == "auc")
    differences = [a - b for a, b in zip(better, than, strict=True)]
    half = t_quantile(2) * statistics.stdev(differences) / 3**0.5
    mean = statistics.fmean(differences)
    assert answer.difference.mean == pytest.approx(mean)
    assert answer.difference.low == pytest.approx(mean - half)
    assert answer.relative == pytest.approx(mean / statistics.fmean(than))


def test_a_seed_without_a_figure_counts_for_neither() -> None:
    made = [piece(FROZEN, 0, 0.7), piece(FROZEN, 1, None), piece(NONE, 0, 0.6), piece(NONE, 1, 0.9)]
    answers = answers_of(made, [Question(FROZEN, NONE)])
    (answer,) = (one for one in answers if one.figure == "auc")
    assert answer.difference.mean == pytest.approx(0.1)
    assert answer.difference.n == 1
    assert means_of(made)[FROZEN][ALL]["click"]["auc"] is not None
    assert means_of([piece(FROZEN, 0, None)])[FROZEN][ALL]["click"]["auc"] is None


def a_study() -> tuple[Study, list[Question]]:
    asked = [Question(FROZEN, NONE)]
    made = [
        piece(FROZEN, 0, 0.7),
        piece(FROZEN, 1, 0.72),
        piece(NONE, 0, 0.6),
        piece(NONE, 1, 0.61),
    ]
    told = Study(
        world="<b>shop</b>",
        seeds=[0, 1],
        training_rows=1234,
        window=("2026-01-01", "2026-02-01", "2026-03-01"),
        rows={ALL: {"click": 10}},
        positives={ALL: {"click": 3}},
        coverage={"user_graph_v1": 0.5},
        means=means_of(made),
        answers=answers_of(made, asked),
        epochs={NONE: 1.0, FROZEN: 1.0},
    )
    return told, asked


def test_the_report_says_it_in_every_form(tmp_path: Path) -> None:
    study, asked = a_study()
    page = write_report(tmp_path, study, asked)
    html, markdown = page.read_text(), (tmp_path / "study.md").read_text()
    assert "&lt;b&gt;shop&lt;/b&gt;" in html and "<b>shop" not in html
    assert "| frozen | 0.7100 | 0.5000 | 1.00 |" in markdown
    assert "+0.1050" in markdown and "+17.4%" in markdown and "+17.4%" in html
    assert Study.model_validate_json((tmp_path / "study.json").read_text()) == study
    for name in charts(study, asked):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert set(charts(study, asked)) == {"auc_click", "lift_click", "calibration_click"}
