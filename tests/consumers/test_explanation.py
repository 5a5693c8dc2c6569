from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from provender.consumers.explanation import Explanation, explain, one_row
from provender.consumers.explanation_page import age_of, charts_of, explanation_page
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker
from tests.consumers.test_ranker import LAYOUT
from tests.consumers.test_ranker_parts import KINDS, config, full_world, opened, tables

FACETS = {
    "none": ["users", "pins", "counters", "past"],
    "concat": ["user_v1", "pin_v1", "users", "pins", "counters", "past"],
    "attention": ["user_v1", "pin_v1", "users", "pins", "counters", "past"],
}


def some_ranker(vectors: str) -> Ranker:
    torch.manual_seed(0)
    rows = full_world().rows
    ranker = Ranker(config(vectors), LAYOUT, Preprocessing.fit(LAYOUT, rows, ["place"]), tables())
    return opened(ranker).eval()


@pytest.mark.parametrize("vectors", KINDS)
def test_a_contribution_is_the_score_less_that_of_a_row_without_it(vectors: str) -> None:
    ranker = some_ranker(vectors)
    row = one_row(full_world(30, seed=4).rows, 11)
    told = explain(ranker, row)
    assert [part.name for part in told.facets] == FACETS[vectors]
    score = float(ranker.score(row).click[0])
    assert told.score == pytest.approx(score, rel=1e-5)
    by_name = {part.name: part for part in told.facets}
    assert row.history is not None
    hidden = {
        "counters": replace(
            row, dense=torch.zeros_like(row.dense), dense_present=row.dense_present & False
        ),
        "past": replace(
            row, history=replace(row.history, items=torch.full_like(row.history.items, -1))
        ),
    }
    if vectors != "none":
        absent = {**row.present, "user_v1": torch.tensor([False])}
        hidden["user_v1"] = replace(row, present=absent)
    for name, without in hidden.items():
        part = by_name[name]
        assert part.score_without == pytest.approx(
            float(ranker.score(without).click[0]), rel=1e-5
        ), name
        logits = [
            torch.logit(torch.tensor(s, dtype=torch.float64))
            for s in (told.score, part.score_without)
        ]
        assert part.contribution == pytest.approx(float(logits[0] - logits[1]), abs=1e-4)
    assert any(abs(part.contribution) > 1e-4 for part in told.facets)


def test_actions_are_told_one_by_one_with_where_attention_lay() -> None:
    ranker = some_ranker("attention")
    rows = full_world(30, seed=4).rows
    assert rows.history is not None
    place = int((rows.history.items >= 0).sum(1).argmax())
    row = one_row(rows, place)
    told = explain(ranker, row)
    assert row.history is not None
    assert [action.pin for action in told.actions] == [
        row.history.keys[int(item)].as_py() for item in row.history.items[0] if item >= 0
    ]
    assert {action.kind for action in told.actions} <= {"click", "save"}
    for heads in zip(*(one.attention for one in told.actions), told.nothing_past, strict=True):
        assert sum(heads) == pytest.approx(1, abs=1e-5)
    looked = [part.looked or 0 for part in told.facets if part.attention]
    assert sum(looked) + sum(told.nothing) / len(told.nothing) == pytest.approx(1, abs=1e-5)
    items = row.history.items.clone()
    items[0, 1] = -1
    without = replace(row, history=replace(row.history, items=items))
    logits = ranker.logits(ranker.preprocessing(without), without)
    assert told.actions[1].contribution == pytest.approx(
        told.logit - float(logits[0, 0].detach()), abs=1e-5
    )


def test_what_is_missing_is_said_and_adds_nothing() -> None:
    ranker = some_ranker("attention")
    rows = full_world(30, seed=4).rows
    rows.present["pin_v1"][3] = False
    rows = replace(rows, keys={**rows.keys, "user_id": rows.keys["user_id"]})
    told = explain(ranker, one_row(rows, 3))
    part = next(each for each in told.facets if each.name == "pin_v1")
    assert not part.present
    assert part.contribution == 0


def test_the_page_shows_all_of_it_and_loads_nothing() -> None:
    told = explain(some_ranker("attention"), one_row(full_world(30, seed=4).rows, 11))
    charts = charts_of(told)
    assert set(charts) == {"facets", "actions"}
    assert all(chart.png.startswith(b"\x89PNG") for chart in charts.values())
    html = explanation_page(told, charts, "<b>7</b>", 12, "2026-03-14 00:00", "with-0")
    assert "<b>7</b>" not in html
    assert "&lt;b&gt;7&lt;/b&gt;" in html
    for part in told.facets:
        assert part.name in html
    assert not re.search(r'(src|href)="http', html)
    again = Explanation.model_validate_json(json.dumps(told.model_dump(mode="json")))
    assert again == told


def test_ages_are_said_as_people_do() -> None:
    assert [age_of(s) for s in (5, 70, 7300, 200_000)] == ["5 s", "1 min", "2 h", "2 d"]
