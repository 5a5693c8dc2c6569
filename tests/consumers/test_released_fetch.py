"""What is fetched online is what is released, and what the ranker learned."""

from __future__ import annotations

import getpass
from typing import Any

import pytest
import torch
from feast import FeatureStore, FeatureView

from provender.consumers.features import RankerBatch
from provender.consumers.online_fetch import OnlineFetcher
from provender.consumers.ranker import Ranker
from provender.plugin.errors import VersionError
from provender.plugin.releases import Release, Releases, ReleaseWatch
from tests.consumers.kitchen import Kitchen, Version, hours, some_ranker
from tests.consumers.moves import FAMILY, PINS, USER, move, toggled


def fetcher(store: FeatureStore, service: str = "rich", **options: Any) -> OnlineFetcher:
    watch = ReleaseWatch(Releases.of(store), seconds=0)
    return OnlineFetcher(store, service, now=hours(49), watch=watch, **options)


def read_version(batch: RankerBatch) -> int:
    """The version that the vectors themselves tell; user and pin have to agree."""
    (told,) = {
        float(number)
        for view, vectors in batch.vectors.items()
        for number in vectors[batch.present[view]].unique()
    }
    return int(told)


@pytest.fixture
def learned_1(released: FeatureStore) -> Ranker:
    return some_ranker(released, "rich")


@pytest.fixture
def accepting(released: FeatureStore) -> Ranker:
    return some_ranker(released, "rich", accepts_anchored=True)


def test_what_was_never_released_is_read_as_declared(
    released: FeatureStore, learned_1: Ranker
) -> None:
    for options in ({}, {"ranker": learned_1}, {"pinned": True, "ranker": learned_1}):
        batch = fetcher(released, **options).fetch(USER, PINS)
        assert (read_version(batch), batch.versions) == (1, {FAMILY: 1})
        assert batch.present["pin_test_v1"].tolist() == [True, True, False]


def test_the_live_version_is_read_by_the_ranker_that_learned_from_it(
    released: FeatureStore, learned_1: Ranker
) -> None:
    learned_3 = some_ranker(released, "rich_v3")
    one, three = fetcher(released, ranker=learned_1), fetcher(released, "rich_v3", ranker=learned_3)
    for live, served, refused in ((1, one, three), (3, three, one), (1, one, three)):
        move(released, live=live)
        batch = served.fetch(USER, PINS)
        assert (read_version(batch), batch.versions) == (live, {FAMILY: live})
        with pytest.raises(VersionError, match=f"found version {live} live"):
            refused.fetch(USER, PINS)


def test_a_refusal_says_what_is_live_since_when_what_was_learned_and_what_to_do(
    released: FeatureStore, learned_1: Ranker
) -> None:
    served = fetcher(released, ranker=learned_1)
    state = move(released, live=3)
    with pytest.raises(VersionError) as refusal:
        served.fetch(USER, PINS)
    assert str(refusal.value) == (
        "feature service rich, family tests: found version 3 live (promote by "
        f"{state.by} at {state.at:%Y-%m-%d %H:%M:%S} UTC); expected version 1 (pin_test_v1, "
        "user_test_v1), as the ranker learned. Serve a ranker trained on version 3; or return "
        "with `provender release rollback tests`; pinned=True goes on reading version 1 until it "
        "is retired."
    )
    assert getpass.getuser() in state.by


def test_an_anchored_version_is_refused_to_who_does_not_accept_it(
    released: FeatureStore, learned_1: Ranker
) -> None:
    move(released, live=2)
    with pytest.raises(VersionError, match=r"version 2, or that accepts it \(`provender rank --ac"):
        fetcher(released, ranker=learned_1).fetch(USER, PINS)


def test_an_anchored_version_is_read_under_the_names_that_the_ranker_knows(
    released: FeatureStore, accepting: Ranker
) -> None:
    served = fetcher(released, ranker=accepting)
    for live in (1, 2, 1):
        move(released, live=live)
        batch = served.fetch(USER, PINS)
        assert list(batch.vectors) == ["user_test_v1", "pin_test_v1"]
        assert (read_version(batch), batch.versions) == (live, {FAMILY: live})
        assert batch.age_seconds["pin_test_v1"][0] == 3600
        accepting.score(served.fetch(USER, PINS, {"place": "home"}))


def test_who_learned_from_the_anchored_version_reads_the_older_one_after_a_rollback(
    released: FeatureStore,
) -> None:
    learned_2 = some_ranker(released, "rich_v2", accepts_anchored=True)
    served = fetcher(released, "rich_v2", ranker=learned_2)
    for live in (2, 1):
        move(released, live=live)
        batch = served.fetch(USER, PINS)
        assert (read_version(batch), batch.versions) == (live, {FAMILY: live})
        assert list(batch.vectors) == ["user_test_v2", "pin_test_v2"]


def test_a_version_of_another_space_is_refused_to_who_accepts_anchored_ones(
    released: FeatureStore, accepting: Ranker
) -> None:
    move(released, live=3)
    with pytest.raises(VersionError, match="Serve a ranker trained on version 3; or return"):
        fetcher(released, ranker=accepting).fetch(USER, PINS)


