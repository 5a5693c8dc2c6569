"""Images as vectors: known pictures have known figures; bad files say why they are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from provender.plugin.errors import CheckpointError
from provender.producers.linksage.image_files import (
    UnreadableImageError,
    open_image,
    open_images,
)
from provender.producers.linksage.image_statistics import ImageStatistics
from provender.producers.vectors import unit

PLAIN = ImageStatistics(standardise=False)


def stripes(angle: int, light: str = "white", side: int = 200) -> Image.Image:
    """Lines across the picture, turned by `angle` degrees."""
    lines = np.zeros((2 * side, 2 * side), np.uint8)
    lines[(np.arange(2 * side) // 10) % 2 == 0] = 255
    turned = Image.fromarray(lines).rotate(angle, Image.Resampling.BICUBIC)
    mask = turned.crop((side // 2, side // 2, side // 2 + side, side // 2 + side))
    return Image.composite(Image.new("RGB", mask.size, light), Image.new("RGB", mask.size), mask)


def parts(image: Image.Image) -> dict[str, np.ndarray]:
    """The groups as they are without a fit: square roots of shares, but of the layout."""
    row = PLAIN.encode([image])[0]
    sizes = {"colours": 64, "layout": 48, "edges": 128, "texture": 17}
    ends = np.cumsum(list(sizes.values()))
    groups = zip(sizes.items(), np.split(row, ends[:-1]), strict=True)
    norms = {"colours": 1, "layout": 3.5, "edges": 1, "texture": 1.4}
    return {name: part * norms[name] for (name, _), part in groups}


def test_a_plain_picture() -> None:
    found = parts(Image.new("RGB", (30, 70), (255, 0, 130)))
    # 255 is in the last of 4 steps, 130 in the third: cell 3 * 16 + 0 * 4 + 2.
    assert np.flatnonzero(found["colours"]).tolist() == [50]
    assert found["colours"][50] == pytest.approx(1)
    luma = round(0.299 * 255 + 0.114 * 130) / 255
    np.testing.assert_allclose(found["layout"].reshape(16, 3)[:, 0], luma, atol=0.005)
    assert not found["edges"].any()
    assert np.flatnonzero(found["texture"]).tolist() == [0, 8]


def test_where_a_colour_is() -> None:
    picture = Image.new("RGB", (64, 64))
    picture.paste("white", (32, 0, 64, 16))
    luma = parts(picture)["layout"].reshape(4, 4, 3)[..., 0]
    np.testing.assert_allclose(luma, [[0, 0, 1, 1], *([[0] * 4] * 3)], atol=0.02)


@pytest.mark.parametrize(("angle", "direction"), [(0, 4), (90, 0)])
def test_which_way_edges_run(angle: int, direction: int) -> None:
    shares = parts(stripes(angle))["edges"].reshape(16, 8) ** 2
    assert shares.sum() == pytest.approx(1, abs=1e-5)
    assert shares[:, direction].sum() > 0.95


def test_a_likeness_is_near_and_another_picture_far() -> None:
    pictures = [stripes(angle, light) for angle in (0, 45, 90) for light in ("red", "lime", "blue")]
    encoder = ImageStatistics().fit(pictures)
    smaller = [picture.resize((150, 150)) for picture in pictures]
    cosines = unit(encoder.encode(pictures)) @ unit(encoder.encode(smaller)).T
    assert (cosines.argmax(axis=1) == np.arange(9)).all()
    assert np.diag(cosines).min() > cosines[~np.eye(9, dtype=bool)].max()


def test_each_group_has_mean_zero_and_the_same_variance() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for _ in range(40)]
    encoder = ImageStatistics().fit(iter(pictures))
    rows = encoder.encode(pictures)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
    groups = np.split(rows, np.cumsum([64, 48, 128]), axis=1)
    np.testing.assert_allclose([(one**2).sum(axis=1).mean() for one in groups], 1, rtol=1e-4)


def test_a_group_that_is_alike_in_all_is_nothing() -> None:
    plain = [Image.new("RGB", (9, 9), (shade, shade, shade)) for shade in (10, 80, 200)]
    rows = ImageStatistics().fit(plain).encode(plain)
    assert np.isfinite(rows).all()
    assert not rows[:, 112:240].any()


def test_only_the_sample_is_looked_at() -> None:
    pictures = [stripes(angle) for angle in (0, 30, 60, 90)]
    assert ImageStatistics(sample=2).fit(pictures).version == (
        ImageStatistics(sample=2).fit(pictures[:2]).version
    )
    assert ImageStatistics().fit(pictures).version != ImageStatistics().fit(pictures[:2]).version
    assert PLAIN.version == ImageStatistics(standardise=False).fit(pictures).version


def test_what_was_saved_encodes_alike(tmp_path: Path) -> None:
    pictures = [stripes(0), stripes(45)]
    encoder = ImageStatistics().fit(pictures)
    encoder.save(tmp_path)
    loaded = ImageStatistics.load(tmp_path)
    assert loaded.version == encoder.version
    assert loaded.encode(pictures).tobytes() == encoder.encode(pictures).tobytes()
    np.savez(tmp_path / "arrays.npz", mean=np.zeros(257, "f4"), scale=np.ones(257, "f4"))
    with pytest.raises(CheckpointError, match="image encoder"):
        ImageStatistics.load(tmp_path)


def test_pictures_of_every_kind_are_rgb_on_white_and_shrunk(tmp_path: Path) -> None:
    Image.new("RGBA", (300, 100), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (100, 400), 7).save(tmp_path / "grey.jpg")
    Image.new("P", (10, 10)).save(tmp_path / "palette.gif")
    Image.new("CMYK", (50, 50)).save(tmp_path / "ink.tiff")
    names = ["clear.png", "grey.jpg", "palette.gif", "ink.tiff"]
    found = list(open_images(tmp_path, names, 50))
    assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in found)
    assert [image.size for image in found if isinstance(image, Image.Image)] == [
        (50, 17),
        (12, 50),
        (10, 10),
        (50, 50),
    ]
    assert open_image(tmp_path, "clear.png", 50).getpixel((3, 3)) == (255, 255, 255)


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path, "turned.jpg", 40).size == (20, 40)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.png", "no such file"),
        ("text.png", "no image of a known format"),
        ("cut.png", "Truncated|truncated|broken"),
        ("../outside.png", "outside the data folder"),
        ("", "no such file"),
    ],
)
def test_a_file_that_gives_no_image(tmp_path: Path, name: str, told: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(data / "cut.png")
    (data / "cut.png").write_bytes((data / "cut.png").read_bytes()[:9000])
    (data / "text.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match=told):
        open_image(data, name, 64)


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="40 x 40 pixels, too many"):
        open_image(tmp_path, "large.png", 64)
