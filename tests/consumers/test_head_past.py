"""The attention head with learned rows and the users' past."""

from __future__ import annotations

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.consumers.attention_head import AttentionHead
from provender.consumers.geometry import past_dots, past_geometry
from provender.consumers.history_tokens import AGES, Past, compact
from provender.consumers.user_history import History, is_one_past
from provender.plugin.errors import ConfigError
from tests.consumers.heads import PAGE, PIN, SPECS, TABLES, USER, full_head, inputs


def test_a_new_head_adds_nothing_to_the_bit_and_opens() -> None:
    head = full_head(trained=False).train()
    given = inputs()
    logits = torch.randn(16, 2)
    added = head(*given)
    assert torch.equal(logits + added, logits)
    added.sum().backward()
    assert head.gate.grad is not None
    assert (head.gate.grad != 0).all()


def test_tables_start_without_effect_on_what_the_rest_says() -> None:
    head = full_head(trained=False)
    torch.nn.init.ones_(head.gate)
    given = inputs()
    every = {name: torch.ones_like(row) for name, row in given.rows.items()}
    doubled = {name: 2 * row for name, row in every.items()}
    first = head(given.vectors, given.present, every, given.history, given.history_rows)
    second = head(given.vectors, given.present, doubled, given.history, given.history_rows)
    assert torch.equal(first, second)


def test_every_parameter_gets_a_gradient() -> None:
    head = full_head()
    given = inputs(64)
    given.present[PIN.view_name][0] = False
    given.rows["pins"][0] = 0  # This candidate is wholly unknown.
    head(*given).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_rows_of_tables_get_a_gradient_where_they_are_known() -> None:
    head = full_head()
    given = inputs()
    for row in (*given.rows.values(), *given.history_rows.values()):
        row.requires_grad_()
    head(*given).square().sum().backward()
    for name, row in given.rows.items():
        assert row.grad is not None
        known = (row != 0).any(1)
        assert (row.grad[known] != 0).any(1).all(), name
    used = given.history.items[given.history.items >= 0].unique()
    gradient = given.history_rows["pins"].grad
    assert gradient is not None
    assert ((gradient != 0).any(1).nonzero().flatten() == used).all()


@pytest.mark.parametrize("poison", [1e6, float("nan"), float("inf")])
def test_what_is_missing_changes_nothing_whatever_its_row_holds(poison: float) -> None:
    head = full_head()
    given = inputs()
    expected = head(*given)
    for view, mask in given.present.items():
        given.vectors[view][~mask] = poison
    past = given.history
    past.vectors[PIN.view_name][~past.present[PIN.view_name]] = poison
    assert torch.equal(head(*given), expected)
    past.kinds[past.items < 0] = 1
    past.age_seconds[past.items < 0] = 5e5
    assert torch.equal(head(*given), expected)


def test_each_thing_that_is_there_matters() -> None:
    head = full_head()
    given = inputs()
    expected = head(*given)
    for name in TABLES:
        rows = {**given.rows, name: given.rows[name] + 1}
        assert (head(*given._replace(rows=rows)) != expected).any(1).all(), name
    past = given.history
    some = (past.items >= 0).any(1)
    assert 0 < some.sum() < len(some)
    for changed in (
        replace(past, kinds=1 - past.kinds),
        replace(past, age_seconds=past.age_seconds * 30 + 1e4),
        replace(past, vectors={PIN.view_name: past.vectors[PIN.view_name] + 1}),
    ):
        moved = (head(*given._replace(history=changed)) != expected).any(1)
        assert not moved[~some].any()
        assert moved[some].float().mean() > 0.5
    items = {"pins": given.history_rows["pins"] + 1}
    assert ((head(*given._replace(history_rows=items)) != expected).any(1) == some).all()


def test_the_order_of_the_past_says_nothing_but_age_does() -> None:
    head = full_head()
    given = inputs()
    order = torch.tensor([4, 2, 0, 3, 1])
    past = given.history
    turned = replace(
        past,
        items=past.items[:, order],
        kinds=past.kinds[:, order],
        age_seconds=past.age_seconds[:, order],
    )
    torch.testing.assert_close(head(*given._replace(history=turned)), head(*given))


