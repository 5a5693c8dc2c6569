from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from feast import FeatureStore

from provender.consumers.ranker import Ranker, save_ranker
from provender.consumers.ranking_service import ranking_app
from provender.consumers.released_ranking import ReleasedRanking
from provender.consumers.service_metrics import ServiceMetrics
from provender.consumers.service_request import RankResponse, Refusal, ServiceLimits
from provender.plugin.errors import OnlineStoreError
from tests.consumers.kitchen import Kitchen, hours, some_ranker
from tests.consumers.moves import FAMILY, PINS, USER, move

#: What is below the ranking is tried on other databases by tests of its own.
pytestmark = pytest.mark.parametrize("served_kitchen", ["sqlite"], indirect=True)
CONTEXT = {"place": "home"}
ASKED = {"user": USER, "candidates": PINS, "context": CONTEXT}


@pytest.fixture
def rankers(released: FeatureStore) -> list[Ranker]:
    return [some_ranker(released, "rich"), some_ranker(released, "rich_v3")]


@pytest.fixture
def ranking(released: FeatureStore, rankers: list[Ranker]) -> ReleasedRanking:
    move(released, live=1)
    return ReleasedRanking(released, rankers, seconds=0, now=hours(49))


@pytest.fixture
def client(ranking: ReleasedRanking) -> Iterator[TestClient]:
    with TestClient(ranking_app(ranking), raise_server_exceptions=False) as opened:
        yield opened


def ask(client: TestClient, **changes: Any) -> Any:
    return client.post("/rank", content=json.dumps({**ASKED, **changes}))


def refused(answer: Any, status: int) -> Refusal:
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    return Refusal.model_validate(answer.json())


def test_an_answer_is_that_of_the_ranking(client: TestClient, ranking: ReleasedRanking) -> None:
    answer = RankResponse.model_validate(ask(client).json())
    expected = ranking.rank(USER, PINS, CONTEXT)
    assert (answer.pins, answer.scores) == (expected.pins, expected.scores)
    assert (answer.user, answer.release) == (USER, {FAMILY: 1})
    assert answer.missing == {"user_test_v1": 0, "pin_test_v1": pytest.approx(1 / 3)}
    times = answer.milliseconds
    assert 0 < times["fetch"] + times["score"] <= times["total"]


def test_duplicates_stay_and_none_give_none(client: TestClient, ranking: ReleasedRanking) -> None:
    pins = [11, 10, 11, 99, 10]
    expected = ranking.rank(USER, pins, CONTEXT)
    answer = ask(client, candidates=pins).json()
    assert (answer["pins"], answer["scores"]) == (expected.pins, expected.scores)
    assert sorted(answer["pins"]) == sorted(pins)
    empty = ask(client, candidates=[]).json()
    assert (empty["pins"], empty["scores"], set(empty["missing"].values())) == ([], [], {0})


def test_an_unknown_user_is_scored_by_what_is_known(
    client: TestClient, ranking: ReleasedRanking
) -> None:
    answer = ask(client, user=123_456).json()
    assert answer["scores"] == ranking.rank(123_456, PINS, CONTEXT).scores
    assert answer["missing"]["user_test_v1"] == 1
    assert answer["scores"] != ask(client).json()["scores"]


def test_ten_thousand_candidates_and_not_one_more(client: TestClient) -> None:
    answer = ask(client, candidates=list(range(10_000))).json()
    assert sorted(answer["pins"]) == list(range(10_000))
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    refusal = refused(ask(client, candidates=list(range(10_001))), 422)
    assert (refusal.thing, refusal.found) == ("request, candidates", "10,001")


def test_context_that_is_no_number(client: TestClient) -> None:
    for value in (math.nan, math.inf, -math.inf, [1.0, math.nan, 2.0]):
        refusal = refused(ask(client, context={"place": "home", "position": value}), 422)
        assert refusal.error == "FetchError"
        assert refusal.thing.startswith("request, context.position")
        assert refusal.found == "NaN or Infinity"


