"""Models on disk: the same again, or an error that says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from provender.plugin.errors import CheckpointError, ConfigError
from provender.producers.linksage import page_model
from provender.producers.linksage.page_embedding import embed_pages, embed_pins
from provender.producers.linksage.page_model import PageModel
from tests.producers.linksage.planted_pages import DIM, planted, small

PLANTED = planted()
FEATURES = PLANTED.features


@pytest.mark.parametrize("targets", ["given", "joint", None])
def test_a_loaded_model_gives_the_same_vectors(tmp_path: Path, targets: str | None) -> None:
    model = PageModel.new(small(training={"targets": targets}), FEATURES)
    assert (model.pin_tower is None) == (targets != "joint")
    model.save(tmp_path / "model")
    loaded = PageModel.load(tmp_path / "model")
    assert loaded.config == model.config
    for one, other in ((model, loaded), (loaded, model)):
        pages = [
            embed_pages(each, FEATURES, PLANTED.graph, PLANTED.neighbours, device="cpu")
            for each in (one, other)
        ]
        np.testing.assert_array_equal(pages[0], pages[1])
        pins = [embed_pins(each, FEATURES) for each in (one, other)]
        np.testing.assert_array_equal(pins[0], pins[1])
    with pytest.raises(FileExistsError):
        model.save(tmp_path / "model")


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_damaged_model_is_refused(tmp_path: Path, file: str) -> None:
    PageModel.new(small(), FEATURES).save(tmp_path / "model")
    path = tmp_path / "model" / file
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="a whole LinkSage model"):
        PageModel.load(tmp_path / "model")
    path.unlink()
    with pytest.raises(CheckpointError, match="FileNotFoundError"):
        PageModel.load(tmp_path / "model")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> str:
        raise OSError("no space")

    monkeypatch.setattr(page_model, "sha256_of", failing)
    with pytest.raises(OSError, match="no space"):
        PageModel.new(small(), FEATURES).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_targets_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"vectors of {DIM} numbers; expected given .* dim, 24"):
        PageModel.new(small(model={"dim": 24}), FEATURES)
    with pytest.raises(ConfigError, match="targets of pins: found none"):
        PageModel.new(small(training={"targets": "given"}), replace(FEATURES, targets=None))
    assert PageModel.new(small(), replace(FEATURES, targets=None)).pin_tower is not None


def test_the_state_is_all_there_is() -> None:
    torch.manual_seed(0)
    one = PageModel.new(small(), FEATURES)
    torch.manual_seed(0)
    other = PageModel.new(small(), FEATURES)
    for name, value in one.modules.state_dict().items():
        assert torch.equal(value, other.modules.state_dict()[name]), name
