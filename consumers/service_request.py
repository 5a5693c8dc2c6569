"""What the ranking service takes and gives, as JSON, with its limits."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from provender.consumers.ranking_request import Ranked
from provender.consumers.user_history import Action
from provender.plugin.errors import FetchError

#: No request may ask for more, whatever the service's own limits say.
MOST_CANDIDATES, MOST_ACTIONS = 100_000, 1_000

Whole = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, Field(strict=True, max_length=1_000)]
Value = bool | Whole | float | Text


class ServiceLimits(BaseModel):
    """What a service refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int = Field(10_000, ge=1, le=MOST_CANDIDATES, description="of one request")
    body_bytes: int = Field(4 * 2**20, ge=1, description="of one request")
    waiting: int = Field(64, ge=1, description="requests at once; more are told to come again")
    threads: int = Field(4, ge=1, description="requests that are scored at once")


class PastAction(BaseModel):
    """Something that the user did."""

    model_config = ConfigDict(extra="forbid")

    pin: Whole | Text
    kind: Text
    time: AwareDatetime


class RankRequest(BaseModel):
    """A user, what may be shown, where, and what the user did.

    Attributes:
        user: the key; of an unknown user only the rest is known.
        candidates: keys of pins; duplicates stay duplicates, and none give an empty answer.
        context: column -> one value for all candidates, or a list of one for each.
        history: what the user did, in any order.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user: Whole | Text
    candidates: list[Whole] | list[Text] = Field(max_length=MOST_CANDIDATES)
    context: dict[Text, Value | list[Value]] = Field(default_factory=dict, max_length=1_000)
    history: list[PastAction] = Field(default_factory=list, max_length=MOST_ACTIONS)

    @classmethod
    def read(cls, body: bytes, limits: ServiceLimits) -> RankRequest:
        """Read a body; raises FetchError with the first thing that is wrong."""
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            raise _refused(error) from None
        if len(request.candidates) > limits.candidates:
            raise FetchError(
                "request, candidates",
                found=f"{len(request.candidates):,}",
                expected=f"at most {limits.candidates:,}",
                remedy="Ask in several requests, or retrieve fewer candidates.",
            )
        return request

    @property
    def actions(self) -> list[Action]:
        """The history as rankers take it."""
        return [Action(each.pin, each.kind, each.time) for each in self.history]


class RankResponse(BaseModel):
    """The ranked candidates, and what they were ranked by.

    Attributes:
        pins: best first; equal scores keep the order of the request.
        scores: p(click) of each, in the same order.
        release: family -> the version that was read.
        ranker: run id of the ranker; null of one without a stamp.
        missing: view -> share of the candidates, from 0 to 1, without a vector.
        milliseconds: in all; `fetch` and `score` of that.
    """

    user: int | str
    pins: list[int] | list[str]
    scores: list[float]
    release: dict[str, int]
    ranker: str | None
    missing: dict[str, float]
    milliseconds: dict[str, float]


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str
    thing: str
    found: str
    expected: str
    remedy: str


def told(request: RankRequest, answer: Ranked, seconds: float) -> dict[str, Any]:
    """Return an answer as :class:`RankResponse` has it."""
    count = max(len(answer.pins), 1)
    return {
        "user": request.user,
        "pins": answer.pins,
        "scores": answer.scores,
        "release": answer.versions,
        "ranker": answer.run_id,
        "missing": {view: lacking / count for view, lacking in answer.missing.items()},
        "milliseconds": {
            "total": _milliseconds(seconds),
            "fetch": _milliseconds(answer.fetch_seconds),
            "score": _milliseconds(answer.score_seconds),
        },
    }


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _refused(error: ValidationError) -> FetchError:
    """One line of what pydantic found; of alternatives, the last that was tried."""
    problems = error.errors(include_url=False, include_context=False)
    numbers = [each for each in problems if each["type"] == "finite_number"]
    first = (numbers or problems)[0]
    # The names of alternatives of a type are pydantic's and mean nothing to who asks.
    names = [str(part) for part in first["loc"] if _is_name(part)]
    given = first["input"]
    if first["type"] == "missing":
        found = "nothing"
    elif first["type"] in ("json_invalid", "too_long"):
        found = first["msg"][:200]
    elif isinstance(given, float) and not math.isfinite(given):
        found = "NaN or Infinity"
    else:
        text = repr(given)
        found = text if len(text) <= 80 else text[:77] + "..."
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 and not numbers else ""
    expected = first["msg"]
    if names[:1] == ["context"] and first["type"] == "bool_type":  # No alternative fits.
        expected, more = "a number, text, true or false, or a list of one for each candidate", ""
    return FetchError(
        ", ".join(["request", ".".join(names)]) if names else "request",
        found=found + more,
        expected=expected,
        remedy="Correct the request.",
    )


def _is_name(part: int | str) -> bool:
    text = str(part)
    return not any(mark in text for mark in "[(") and text not in ("int", "str", "float", "bool")