#: What is changed in a request, and what a refusal then names.
MEANINGLESS: list[tuple[dict[str, Any], str, str]] = [
    ({"context": {}}, "request", "context (none)"),
    ({"context": {"position": None}}, "request, context.position", "None"),
    ({"context": {"place": ["home"]}}, "context place", "1 values"),
    ({"context": {"place": None}}, "request, context.place", "None"),
    ({"context": {"place": {"a": 1}}}, "request, context.place", "{'a': 1}"),
    ({"user": None}, "request, user", "None"),
    ({"user": 1.5}, "request, user", "1.5"),
    ({"user": True}, "request, user", "True"),
    ({"user": 2**63}, "request, user", str(2**63)),
    ({"user": "seven"}, "user_id", "seven"),
    ({"candidates": None}, "request, candidates", "None"),
    ({"candidates": [1, None]}, "request, candidates.1", "None"),
    ({"candidates": ["a", 1]}, "request, candidates", "a"),
    ({"surprise": 1}, "request, surprise", "1"),
    ({"history": [{"pin": 1, "kind": "click", "time": "2026-03-01"}]}, "history", "2026"),
    ({"history": [{"pin": 1, "kind": "click"}]}, "request, history.0.time", "nothing"),
    ({"history": [{}] * 1_001}, "request, history", "1001"),
]


def test_what_means_nothing_is_named(client: TestClient) -> None:
    for changes, thing, found in MEANINGLESS:
        refusal = refused(ask(client, **changes), 422)
        assert thing in refusal.thing
        assert found in refusal.thing + refusal.found
        assert refusal.expected and refusal.remedy


def test_a_body_that_is_no_request(client: TestClient) -> None:
    for body in (b"", b"{", b"[]", b"null", b'{"user": 1}', b"\xff", b"x" * 100):
        assert refused(client.post("/rank", content=body), 422).thing.startswith("request")


def test_a_body_that_is_too_long(ranking: ReleasedRanking) -> None:
    limits = ServiceLimits(body_bytes=1_000)
    with TestClient(ranking_app(ranking, limits=limits)) as client:
        assert ask(client).status_code == 200
        assert refused(ask(client, candidates=[1] * 999), 413).expected == "at most 1,000 bytes"
        parts = (b" " * 400 for _ in range(5))  # Of a length that is not said beforehand.
        assert refused(client.post("/rank", content=parts), 413).found == "a longer body"


def test_a_history_goes_along(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    rank = ReleasedRanking.rank

    def noted(self: ReleasedRanking, *asked: Any, **options: Any) -> Any:
        seen.append(options["history"])
        return rank(self, *asked, **options)

    monkeypatch.setattr(ReleasedRanking, "rank", noted)
    action = {"pin": 10, "kind": "click", "time": "2026-03-01T12:00:00+02:00"}
    assert ask(client, history=[action]).status_code == 200
    ((past,),) = seen
    assert past == (10, "click", datetime(2026, 3, 1, 10, tzinfo=UTC))


def test_releases_are_followed_while_it_runs(
    client: TestClient, released: FeatureStore, ranking: ReleasedRanking
) -> None:
    answers: dict[int, list[float]] = {}
    for live in (1, 3, 1):
        move(released, live=live)
        answer = ask(client).json()
        assert answer["release"] == {FAMILY: live}
        assert client.get("/health").json()["release"] == {FAMILY: live}
        answers.setdefault(live, answer["scores"])
        assert answer["scores"] == answers[live] == ranking.rank(USER, PINS, CONTEXT).scores
    assert answers[1] != answers[3]


def test_what_no_ranker_reads_is_refused_until_it_is_moved(
    client: TestClient, released: FeatureStore
) -> None:
    move(released, live=2)
    answer = ask(client)
    refusal = refused(answer, 503)
    assert (refusal.error, answer.headers["retry-after"]) == ("VersionError", "1")
    health = client.get("/health")
    assert (health.status_code, health.json()["ready"]) == (503, False)
    assert "version 2" in health.json()["found"]
    move(released, live=1)
    assert (ask(client).status_code, client.get("/health").status_code) == (200, 200)


def test_a_store_that_is_gone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise OnlineStoreError("online store", found="no answer", expected="one", remedy="Wait.")

    monkeypatch.setattr("provender.plugin.online_database.OnlineDatabase.execute", gone)
    health = client.get("/health")
    assert (health.status_code, health.json()["live"], health.json()["ready"]) == (503, True, False)
    assert health.json()["error"] == "OnlineStoreError"
    monkeypatch.setattr(ReleasedRanking, "rank", gone)
    assert refused(ask(client), 503).error == "OnlineStoreError"


def test_what_nobody_has_thought_of_shows_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise sa.exc.ArgumentError("postgresql://user:secret@host")

    monkeypatch.setattr(ReleasedRanking, "rank", broken)
    monkeypatch.setattr(ReleasedRanking, "ready", broken)
    answer = ask(client)
    assert refused(answer, 500).found == "ArgumentError"
    assert "secret" not in answer.text + client.get("/health").text


def test_a_token_is_asked_for(ranking: ReleasedRanking) -> None:
    with TestClient(ranking_app(ranking, token="öpen")) as client:
        for header in (None, "Bearer", "Bearer open", "Basic öpen", "öpen"):
            given = {} if header is None else {b"authorization": header.encode()}
            answer = client.post("/rank", content=json.dumps(ASKED), headers=given)
            assert refused(answer, 401).error == "RequestError"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=given).status_code == 401
        right = {b"authorization": "Bearer öpen".encode()}
        assert client.post("/rank", content=json.dumps(ASKED), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.get("/health").status_code == 200  # Whoever watches it has no token.


def test_metrics_count_what_was_asked(released: FeatureStore, rankers: list[Ranker]) -> None:
    move(released, live=1)
    metrics = ServiceMetrics()
    ranking = ReleasedRanking(released, rankers, now=hours(49), metrics=metrics.fetches)
    with TestClient(ranking_app(ranking, metrics=metrics)) as client:
        assert [ask(client).status_code for _ in range(3)] == [200, 200, 200]
        ask(client, user=None)
        text = client.get("/metrics").text
    for line in (
        'provender_rank_requests_total{status="200"} 3.0',
        'provender_rank_requests_total{status="422"} 1.0',
        'provender_rank_errors_total{error="FetchError"} 1.0',
        "provender_rank_seconds_count 3.0",
        "provender_rank_candidates_sum 9.0",
        "provender_rank_in_progress 0.0",
        'provender_rank_candidates_bucket{le="1.0"} 0.0',
        'provender_rank_candidates_bucket{le="10.0"} 3.0',
        'provender_fetch_missing_total{service="rich",view="pin_test_v1"} 3.0',
    ):
        assert line in text


def test_many_at_once_have_each_its_own_answer(
    client: TestClient, ranking: ReleasedRanking
) -> None:
    asked = [[*[10, 11, 99][number % 3 :], number] for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pins: ask(client, candidates=pins).json(), asked))
    for pins, answer in zip(asked, answers, strict=True):
        assert answer["scores"] == ranking.rank(USER, pins, CONTEXT).scores


