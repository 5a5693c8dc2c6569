"""Texts as vectors: an oracle from scikit-learn's own tf-idf, and what may not change them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from provender.plugin.errors import CheckpointError, TrainingError
from provender.producers.linksage.hashed_text import HashedText
from provender.producers.vectors import unit

THEMES = ["sail boat harbour mast wind", "bread flour oven yeast crust", "guitar chord song stage"]


def written(count: int, seed: int = 0) -> list[str]:
    """Texts of 4 words, each of one theme: text i is of theme i % 3."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(THEMES[place % 3].split(), 4)) for place in range(count)]


def test_cosines_are_those_of_tf_idf_where_nothing_is_cut_off() -> None:
    texts = written(40)
    encoder = HashedText(dim=4096, character_weight=0, min_texts=1, words=(1, 2)).fit(texts)
    oracle = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2))
    rows = oracle.fit_transform(texts).toarray()
    found = unit(encoder.encode(texts))
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=2e-5)


def test_texts_of_one_theme_are_near_and_others_far() -> None:
    found = unit(HashedText(dim=3).fit(written(60)).encode(written(30, seed=1)))
    same = np.arange(30)[:, None] % 3 == np.arange(30) % 3
    cosines = found @ found.T
    assert cosines[same].min() > 0.9
    assert cosines[~same].max() < 0.3


def test_characters_bring_spellings_together() -> None:
    texts = [*written(30), "photograph album", "painting album"]
    encoder = HashedText(dim=40, character_weight=1, min_texts=1).fit(texts)
    one, other, far = unit(encoder.encode(["photographs", "photograph", "painting"]))
    assert one @ other > 0.5 > abs(one @ far)


def test_the_order_of_texts_means_nothing() -> None:
    texts = written(50)
    assert HashedText(dim=8).fit(texts).version == HashedText(dim=8).fit(texts[::-1]).version


@pytest.mark.parametrize("changed", [{"dim": 7}, {"seed": 1}, {"words": (1, 2)}])
def test_another_setting_is_another_version(changed: dict[str, int]) -> None:
    texts = written(50)
    first = HashedText(dim=8).fit(texts).version
    assert first != HashedText(**{"dim": 8, **changed}).fit(texts).version
    assert first != HashedText(dim=8).fit([*texts, "another"]).version


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_a_text_s_vector_does_not_depend_on_its_batch(texts: list[str], cut: int) -> None:
    encoder = _FITTED
    whole = encoder.encode(texts)
    assert whole.shape == (len(texts), encoder.dim)
    assert np.isfinite(whole).all()
    parts = [encoder.encode(texts[start : start + cut]) for start in range(0, len(texts), cut)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_an_unknown_text_is_zero() -> None:
    assert not _FITTED.encode(["zzzz qqqq", "!?"]).any()


def test_only_the_beginning_of_a_long_text_counts() -> None:
    texts = [text.ljust(60) for text in written(30)]
    longer = [text + "other words" for text in texts]
    one, other = (HashedText(dim=4, longest=60).fit(each) for each in (texts, longer))
    assert one.encode(texts).tobytes() == other.encode(longer).tobytes()


def test_no_more_dims_than_texts() -> None:
    assert HashedText(dim=256).fit(["one two three", "two three four"]).dim == 2


@pytest.mark.parametrize("texts", [[], ["", "!?", "..."]])
def test_nothing_to_learn_from(texts: list[str]) -> None:
    with pytest.raises(TrainingError, match=f"{len(texts)} texts without a word"):
        HashedText(character_weight=0).fit(texts)


def test_only_a_sample_is_decomposed_and_all_are_counted() -> None:
    texts = written(60)
    one = HashedText(dim=4, sample=10).fit(texts)
    assert one.dim == 4
    assert one.version != HashedText(dim=4).fit(texts).version
    assert one.version == HashedText(dim=4, sample=10).fit(texts[::-1]).version


def test_what_was_saved_encodes_alike(tmp_path: Path) -> None:
    _FITTED.save(tmp_path / "text")
    assert {path.suffix for path in (tmp_path / "text").iterdir()} == {".json", ".safetensors"}
    loaded = HashedText.load(tmp_path / "text")
    assert loaded.version == _FITTED.version
    assert loaded.encode(written(9)).tobytes() == _FITTED.encode(written(9)).tobytes()


@pytest.mark.parametrize("damage", ["gone", "cut", "settings"])
def test_a_damaged_one_is_refused(tmp_path: Path, damage: str) -> None:
    _FITTED.save(tmp_path)
    arrays, about = tmp_path / "arrays.safetensors", tmp_path / "settings.json"
    if damage == "gone":
        arrays.unlink()
    elif damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-3])
    else:
        told = json.loads(about.read_text())
        told["settings"]["longest"] = 7
        about.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="text encoder"):
        HashedText.load(tmp_path)


_FITTED = HashedText(dim=8).fit([*written(60), "A text of letters", "another text of letters"])
