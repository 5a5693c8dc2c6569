"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from provender.plugin.errors import ConfigError
from provender.producers.devices import pick_device


def test_auto_takes_cuda_where_there_is_one() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}'.*Choose another"):
        pick_device(name)