def test_pinned_reads_its_own_until_it_is_retired(
    released: FeatureStore, learned_1: Ranker
) -> None:
    pinned, bare = fetcher(released, ranker=learned_1, pinned=True), fetcher(released)
    move(released, live=1)
    move(released, live=3, former=1)
    for one in (pinned, bare):
        assert read_version(one.fetch(USER, PINS)) == 1
    move(released, "retire", retired=(1,), former=None)
    for one in (pinned, bare):
        with pytest.raises(VersionError) as refusal:
            one.fetch(USER, PINS)
        assert str(refusal.value) == (
            "feature service rich, family tests: found version 1, which is retired; expected a "
            "version that may serve; live is 3. Read a service of the live version, with a ranker "
            "trained on it."
        )
    with pytest.raises(VersionError, match=r"Serve a ranker trained on version 3\.$"):
        fetcher(released, ranker=learned_1).fetch(USER, PINS)


def test_a_candidate_is_not_served_to_a_plain_fetcher(
    released: FeatureStore, learned_1: Ranker
) -> None:
    move(released, live=1)
    move(released, "canary", candidate=3, share=1.0)
    assert fetcher(released, ranker=learned_1).fetch(USER, PINS).versions == {FAMILY: 1}
    with pytest.raises(VersionError, match="found version 1 live"):
        learned_3 = some_ranker(released, "rich_v3")
        fetcher(released, "rich_v3", ranker=learned_3).fetch(USER, PINS)


def test_a_ranker_of_several_versions_reads_each_while_one_of_them_is_live(
    released: FeatureStore,
) -> None:
    both = some_ranker(released, "both", accepts_anchored=True)
    served = fetcher(released, "both", ranker=both)
    for live in (1, 2, 3):
        move(released, live=live)
        batch = served.fetch(USER, PINS)
        assert batch.versions == {FAMILY: live}
        for version, dim in ((1, 4), (2, 4), (3, 6)):
            expected = torch.full((dim,), float(version))
            assert torch.equal(batch.vectors[f"pin_test_v{version}"][0], expected)
    move(released, "retire", retired=(2,))
    with pytest.raises(VersionError, match="found version 2, which is retired"):
        served.fetch(USER, PINS)


def test_a_version_that_was_registered_later_is_found(
    served_kitchen: Kitchen, released: FeatureStore, accepting: Ranker
) -> None:
    move(released, live=1)
    served = fetcher(released, ranker=accepting)
    assert read_version(served.fetch(USER, PINS)) == 1
    newer = Version(4, anchored_to=2, space=1)
    served_kitchen.versions.append(newer)
    keyed = {"user": {1: [4.0] * 4}, "pin": dict.fromkeys((10, 11), [4.0] * 4)}
    served_kitchen.snapshot(newer, hours(48), keyed)
    served_kitchen.store().materialize(hours(-1), hours(49))
    move(released, live=4)
    assert read_version(served.fetch(USER, PINS)) == 4


def test_an_unknown_version_is_looked_up_once_and_refused(
    released: FeatureStore, accepting: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, listed = [], FeatureStore.list_feature_views

    def counted(self: FeatureStore, *arguments: Any, **options: Any) -> list[FeatureView]:
        looked.append(1)
        return listed(self, *arguments, **options)

    monkeypatch.setattr(FeatureStore, "list_feature_views", counted)
    served = fetcher(released, ranker=accepting)
    move(released, live=9)
    for _ in range(5):
        with pytest.raises(VersionError, match="found version 9 live"):
            served.fetch(USER, PINS)
    assert len(looked) == 1


def test_the_database_is_asked_once_in_a_while(released: FeatureStore, learned_1: Ranker) -> None:
    asked, clock = [], [0.0]

    class Counted(Releases):
        def states(self) -> dict[str, Release]:
            asked.append(1)
            return super().states()

    releases = Counted(Releases.of(released).online, released.config)
    watch = ReleaseWatch(releases, seconds=1, clock=lambda: clock[0])
    served = OnlineFetcher(released, "rich", ranker=learned_1, now=hours(49), watch=watch)
    move(released, live=1)
    for at in (0.0, 0.5, 0.9, 1.0, 1.5):
        clock[0] = at
        served.fetch(USER, PINS)
    assert len(asked) == 2
    move(released, live=3)
    clock[0] = 1.9
    served.fetch(USER, PINS)
    clock[0] = 2.0
    with pytest.raises(VersionError):
        served.fetch(USER, PINS)


def test_no_request_mixes_versions_whatever_is_promoted_meanwhile(
    released: FeatureStore, accepting: Ranker
) -> None:
    served = fetcher(released, ranker=accepting)

    def read() -> int:
        batch = served.fetch(USER, PINS)
        assert all(batch.present[view][:2].all() for view in batch.present)
        version = read_version(batch)
        assert batch.versions == {FAMILY: version}
        return version

    toggled(released, (1, 2), read)


def test_a_ranker_is_never_given_a_vector_of_what_it_did_not_learn(
    released: FeatureStore, learned_1: Ranker
) -> None:
    served, refused = fetcher(released, ranker=learned_1), []

    def read() -> int:
        try:
            batch = served.fetch(USER, PINS)
        except VersionError as refusal:
            refused.append(refusal)
            return 3
        assert (read_version(batch), batch.versions) == (1, {FAMILY: 1})
        return 1

    toggled(released, (1, 3), read)
    assert refused
