"""A small ranker over HTTP, as an example of serving: FastAPI in front of ReleasedRanking.

    metrics = ServiceMetrics()
    ranking = ReleasedRanking(store, rankers, metrics=metrics.fetches)
    app = ranking_app(ranking, metrics=metrics)

    POST /rank     {"user": 7, "candidates": [1, 2], "context": {"surface": "home"}, "history": []}
    GET  /health   200 where a request would be answered, else 503 with the reason
    GET  /metrics  Prometheus' text

Scoring goes on in threads, so that the event loop goes on taking requests. What can't be answered
is told as {error, thing, found, expected, remedy}. Releases are followed while it runs.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from provender.consumers.ranking_request import Ranked
from provender.consumers.released_ranking import ReleasedRanking
from provender.consumers.service_metrics import ServiceMetrics
from provender.consumers.service_request import (
    PastAction,
    RankRequest,
    RankResponse,
    Refusal,
    ServiceLimits,
    told,
)
from provender.plugin.errors import (
    FetchError,
    FetchTimeoutError,
    OnlineStoreError,
    ProvenderError,
    VersionError,
)

_log = logging.getLogger(__name__)
#: What another try may mend, and what only another request can; all else is the service's fault.
_LATER = (VersionError, OnlineStoreError, FetchTimeoutError)


class _RequestError(ProvenderError):
    """A request that is refused before it is looked at, with its status."""

    def __init__(self, status: int, found: str, expected: str, remedy: str) -> None:
        super().__init__("request", found=found, expected=expected, remedy=remedy)
        self.status = status


def ranking_app(
    ranking: ReleasedRanking,
    *,
    limits: ServiceLimits | None = None,
    token: str | None = None,
    metrics: ServiceMetrics | None = None,
) -> FastAPI:
    """Return the application, for uvicorn or any other ASGI server.

    Args:
        ranking: what answers.
        limits: what is refused.
        token: what /rank and /metrics ask for as `Authorization: Bearer ...`; nothing by default.
        metrics: where requests are counted; its own by default.
    """
    service = _Service(ranking, limits or ServiceLimits(), token, metrics or ServiceMetrics())
    app = FastAPI(title="provender ranker", lifespan=service.lifespan)
    app.add_api_route("/rank", service.rank, methods=["POST"], **_documented())
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/metrics", service.exposed, methods=["GET"])
    return app


class _Service:
    """The end points, and what they share."""

    def __init__(
        self,
        ranking: ReleasedRanking,
        limits: ServiceLimits,
        token: str | None,
        metrics: ServiceMetrics,
    ) -> None:
        self._ranking, self._limits, self._metrics = ranking, limits, metrics
        self._token = None if token is None else token.encode()
        self._pool = ThreadPoolExecutor(limits.threads, "ranking")
        self._waiting = 0

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run until the server stops; requests under way are answered first."""
        yield
        self._pool.shutdown(wait=True)

    async def rank(self, request: Request) -> Response:
        """Rank candidates for a user."""
        return await self._guarded(partial(self._rank, request))

    async def health(self) -> Response:
        """Say whether requests are answered: the store, the rankers and the release fit."""
        answer: dict[str, Any] = {"live": True, "ready": False}
        status = 503
        try:
            versions, run_id = await self._in_thread(self._ranking.ready)
            answer |= {"ready": True, "release": versions, "ranker": run_id}
            status = 200
        except ProvenderError as error:
            answer |= _refusal(error)
        except Exception as error:
            _log.exception("GET /health")
            answer |= _internal(error)
        return _response(answer, status)

    async def exposed(self, request: Request) -> Response:
        """Return the metrics as Prometheus reads them."""
        try:
            self._check_token(request)
        except _RequestError as error:
            return _response(_refusal(error), error.status, _headers(error.status))
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def _rank(self, request: Request) -> Response:
        self._check_token(request)
        body = await self._body(request)
        started = time.perf_counter()
        asked = RankRequest.read(body, self._limits)
        if self._waiting >= self._limits.waiting:
            found = f"{self._waiting} requests under way"
            raise _RequestError(503, found, f"at most {self._limits.waiting}", "Come again later.")
        self._waiting += 1
        self._metrics.began()
        try:
            answer = await self._in_thread(partial(self._ranked, asked))
        finally:
            self._waiting -= 1
            self._metrics.ended()
        seconds = time.perf_counter() - started
        self._metrics.answered(seconds, len(asked.candidates))
        return _response(told(asked, answer, seconds))

    def _ranked(self, asked: RankRequest) -> Ranked:
        return self._ranking.rank(
            asked.user, asked.candidates, asked.context, history=asked.actions
        )

    async def _guarded(self, answer: Callable[[], Any]) -> Response:
        """Give the answer, or why there is none; never a traceback."""
        try:
            response: Response = await answer()
            return response
        except ProvenderError as error:
            status, content = _status(error), _refusal(error)
            if status >= 500:
                _log.warning("POST /rank: %s", error)
        except Exception as error:
            _log.exception("POST /rank")
            status, content = 500, _internal(error)
        self._metrics.refused(status, content["error"])
        return _response(content, status, _headers(status))

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
            given.encode("latin-1"), self._token
        ):
            raise _RequestError(
                401,
                "no bearer token, or another one" if given else "no bearer token",
                "the service's",
                "Send it as `Authorization: Bearer TOKEN`.",
            )

    async def _body(self, request: Request) -> bytes:
        """Read the body, and no more of it than may be."""
        parts, size = [], 0
        said = request.headers.get("content-length", "0")
        too_long = said.isdigit() and int(said) > self._limits.body_bytes
        if not too_long:
            async for part in request.stream():
                size += len(part)
                if size > self._limits.body_bytes:
                    too_long = True
                    break
                parts.append(part)
        if too_long:
            expected = f"at most {self._limits.body_bytes:,} bytes"
            raise _RequestError(413, "a longer body", expected, "Ask in several requests.")
        return b"".join(parts)

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _status(error: ProvenderError) -> int:
    if isinstance(error, _RequestError):
        return error.status
    if isinstance(error, _LATER):
        return 503
    return 422 if isinstance(error, FetchError) else 500


def _headers(status: int) -> dict[str, str]:
    return {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})


def _refusal(error: ProvenderError) -> dict[str, Any]:
    parts = {name: getattr(error, name) for name in ("thing", "found", "expected", "remedy")}
    return {"error": type(error).__name__.lstrip("_"), **parts}


def _internal(error: Exception) -> dict[str, Any]:
    """What went wrong that nobody has thought of: its name, and not what it holds."""
    return {
        "error": "InternalError",
        "thing": "the ranking service",
        "found": type(error).__name__,
        "expected": "an answer",
        "remedy": "See the service's log.",
    }


def _response(content: dict[str, Any], status: int = 200, headers: Any = None) -> Response:
    return Response(_as_json(content), status, headers, "application/json")


def _as_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _documented() -> dict[str, Any]:
    """What /docs says of /rank: bodies are read and written without FastAPI's own passes."""
    schema = RankRequest.model_json_schema()
    # Its own definitions are not where OpenAPI looks for them.
    schema["properties"]["history"]["items"] = schema.pop("$defs")[PastAction.__name__]
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal} for status in (401, 413, 422, 500, 503)
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "response_model": RankResponse,
        "responses": refusals,
        "openapi_extra": {"requestBody": body},
    }
