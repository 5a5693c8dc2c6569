from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from torch import Tensor

from provender.consumers.attention_head import AttentionHead
from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec


def spec(entity: str, dim: int, space: str) -> EmbeddingSpec:
    return EmbeddingSpec.declare(
        name=f"{entity}_{space}",
        version=1,
        entity=entity,
        join_key=f"{entity}_id",
        dim=dim,
        space=space,
        producer="test",
        ttl=timedelta(days=1),
    )


USER, PIN, PAGE = spec("user", 8, "graph"), spec("pin", 8, "graph"), spec("page", 5, "pages")
VIEWS = [one.view_name for one in (USER, PIN, PAGE)]


def some_head(facet_dropout: float = 0.0, open_gate: bool = True) -> AttentionHead:
    torch.manual_seed(0)
    head = AttentionHead(
        [USER, PIN, PAGE], PIN.view_name, tasks=2, width=12, heads=3, facet_dropout=facet_dropout
    )
    if open_gate:
        torch.nn.init.ones_(head.gate)
    return head.eval()


def some_rows(rows: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    vectors = {
        one.view_name: torch.randn(rows, one.dim, generator=generator) for one in (USER, PIN, PAGE)
    }
    present = {view: torch.rand(rows, generator=generator) < 0.7 for view in VIEWS}
    present[VIEWS[0]][0] = present[VIEWS[1]][0] = present[VIEWS[2]][0] = False
    present[VIEWS[0]][1] = present[VIEWS[1]][1] = present[VIEWS[2]][1] = True
    return vectors, present


def test_a_new_head_changes_no_score_and_its_gate_can_open() -> None:
    head = some_head(open_gate=False).train()
    added = head(*some_rows())
    assert added.shape == (6, 2)
    assert torch.equal(added, torch.zeros(6, 2))
    added.sum().backward()
    assert head.gate.grad is not None
    assert (head.gate.grad != 0).all()


def test_every_parameter_gets_a_gradient_once_the_gate_is_open() -> None:
    head = some_head()
    head(*some_rows()).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("poison", [1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("view", VIEWS)
def test_what_is_missing_changes_nothing_whatever_its_row_holds(view: str, poison: float) -> None:
    head = some_head()
    vectors, present = some_rows()
    expected = head(vectors, present)
    vectors[view] = vectors[view].clone()
    vectors[view][~present[view]] = poison
    assert torch.equal(head(vectors, present), expected)


@pytest.mark.parametrize("view", VIEWS)
def test_what_is_present_matters(view: str) -> None:
    head = some_head()
    vectors, present = some_rows()
    expected = head(vectors, present)
    vectors[view] = vectors[view] + 1
    changed = (head(vectors, present) != expected).any(1)
    assert torch.equal(changed, present[view])


def test_rows_do_not_see_each_other() -> None:
    head = some_head()
    vectors, present = some_rows(9)
    whole = head(vectors, present)
    order = torch.randperm(9)
    shuffled = head(
        {view: rows[order] for view, rows in vectors.items()},
        {view: mask[order] for view, mask in present.items()},
    )
    torch.testing.assert_close(shuffled, whole[order])
    alone = [
        head(
            {view: rows[i : i + 1] for view, rows in vectors.items()},
            {view: mask[i : i + 1] for view, mask in present.items()},
        )
        for i in range(9)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)


def test_attention_is_the_softmax_written_out() -> None:
    head = some_head()
    vectors, present = some_rows()
    tokens, seen = facets = head.tokens(vectors, present, {})
    asked = head._query_token(facets)
    answer = head._attend(asked, facets).answer
    for row in range(6):
        facets = [tokens[row, v] for v in range(3) if seen[row, v]] + [head.nothing]
        facets = head.norm(torch.stack(facets))
        key, value = head.key_value(facets).chunk(2, dim=1)
        query = head.ask(asked[row])
        parts = []
        for h in range(3):
            of = slice(4 * h, 4 * h + 4)
            weights = torch.softmax(key[:, of] @ query[of] / 2.0, dim=0)  # 2 = sqrt(4)
            parts.append(weights @ value[:, of])
        torch.testing.assert_close(answer[row], torch.cat(parts))


def test_only_views_of_one_space_are_compared() -> None:
    assert some_head().pairs == [(USER.view_name, PIN.view_name)]


def test_training_hides_whole_facets_and_serving_none() -> None:
    head = some_head(facet_dropout=0.5)
    vectors, present = some_rows(200)
    torch.testing.assert_close(head(vectors, present), head(vectors, present))
    head.train()
    assert not torch.equal(head(vectors, present), head(vectors, present))


def test_no_rows_are_an_answer() -> None:
    vectors, present = {}, {}
    for one in (USER, PIN, PAGE):
        vectors[one.view_name] = torch.zeros(0, one.dim)
        present[one.view_name] = torch.zeros(0, dtype=torch.bool)
    assert some_head()(vectors, present).shape == (0, 2)


def test_a_wrong_query_or_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of user_graph_v1, pin_graph_v1"):
        AttentionHead([USER, PIN], "page_pages_v1", tasks=1)
    with pytest.raises(ConfigError, match="no views were given"):
        AttentionHead([], "pin", tasks=1)
    with pytest.raises(ConfigError, match="a width that the heads divide"):
        AttentionHead([USER, PIN], PIN.view_name, tasks=1, width=10, heads=4)