def test_attention_over_the_past_is_the_softmax_written_out() -> None:
    head = full_head()
    past_of, given = head.past, inputs()
    assert past_of is not None
    history = given.history
    past = Past.of(history)
    tokens = head.tokens.items([PIN.view_name], past.vectors, past.present, given.history_rows)
    asked = torch.randn(16, 12)
    found = past_of(asked, tokens, past, past.items >= 0)
    items = past_of.norm(tokens)
    keys, values = items @ past_of.key.weight.T, items @ past_of.value.weight.T
    for row in range(16):
        query = past_of.ask(asked[row])
        parts = []
        for h in range(3):
            of = slice(4 * h, 4 * h + 4)
            fits, said = [], []
            for place in range(5):
                item = int(past.items[row, place])
                if item < 0:
                    continue
                kind = int(past.kinds[row, place])
                minutes = float(past.age_seconds[row, place]) / 60
                age = min(int(math.log2(1 + minutes)), AGES - 1)
                bias = past_of.kind_bias[kind, h] + past_of.age_bias[age, h]
                fits.append(keys[item, of] @ query[of] / 2 + bias)  # 2 = sqrt(4)
                said.append(values[item, of] + past_of.kind_value[kind, of])
            fits.append(past_of.nothing[0, of] @ query[of] / 2)
            said.append(past_of.nothing[1, of])
            weights = torch.softmax(torch.stack(fits), dim=0)
            parts.append(weights @ torch.stack(said))
        torch.testing.assert_close(found.answer[row], torch.cat(parts), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 9), st.integers(0, 300), st.booleans())
