from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from feast import FeatureStore

from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker
from provender.consumers.ranking_request import rank
from provender.consumers.released_ranking import ReleasedRanking
from provender.plugin.errors import ConfigError, FetchError, VersionError
from provender.plugin.releases import Release, Releases, ReleaseWatch
from tests.consumers.kitchen import FEASTS, Kitchen, hours, some_ranker
from tests.consumers.moves import FAMILY, PINS, USER, move, toggled

CONTEXT = {"place": "home"}


@pytest.fixture
def of_1(released: FeatureStore) -> Ranker:
    return some_ranker(released, "rich")


@pytest.fixture
def of_3(released: FeatureStore) -> Ranker:
    return some_ranker(released, "rich_v3")


def ranking(store: FeatureStore, *rankers: Ranker, **options: Any) -> ReleasedRanking:
    return ReleasedRanking(store, rankers, **{"seconds": 0, "now": hours(49), **options})


def alone(store: FeatureStore, ranker: Ranker) -> list[float]:
    """The scores that a ranker gives when nothing but its own version is read."""
    service = ranker.layout.service
    fetcher = OnlineFetcher(store, service, ranker=ranker, now=hours(49), pinned=True)
    return rank(fetcher, ranker, USER, PINS, CONTEXT).scores


def test_the_ranker_of_the_live_version_answers(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    expected = {1: alone(released, of_1), 3: alone(released, of_3)}
    served = ranking(released, of_3, of_1)
    for live in (1, 3, 1):
        move(released, live=live)
        answer = served.rank(USER, PINS, CONTEXT)
        assert (answer.versions, answer.scores) == ({FAMILY: live}, expected[live])
        assert answer.missing == {f"user_test_v{live}": 0, f"pin_test_v{live}": 1}


def test_before_the_first_release_the_first_ranker_answers(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    assert ranking(released, of_3, of_1).rank(USER, PINS, CONTEXT).versions == {FAMILY: 3}
    move(released, "canary", candidate=1, share=0.0)
    assert ranking(released, of_3, of_1).rank(USER, PINS, CONTEXT).versions == {FAMILY: 3}


def test_who_learned_from_a_version_goes_before_who_accepts_it(released: FeatureStore) -> None:
    accepting = some_ranker(released, "rich", accepts_anchored=True)
    of_2 = some_ranker(released, "rich_v2")
    move(released, live=2)
    answer = ranking(released, accepting, of_2).rank(USER, PINS, CONTEXT)
    assert list(answer.missing) == ["user_test_v2", "pin_test_v2"]
    answer = ranking(released, accepting).rank(USER, PINS, CONTEXT)
    assert list(answer.missing) == ["user_test_v1", "pin_test_v1"]
    assert answer.versions == {FAMILY: 2}
    assert answer.scores != alone(released, accepting)


def test_a_live_version_that_no_ranker_reads_is_refused(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    move(released, live=2)
    with pytest.raises(VersionError) as refusal:
        ranking(released, of_1, of_3).rank(USER, PINS, CONTEXT)
    assert str(refusal.value) == (
        "rankers of released versions: found version 2 of family tests live; expected what they "
        "learned from: version 1 or 3 of family tests. Add a ranker trained on what is live, or "
        "return with `provender release rollback`."
    )


def test_a_ranker_that_reads_a_retired_version_too_makes_way(
    released: FeatureStore, of_3: Ranker
) -> None:
    both = some_ranker(released, "both")
    served = ranking(released, both, of_3)
    move(released, live=3)
    assert len(served.rank(USER, PINS, CONTEXT).missing) == 6
    move(released, "retire", retired=(1,))
    assert len(served.rank(USER, PINS, CONTEXT).missing) == 2
    with pytest.raises(VersionError, match="found version 3 of family tests live"):
        ranking(released, both).rank(USER, PINS, CONTEXT)


def test_rankers_without_embeddings_are_never_chosen(released: FeatureStore, of_1: Ranker) -> None:
    plain = some_ranker(released, "plain")
    move(released, live=1)
    assert ranking(released, plain, of_1).rank(USER, PINS, CONTEXT).versions == {FAMILY: 1}
    with pytest.raises(ConfigError, match="found 1, none of which reads embeddings"):
        ranking(released, plain)


def test_a_share_that_is_none_is_refused(released: FeatureStore, of_1: Ranker) -> None:
    with pytest.raises(ConfigError, match=r"shadow_share: found 1\.5; expected a share"):
        ranking(released, of_1, shadow_share=1.5)


def test_another_online_store_has_no_releases(tmp_path: Any) -> None:
    kitchen = Kitchen(tmp_path, stores=FEASTS)
    kitchen.write("user", [])
    kitchen.write("pin", [])
    with pytest.raises(ConfigError, match="releases lie beside its tables"):
        ReleasedRanking(kitchen.store(), [])


def test_a_canary_reads_the_candidate_by_the_hash_of_the_key(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    expected = {1: alone(released, of_1), 3: alone(released, of_3)}
    served = ranking(released, of_1, of_3, seconds=1000)
    move(released, live=1)
    state = move(released, "canary", candidate=3, share=0.3)
    told = {key: served.rank(USER, PINS, CONTEXT, request_key=key) for key in range(80)}
    for key, answer in told.items():
        version = state.version_for(key) or 0
        assert (answer.versions, answer.scores) == ({FAMILY: version}, expected[version])
        again = served.rank(USER, PINS, CONTEXT, request_key=key)
        assert (again.versions, again.scores) == (answer.versions, answer.scores)
    counts = Counter(answer.versions[FAMILY] for answer in told.values())
    assert counts[3] == pytest.approx(24, abs=15)


def test_the_key_is_the_user_unless_the_request_has_one(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    served = ranking(released, of_1, of_3, seconds=1000)
    move(released, live=1)
    state = move(released, "canary", candidate=3, share=0.5)
    for user in range(20):
        answer = served.rank(user, PINS, CONTEXT)
        assert answer.versions == {FAMILY: state.version_for(user)}


def test_a_candidate_that_no_ranker_reads_gets_nothing_and_is_warned_of_once(
    released: FeatureStore, of_1: Ranker, caplog: pytest.LogCaptureFixture
) -> None:
    served = ranking(released, of_1)
    move(released, live=1)
    move(released, "canary", candidate=3, share=1.0)
    with caplog.at_level(logging.WARNING, "provender.consumers.released_ranking"):
        versions = [served.rank(user, PINS, CONTEXT).versions for user in range(5)]
    assert versions == [{FAMILY: 1}] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "family tests: no ranker reads version 3, the candidate; what is live answers its share of "
        "the requests"
    ]


def test_a_request_that_means_nothing_is_refused_as_ever(
    released: FeatureStore, of_1: Ranker
) -> None:
    with pytest.raises(FetchError, match="expected the column place"):
        ranking(released, of_1).rank(USER, PINS)
    assert ranking(released, of_1).rank(USER, [], CONTEXT).pins == []


def test_the_shadow_adds_up_what_the_candidate_would_have_said(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    expected = {1: alone(released, of_1), 3: alone(released, of_3)}
    served = ranking(released, of_1, of_3, shadow_share=0.5)
    move(released, live=1)
    move(released, "canary", candidate=3, share=0.0)
    for key in range(60):
        assert served.rank(USER, PINS, CONTEXT, request_key=key).scores == expected[1]
    report = served.shadow.report()
    assert 10 < report.requests < 50
    assert report.candidates == report.requests * len(PINS)
    assert (report.live.versions, report.candidate.versions) == ({FAMILY: 1}, {FAMILY: 3})
    means = {version: sum(scores) / len(scores) for version, scores in expected.items()}
    assert report.live.mean_score == pytest.approx(means[1])
    assert report.candidate.mean_score == pytest.approx(means[3])
    assert report.shift == pytest.approx(means[3] - means[1], abs=1e-7)
    assert report.candidate.missing == {"user_test_v3": 0, "pin_test_v3": report.requests}
    requests = report.requests
    for key in range(60):
        served.rank(USER, PINS, CONTEXT, request_key=key)
    assert served.shadow.report().requests == 2 * requests


def test_without_a_candidate_there_is_no_shadow(released: FeatureStore, of_1: Ranker) -> None:
    served = ranking(released, of_1, shadow_share=1.0)
    served.rank(USER, PINS, CONTEXT)
    move(released, live=1)
    served.rank(USER, PINS, CONTEXT)
    assert served.shadow.report().requests == 0


def test_requests_that_the_candidate_answers_have_no_shadow(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    served = ranking(released, of_1, of_3, shadow_share=1.0)
    move(released, live=1)
    move(released, "canary", candidate=3, share=1.0)
    assert served.rank(USER, PINS, CONTEXT).versions == {FAMILY: 3}
    assert served.shadow.report().requests == 0


def test_what_goes_wrong_in_the_shadow_harms_no_answer(
    released: FeatureStore, of_1: Ranker, of_3: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(released, of_1)
    served = ranking(released, of_1, of_3, shadow_share=1.0)
    move(released, live=1)
    move(released, "canary", candidate=3, share=0.0)

    def broken(batch: Any) -> Any:
        raise RuntimeError("no such\nlayer")

    monkeypatch.setattr(of_3, "score", broken)
    for _ in range(3):
        assert served.rank(USER, PINS, CONTEXT).scores == expected
    report = served.shadow.report()
    assert (report.requests, report.failures) == (0, 3)
    assert report.first_failure == "RuntimeError: no such layer"


def reading(served: ReleasedRanking, expected: Mapping[int, Sequence[float]]) -> Callable[[], int]:
    """Return a request whose scores have to be those of the version that it names."""

    def read() -> int:
        answer = served.rank(USER, PINS, CONTEXT)
        version = answer.versions[FAMILY]
        assert answer.scores == expected[version]
        return version

    return read


def test_every_answer_is_of_one_version_whatever_is_promoted_meanwhile(
    released: FeatureStore, of_1: Ranker, of_3: Ranker
) -> None:
    expected = {1: alone(released, of_1), 3: alone(released, of_3)}
    assert expected[1] != expected[3]
    toggled(released, (1, 3), reading(ranking(released, of_1, of_3), expected))


def test_one_ranker_that_reads_either_version_never_reads_both_in_a_request(
    released: FeatureStore,
) -> None:
    accepting = some_ranker(released, "rich", accepts_anchored=True)
    served, expected = ranking(released, accepting), {}
    for live in (1, 2):
        move(released, live=live)
        expected[live] = served.rank(USER, PINS, CONTEXT).scores
    assert expected[1] != expected[2]
    toggled(released, (1, 2), reading(served, expected))


def counted(kind: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each call of `kind.states` in the list that is returned."""
    calls: list[int] = []
    states = kind.states

    def noted(self: Any) -> dict[str, Release]:
        calls.append(1)
        told: dict[str, Release] = states(self)
        return told

    monkeypatch.setattr(kind, "states", noted)
    return calls


def test_a_request_looks_at_the_releases_once(
    released: FeatureStore, of_1: Ranker, of_3: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(released, live=1)
    move(released, "canary", candidate=3, share=0.5)
    served = ranking(released, of_1, of_3, shadow_share=1.0)
    looks = counted(ReleaseWatch, monkeypatch)
    for key in range(10):
        served.rank(USER, PINS, CONTEXT, request_key=key)
    assert len(looks) == 10


def test_releases_are_read_again_only_after_their_seconds(
    released: FeatureStore, of_1: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted(Releases, monkeypatch)
    served = ranking(released, of_1, seconds=1000)
    for _ in range(10):
        served.rank(USER, PINS, CONTEXT)
    assert len(reads) == 1
