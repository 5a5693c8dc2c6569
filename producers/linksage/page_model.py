"""A trained LinkSage model: the page encoder, the pin tower if there is one, their configuration.

A folder of `model.safetensors` and `model.json`, which holds the SHA-256 of the former.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from provender.plugin.errors import CheckpointError, ConfigError
from provender.plugin.files import sha256_of, whole_folder
from provender.producers.linksage.config import LinkSageConfig
from provender.producers.linksage.features import Features
from provender.producers.linksage.page_encoder import PageEncoder
from provender.producers.linksage.page_tokens import content_dims
from provender.producers.linksage.pin_tower import PinTower

_FORMAT = 1
_TENSORS, _ABOUT = "model.safetensors", "model.json"


@dataclass(frozen=True, eq=False)
class PageModel:
    """`pin_tower` is None where pins have given vectors; `text_dim`, `image_dim` of what it reads.

    Its modules are changed in place by training.
    """

    config: LinkSageConfig
    encoder: PageEncoder
    pin_tower: PinTower | None
    text_dim: int
    image_dim: int

    @classmethod
    def new(cls, config: LinkSageConfig, features: Features) -> PageModel:
        """An untrained one for features of these lengths, at random from torch's generator.

        Raises ConfigError for given targets that there are not, or that have another length than
        `dim`, and for features of no length.
        """
        text, image = content_dims(features)
        return cls._of(config, text, image, joint=not takes_given(config, features))

    @classmethod
    def _of(cls, config: LinkSageConfig, text: int, image: int, joint: bool) -> PageModel:
        tower = PinTower(config.model, text, image) if joint else None
        return cls(config, PageEncoder(config.model, text, image), tower, text, image)

    @property
    def modules(self) -> nn.ModuleDict:
        """The encoder and the tower, by name."""
        tower = {} if self.pin_tower is None else {"pin_tower": self.pin_tower}
        return nn.ModuleDict({"encoder": self.encoder, **tower})

    def to(self, device: torch.device) -> PageModel:
        """Itself, moved."""
        self.modules.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write it whole or not at all; raises FileExistsError where something stands already."""
        tensors = {name: value.contiguous() for name, value in self.modules.state_dict().items()}
        with whole_folder(folder.parent, folder) as staged:
            save_file(tensors, staged / _TENSORS)
            about = {
                "format": _FORMAT,
                "sha256": sha256_of(staged / _TENSORS),
                "config": self.config.model_dump(mode="json"),
                "text_dim": self.text_dim,
                "image_dim": self.image_dim,
                "pin_tower": self.pin_tower is not None,
            }
            (staged / _ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> PageModel:
        """Read a saved one onto the CPU; raises CheckpointError if it is not whole."""
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_bytes())
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            if sha256_of(folder / _TENSORS) != about["sha256"]:
                raise ValueError("the tensors' SHA-256 is another")
            config = LinkSageConfig.parse(about["config"], where=str(folder / _ABOUT))
            model = cls._of(config, about["text_dim"], about["image_dim"], about["pin_tower"])
            model.modules.load_state_dict(load_file(folder / _TENSORS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                str(folder),
                found=f"{type(error).__name__}: {error}",
                expected="a whole LinkSage model",
                remedy="Train it anew.",
            ) from None
        model.modules.eval()
        return model


def takes_given(config: LinkSageConfig, features: Features) -> bool:
    """Whether pins' given vectors are the targets; ConfigError where they can't be."""
    targets, dim = features.targets, config.model.dim
    if config.training.targets == "joint" or (config.training.targets is None and targets is None):
        return False
    if targets is None or targets.shape[1] != dim:
        raise ConfigError(
            "targets of pins",
            found="none" if targets is None else f"vectors of {targets.shape[1]} numbers",
            expected=f"given vectors of the model's dim, {dim}",
            remedy="Set `model.dim` to their length, or `training.targets` to joint.",
        )
    return True


def brain_float(model: PageModel, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 where the model says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=model.config.model.bf16)