def test_too_many_at_once_are_told_to_come_again(
    ranking: ReleasedRanking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    begun, go_on, rank = Event(), Event(), ReleasedRanking.rank

    def slow(self: ReleasedRanking, *asked: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return rank(self, *asked, **options)

    monkeypatch.setattr(ReleasedRanking, "rank", slow)
    limits = ServiceLimits(waiting=1)
    app = ranking_app(ranking, limits=limits)
    with TestClient(app) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client)
        assert begun.wait(20)
        busy = ask(client)
        go_on.set()
        assert refused(busy, 503).found == "1 requests under way"
        assert busy.headers["retry-after"] == "1"
        assert first.result().status_code == 200


def test_the_documentation_says_what_is_taken(client: TestClient) -> None:
    told = client.get("/openapi.json").json()["paths"]["/rank"]["post"]
    schema = told["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"user", "candidates", "context", "history"}
    assert "$ref" not in json.dumps(schema)
    assert {"200", "401", "413", "422", "503"} <= set(told["responses"])


def test_the_command_serves_until_it_is_told_to_stop(
    released: FeatureStore, served_kitchen: Kitchen, tmp_path: Path, provender: Any
) -> None:
    move(released, live=1)
    ranker, file, token = some_ranker(released, "rich"), tmp_path / "a", tmp_path / "token"
    save_ranker(file, ranker)
    token.write_text("secret\n")
    program = Path(sys.executable).with_name("provender")
    words = ["serve", "--repo", served_kitchen.folder, "--ranker", file, "--port", "0"]
    server = subprocess.Popen(
        [program, *map(str, words), "--token-file", str(token)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert server.stdout is not None
        place = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", server.stdout.readline())
        assert place is not None
        request = urllib.request.Request(
            f"{place[1]}/rank",
            json.dumps(ASKED).encode(),
            {"Authorization": "Bearer secret"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = RankResponse.model_validate_json(answer.read())
        assert (sorted(told.pins), told.release) == (sorted(PINS), {FAMILY: 1})
        port = place[1].rpartition(":")[2]
        taken = provender(*words[:-1], port)
        assert (taken.exit_code, "one that is free" in taken.output) == (1, True)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.wait()
    for options, message in (
        (["--ranker", tmp_path / "none"], "a ranker that provender wrote"),
        (["--token-file", tmp_path / "none"], "a line with the token"),
        (["--threads", "0"], "at least one candidate and one thread"),
    ):
        result = provender(*words, *options)
        assert (result.exit_code, message in " ".join(result.output.split())) == (1, True)
