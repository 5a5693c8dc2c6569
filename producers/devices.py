"""Where training runs."""

from __future__ import annotations

import torch

from provender.plugin.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; ConfigError for what is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(f"a device of type {device.type}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r}",
            found=str(error).splitlines()[0],
            expected="auto, cpu or a CUDA device of this machine",
            remedy="Choose another device.",
        ) from None
    return device