def test_dots_with_the_past_are_those_of_a_loop(
    seed: int, rows: int, items: int, learned: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    candidate = torch.randn(rows, 4, generator=generator)
    vectors = torch.randn(items, 4, generator=generator).requires_grad_(learned)
    places = torch.randint(-1, max(items, 0) or 1, (rows, 6), generator=generator)
    places = torch.where(places < items, places, -1)
    known = places >= 0
    weights = torch.rand(rows, 6, generator=generator) + 0.1
    dots = past_dots(candidate, vectors, places)
    told = past_geometry(dots, known, weights)
    for row in range(rows):
        there = [p for p in range(6) if known[row, p]]
        if not there:
            assert (told[row] == 0).all()
            continue
        each = torch.stack([candidate[row] @ vectors[places[row, p]] for p in there])
        w = weights[row, there]
        expected = torch.stack([each.max(), each.mean(), (w * each).sum() / w.sum()])
        torch.testing.assert_close(told[row], expected, rtol=1e-4, atol=1e-5)


def test_compact_keeps_what_is_used_and_nothing_else() -> None:
    past = inputs(3, items=50).history
    smaller, kept = compact(past)
    used = past.items[past.items >= 0].unique()
    assert torch.equal(kept, used)
    assert smaller.keys.to_pylist() == used.tolist()
    there = past.items >= 0
    assert torch.equal(smaller.items >= 0, there)
    view = PIN.view_name
    for before, after in ((past.vectors, smaller.vectors), (past.present, smaller.present)):
        assert torch.equal(after[view][smaller.items[there]], before[view][past.items[there]])
    head, given = full_head(), inputs(3, items=50)
    rows = {"pins": given.history_rows["pins"][kept]}
    torch.testing.assert_close(
        head(*given._replace(history=smaller, history_rows=rows)), head(*given)
    )


def test_nobody_with_a_past_is_an_answer() -> None:
    head = full_head()
    given = inputs(4, items=0)
    assert torch.isfinite(head(*given)).all()
    some = inputs(4)
    none = replace(some.history, items=torch.full((4, 5), -1))
    torch.testing.assert_close(
        head(*some._replace(history=none)),
        head(*some._replace(history=given.history, history_rows=given.history_rows)),
    )
    assert head(*inputs(0)).shape == (0, 2)


def test_what_was_looked_at_is_told_and_sums_to_one() -> None:
    head = full_head()
    given = inputs()
    seen = head.look(*given)
    assert torch.equal(seen.logits, head(*given))
    assert seen.actions is not None
    assert seen.facets.shape == (16, len(head.facets) + 1, 3)
    assert head.facets == (*(one.view_name for one in SPECS), "advertisers")
    for weights in (seen.facets, seen.actions):
        torch.testing.assert_close(weights.sum(1), torch.ones(16, 3))
    assert (seen.actions[:, :-1][given.history.items < 0] == 0).all()
    alone = given.present[USER.view_name] | (given.rows["users"] != 0).any(1)
    assert torch.equal((seen.facets[:, 0] > 0).all(1), alone)
    assert torch.equal((seen.facets[:, 2] > 0).all(1), given.present[PAGE.view_name])


def test_fitting_makes_scores_the_same_in_any_unit() -> None:
    given = inputs(200)
    scaled = given._replace(
        vectors={view: 100 * rows for view, rows in given.vectors.items()},
        history=replace(
            given.history,
            vectors={view: 100 * rows for view, rows in given.history.vectors.items()},
        ),
    )
    found = []
    for each in (given, scaled):
        head = full_head()
        head.fit(each.vectors, each.present, each.history)
        found.append(head(*each))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_training_hides_the_past_and_rows_as_whole_facets() -> None:
    head = full_head(facet_dropout=0.9).train()
    given = inputs(400)
    torch.manual_seed(3)
    _, rows, hides_past = head._hide_some(given.present, given.rows)
    assert hides_past is not None
    assert hides_past.float().mean() == pytest.approx(0.9, abs=0.05)
    known = (given.rows["users"] != 0).any(1)
    kept = (rows["users"] != 0).any(1)
    assert kept.sum() / known.sum() == pytest.approx(0.1, abs=0.05)


def test_what_the_head_was_built_with_has_to_be_given() -> None:
    head = full_head()
    vectors, present, rows, history, items = inputs()
    with pytest.raises(ConfigError, match=r"rows: found \(none\); expected those of table users"):
        head(vectors, present, None, history, items)
    with pytest.raises(ConfigError, match="history: found"):
        head(vectors, present, rows, None, items)
    with pytest.raises(ConfigError, match="history_rows"):
        head(vectors, present, rows, history)
    bare = History(history.items, history.kinds, history.age_seconds, pa.array(range(7)))
    with pytest.raises(ConfigError, match="the vectors of pin_graph_v1"):
        head(vectors, present, rows, bare, items)
    with pytest.raises(ConfigError, match="names of their own"):
        AttentionHead(SPECS, PIN.view_name, tasks=1, tables={PAGE.view_name: TABLES["advertisers"]})


@pytest.mark.parametrize("actions", [3, 0])
def test_one_past_of_all_rows_is_looked_at_as_that_of_each(actions: int) -> None:
    head = full_head().eval()
    given = inputs(9)
    items, kinds, ages = (
        part[:1].clone()
        for part in (given.history.items, given.history.kinds, given.history.age_seconds)
    )
    items[:, actions:] = -1
    one = replace(
        given.history,
        items=items.expand(9, -1),
        kinds=kinds.expand(9, -1),
        age_seconds=ages.expand(9, -1),
    )
    each = replace(
        one,
        items=one.items.contiguous(),
        kinds=one.kinds.contiguous(),
        age_seconds=one.age_seconds.contiguous(),
    )
    assert is_one_past(one.items)
    assert not is_one_past(each.items)
    rows = given.vectors, given.present, given.rows
    found = head.look(*rows, one, given.history_rows)
    expected = head.look(*rows, each, given.history_rows)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    some = torch.tensor([4, 4, 0])
    assert is_one_past(one.take(some).items)
    for name in ("items", "kinds", "age_seconds"):
        assert torch.equal(getattr(one.take(some), name), getattr(each.take(some), name))
