"""Features of a page set: given or encoded, in order, and the same for a few rows as for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from provender.plugin.errors import CheckpointError, ConfigError, MappingError, ProvenderError
from provender.producers.linksage.config import FeatureConfig
from provender.producers.linksage.encoder_set import EncoderSet
from provender.producers.linksage.feature_files import mapped_npy, npy_writer
from provender.producers.linksage.features import (
    ENCODERS,
    NodeFeatures,
    compute_features,
    encode_pages,
    open_features,
)
from tests.producers.linksage.shown_rows import PINS, Row, page_set, table

SMALL = FeatureConfig(text_settings={"dim": 8})
HERE = "tests.producers.linksage.test_features"


class Lengths:
    """A plugged-in encoder: how long a text is, and its first letter; nothing to fit."""

    dim, version = 2, "1"
    fits = 0

    def fit(self, shown: Iterable[str]) -> Self:
        type(self).fits += 1
        return self

    def encode(self, batch: Sequence[str]) -> Any:
        return [[len(text), ord(text[0])] for text in batch]

    def save(self, folder: Path) -> None:
        pass

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls()


class Moody(Lengths):
    """One that is not what it was."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        found = cls()
        found.version = "2"
        return found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with 5 images and a file that is none."""
    rng = np.random.default_rng(0)
    for place in range(5):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    return tmp_path


def words(key: int, **more: Any) -> Row:
    rng = np.random.default_rng(key)
    chosen = rng.choice(["sail", "boat", "wind", "flour", "oven", "yeast", "song", "stage"], 5)
    return {"key": key, "text": " ".join(chosen), **more}


def test_given_vectors_are_taken_as_they_are(tmp_path: Path) -> None:
    pages = page_set(
        tmp_path,
        [
            {"key": 1, "text": "only shown", "text_vector": [3, 4]},
            {
                "key": 4,
                "image_vectors": [[0, 0, 2], [5, 0, 0], [0, 1, 0]],
                "image_sizes": [2, 7, 2],
            },
        ],
        [
            {"key": 2, "text_vector": [0, 1], "image_vectors": [[0, 3, 4]], "target": [6, 8]},
            {"key": 3},
        ],
    )
    found = compute_features(pages, SMALL, tmp_path / "features")
    np.testing.assert_allclose(found.pages.text, [[0.6, 0.8], [0.0, 0.0]])
    assert found.pages.images.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert found.pages.image_sizes.tolist() == [7, 2, 2]
    assert found.pages.image_offsets.tolist() == [0, 0, 3]
    assert found.pins.keys.to_pylist() == [2, 3]
    np.testing.assert_allclose(found.pins.images, [[0, 0.6, 0.8]])
    assert found.pins.image_sizes.tolist() == [1]
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, [[6, 8], [np.nan, np.nan]])
    assert found.report["versions"] == {"text": "given 2", "image": "given 3"}
    assert isinstance(found.pages.text, np.memmap)


def test_raw_texts_and_files_are_encoded(pictures: Path) -> None:
    pages = page_set(
        pictures,
        [
            words(1, image_files=["0.png", "bad.jpg", "1.png"], image_sizes=[1, 9, 5]),
            words(2, text="", image_files=["gone.png"]),
        ],
        [words(5, image_files=["1.png"]), words(6)],
    )
    found = compute_features(pages, SMALL, pictures / "features")
    np.testing.assert_allclose(np.linalg.norm(found.pages.text, axis=1), [1, 0], atol=1e-6)
    assert found.pages.image_offsets.tolist() == [0, 2, 2]
    assert found.pages.image_sizes.tolist() == [5, 1]
    # Both show the same file.
    assert found.pages.images[0].tobytes() == found.pins.images[0].tobytes()
    assert found.report["pages"] == {
        "nodes": 2,
        "with_text": 1,
        "with_images": 1,
        "images": 2,
        "unreadable_images": {
            "count": 2,
            "named": {"bad.jpg": "no image of a known format", "gone.png": "no such file"},
        },
    }
    assert found.targets is None


def test_a_page_set_that_shows_nothing(tmp_path: Path) -> None:
    found = compute_features(page_set(tmp_path, [{"key": 1}], []), SMALL, tmp_path / "features")
    assert found.pages.text.shape == (1, 0)
    assert found.pages.images.shape == (0, 0)
    assert found.pages.mean_images().shape == (1, 0)
    assert found.pins.text.shape == (0, 0)
    assert found.pins.image_offsets.tolist() == [0]


def test_some_rows_are_encoded_as_all_are(pictures: Path) -> None:
    rows = [
        words(key, image_files=[f"{key % 5}.png", f"{key * 2 % 5}.png"], image_sizes=[key % 3, 1])
        for key in range(40)
    ]
    pages = page_set(pictures, rows, [words(99)])
    every = compute_features(pages, SMALL, pictures / "features").pages
    encoders = EncoderSet.load(pictures / "features" / ENCODERS)
    chosen = [17, 3, 4, 39]
    some = encode_pages(table([rows[place] for place in chosen]), encoders, pictures)
    assert some.keys.to_pylist() == chosen
    assert some.text.tobytes() == every.text[chosen].tobytes()
    for place, row in enumerate(chosen):
        own = slice(*some.image_offsets[place : place + 2])
        its = slice(*every.image_offsets[row : row + 2])
        assert some.images[own].tobytes() == every.images[its].tobytes()
        assert some.image_sizes[own].tolist() == every.image_sizes[its].tolist()


def test_rows_of_a_set_with_given_vectors_may_show_nothing(tmp_path: Path) -> None:
    pages = page_set(tmp_path, [{"key": 1, "text_vector": [3, 4]}], [])
    compute_features(pages, SMALL, tmp_path / "features")
    encoders = EncoderSet.load(tmp_path / "features" / ENCODERS)
    found = encode_pages(table([{"key": 8}, {"key": 3, "text": "shown"}]), encoders, tmp_path)
    assert found.text.tolist() == [[0, 0], [0, 0]]
    with pytest.raises(MappingError, match=r"text_vector of 3 numbers; expected 2 numbers"):
        encode_pages(table([{"key": 8, "text_vector": [1, 2, 3]}]), encoders, tmp_path)


@pytest.mark.parametrize(
    ("page", "pin", "told"),
    [
        ({"text": "a b"}, {"text_vector": [1, 2]}, "pages: found text without text_vector"),
        ({"text_vector": [1]}, {"text": "a"}, "pins: found text without text_vector"),
        ({"text_vector": [1]}, {"text_vector": [1, 2]}, "text_vector of 2 numbers; expected 1"),
        (
            {"image_files": ["0.png"]},
            {"image_vectors": [[1, 2]]},
            "pages: found image_files without image_vectors",
        ),
        (
            {"image_vectors": [[1, 2], [1]]},
            {"image_vectors": [[1, 2]]},
            "pages: found image_vectors of 1, 2 numbers",
        ),
        ({"text_vector": [1, np.nan]}, {}, "not finite"),
    ],
)
def test_vectors_and_raw_content_do_not_mix(
    tmp_path: Path, page: dict[str, Any], pin: dict[str, Any], told: str
) -> None:
    pages = page_set(tmp_path, [{"key": 1, **page}], [{"key": 2, **pin}])
    with pytest.raises(MappingError, match=told):
        compute_features(pages, SMALL, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_text_for_pages_only_beside_vectors_of_images_is_no_mix(tmp_path: Path) -> None:
    pages = page_set(
        tmp_path, [words(1), words(2)], [{"key": 2, "image_vectors": [[1, 2]], "text_vector": None}]
    )
    found = compute_features(pages, SMALL, tmp_path / "features")
    assert found.pins.text.shape == (1, 2)
    assert found.pages.mean_images().shape == (2, 2)


def test_a_plugged_in_encoder(tmp_path: Path) -> None:
    config = FeatureConfig(text_encoder=f"{HERE}:Lengths")
    pages = page_set(tmp_path, [{"key": 1, "text": "abc"}], [{"key": 1, "text": "b"}])
    found = compute_features(pages, config, tmp_path / "features")
    np.testing.assert_allclose(found.pages.text[0], np.array([3, 97]) / np.hypot(3, 97))


def test_what_stands_there_is_taken_and_what_differs_is_replaced(tmp_path: Path) -> None:
    config = FeatureConfig(text_encoder=f"{HERE}:Lengths")
    place = tmp_path / "features"
    pages = page_set(tmp_path, [{"key": 1, "text": "abc"}], [])
    before = Lengths.fits
    compute_features(pages, config, place)
    compute_features(pages, config, place)
    assert Lengths.fits == before + 1
    pages = page_set(tmp_path, [{"key": 1, "text": "abcd"}], [])
    changed = compute_features(pages, config, place)
    assert Lengths.fits == before + 2
    assert changed.pages.text[0, 0] == pytest.approx(4 / np.hypot(4, 97))
    assert compute_features(pages, SMALL, place).pages.text.shape == (1, 1)


def test_fitted_encoders_are_used_again(tmp_path: Path) -> None:
    old = page_set(tmp_path / "old", [words(key) for key in range(20)], [])
    first = compute_features(old, SMALL, tmp_path / "first")
    fitted = tmp_path / "first" / ENCODERS
    new = page_set(tmp_path / "new", [words(3), words(21), words(22)], [])
    second = compute_features(new, SMALL, tmp_path / "second", fitted=fitted)
    assert second.report["versions"] == first.report["versions"]
    assert second.pages.text[0].tobytes() == first.pages.text[3].tobytes()
    with pytest.raises(ConfigError, match="which the model was trained with"):
        compute_features(new, FeatureConfig(), tmp_path / "third", fitted=fitted)
    given = page_set(tmp_path / "given", [{"key": 1, "text_vector": [1.0]}], [])
    with pytest.raises(MappingError, match="1 rows with text_vector; expected text to encode"):
        compute_features(given, SMALL, tmp_path / "third", fitted=fitted)


def test_an_encoder_that_is_not_what_it_was(tmp_path: Path) -> None:
    config = FeatureConfig(text_encoder=f"{HERE}:Moody")
    pages = page_set(tmp_path, [{"key": 1, "text": "abc"}], [])
    compute_features(pages, config, tmp_path / "features")
    with pytest.raises(CheckpointError, match="another version"):
        EncoderSet.load(tmp_path / "features" / ENCODERS)
    with pytest.raises(CheckpointError, match=r"encoders\.json"):
        EncoderSet.load(tmp_path)


def test_features_that_are_not_whole(tmp_path: Path) -> None:
    pages = page_set(tmp_path, [words(1)], [])
    compute_features(pages, SMALL, tmp_path / "features")
    (tmp_path / "features" / "pages.text.npy").unlink()
    with pytest.raises(CheckpointError, match=r"pages\.text\.npy"):
        open_features(tmp_path / "features")


def test_string_keys_and_more_rows_than_a_batch(tmp_path: Path) -> None:
    rows = [{"key": f"k{place:05}", "text": "a" * (place % 7)} for place in range(2500)]
    schema = PINS.set(0, pa.field("key", pa.string()))
    for name in ("pages", "pins"):
        pq.write_table(table(rows, schema), tmp_path / f"{name}.parquet")
    pages = page_set(tmp_path / "other", [], [])
    pages = type(pages)(tmp_path, tmp_path, {})
    config = FeatureConfig(text_encoder=f"{HERE}:Lengths")
    found = compute_features(pages, config, tmp_path / "features").pages
    assert found.keys.to_pylist() == [row["key"] for row in rows]
    wanted = [[n / np.hypot(n, 97), 97 / np.hypot(n, 97)] if n else [0, 0] for n in range(7)]
    np.testing.assert_allclose(found.text, [wanted[n % 7] for n in range(2500)], rtol=1e-6)
    assert found.image_offsets.tolist() == [0] * 2501


def slow_means(features: NodeFeatures) -> list[list[float]]:
    means = []
    for node in range(len(features)):
        own = range(features.image_offsets[node], features.image_offsets[node + 1])
        mean = [0.0] * features.images.shape[1]
        alike = all(features.image_sizes[image] == 0 for image in own)
        for image in own:
            weight = 1.0 if alike else float(features.image_sizes[image])
            for column, value in enumerate(features.images[image]):
                mean[column] += weight * float(value)
        norm = sum(value * value for value in mean) ** 0.5
        means.append([value / norm if norm else 0.0 for value in mean])
    return means


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_mean_images_are_those_of_a_loop(counts: list[int], dim: int, data: st.DataObject) -> None:
    total = sum(counts)
    values = st.integers(-4, 4).map(float)
    images = data.draw(hnp.arrays(np.float32, (total, dim), elements=values))
    sizes = data.draw(hnp.arrays(np.float32, total, elements=st.integers(0, 3).map(float)))
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    nothing = np.zeros((len(counts), 0), np.float32)
    keys = pa.array(range(len(counts)), pa.int64())
    features = NodeFeatures(keys, nothing, images, offsets, sizes)
    found = features.mean_images()
    assert found.dtype == np.float32
    wanted = np.array(slow_means(features)).reshape(len(counts), dim)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@given(st.lists(st.integers(0, 5), max_size=5), st.sampled_from([(), (3,), (0,), (2, 2)]))
@settings(max_examples=30, deadline=None)
def test_arrays_are_read_as_they_were_added(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[int], shape: tuple[int, ...]
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.npy"
    rng = np.random.default_rng(len(blocks))
    parts = [rng.normal(size=(rows, *shape)).astype(np.float32) for rows in blocks]
    with npy_writer(path, shape, np.float32) as writer:
        for part in parts:
            writer.add(part)
    wanted = np.concatenate([np.zeros((0, *shape), np.float32), *parts])
    found = mapped_npy(path)
    assert found.shape == wanted.shape
    assert found.tobytes() == wanted.tobytes()


def test_an_encoder_that_misbehaves_leaves_no_features(tmp_path: Path) -> None:
    config = FeatureConfig(image_encoder=f"{HERE}:Lengths")
    pages = page_set(tmp_path, [{"key": 1, "image_files": ["x.png"]}], [])
    with pytest.raises(ProvenderError, match="Lengths without side"):
        compute_features(pages, config, tmp_path / "features")
    assert not (tmp_path / "features").exists()
