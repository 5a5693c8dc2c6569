"""YAML files read strictly: one mapping a file, no key twice, errors of one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from provender.plugin.errors import MappingError

ModelT = TypeVar("ModelT", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key; PyYAML itself silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises MappingError when the file is missing, is no UTF-8 YAML, or holds no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise MappingError(
            str(path),
            found=str(error),
            expected="a readable UTF-8 YAML file",
            remedy="Correct the file or its path.",
        ) from None
    if not isinstance(content, dict):
        raise MappingError(
            str(path),
            found=f"a YAML {type(content).__name__}",
            expected="a mapping of keys to sections",
            remedy="Start from one of the worlds in provender's feature_repo/worlds.",
        )
    return content


def check(model: type[ModelT], content: Mapping[str, Any], where: str) -> ModelT:
    """The content as a checked model.

    Raises MappingError with the key of the first problem, behind `where` (a file or a section).
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _as_mapping_error(model, error, where) from None
    except MappingError as error:  # raised by the model itself, which does not know the file
        raise MappingError(
            f"{where}: {error.thing}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from None


def _as_mapping_error(model: type[BaseModel], error: ValidationError, where: str) -> MappingError:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    thing = f"{where}: {key}" if key else where
    if first["type"] == "extra_forbidden":
        return MappingError(
            thing,
            found=f"an unknown key{more}",
            expected=_known_keys(model, first["loc"]),
            remedy="Correct the spelling or remove the key.",
        )
    found = "nothing" if first["type"] == "missing" else _shortened(first["input"])
    expected = first["msg"].removeprefix("Value error, ")
    return MappingError(
        thing, found=found + more, expected=expected, remedy="Correct this key of the file."
    )


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    if len(location) == 1:
        return "one of " + ", ".join(sorted(model.model_fields))
    return "only keys that this section knows"


def _shortened(value: object, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
