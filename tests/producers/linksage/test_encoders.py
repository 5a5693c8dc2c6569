"""Encoders by dotted path: what is refused, and what a plugged-in one may not return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from provender.plugin.errors import ConfigError
from provender.producers.linksage.encoders import encoded, encoder_class, make_encoder
from provender.producers.linksage.hashed_text import HashedText
from provender.producers.linksage.image_statistics import ImageStatistics
from provender.producers.vectors import unit

PLACE = "provender.producers.linksage."


class Answers:
    dim = 3

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def encode(self, batch: Any) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("path", "kind", "made"),
    [
        (PLACE + "hashed_text:HashedText", "text", HashedText),
        (PLACE + "image_statistics:ImageStatistics", "image", ImageStatistics),
    ],
)
def test_the_shipped_ones_are_found(path: str, kind: str, made: type) -> None:
    assert encoder_class(path, kind) is made
    assert isinstance(make_encoder(path, {}, kind), made)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("HashedText", "dotted path"),
        ("no_such_package.encoders:Mine", "No module named 'no_such_package'"),
        (PLACE + "hashed_text:Hashed", "no Hashed in"),
        ("json:JSONDecoder", "without fit, encode, save, load, version, dim"),
        (PLACE + "encoders:encoded", "without fit"),
    ],
)
def test_a_path_that_leads_to_no_encoder(path: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        encoder_class(path, "text")


def test_an_encoder_of_texts_is_none_of_images() -> None:
    with pytest.raises(ConfigError, match="HashedText without side"):
        encoder_class(PLACE + "hashed_text:HashedText", "image")


@pytest.mark.parametrize("settings", [{"dims": 3}, {"dim": 0}, {"words": "many"}])
def test_settings_that_do_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"text_settings.*{next(iter(settings))}"):
        make_encoder(PLACE + "hashed_text:HashedText", settings, "text")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\) for 2.*expected \(2, 3\)"),
        (np.zeros((3, 3)), r"shape \(3, 3\) for 2"),
        (np.zeros(3), r"shape \(3,\)"),
        (None, "NoneType"),
        ([[1, 2, 3], ["a", "b", "c"]], "list"),
        ([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]], "1 of 2 rows not finite"),
        (np.array([[1.0, 2.0, 3.0], [1.0, np.inf, 3.0]]), "not finite"),
    ],
)
def test_what_an_encoder_may_not_return(answer: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"test_encoders:Answers.*{told}"):
        encoded(Answers(answer), ["a", "b"])  # type: ignore[arg-type]


def test_what_an_encoder_may_return() -> None:
    found = encoded(Answers([[1, 2, 3], [4, 5, 6]]), ["a", "b"])  # type: ignore[arg-type]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert encoded(Answers(None), []).shape == (0, 3)  # type: ignore[arg-type]


def test_rows_of_norm_one_and_rows_of_nothing() -> None:
    found = unit(np.array([[3, 4], [0, 0], [1e-30, 0]], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
