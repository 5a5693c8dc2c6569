"""Keys as users type them, in the type that the world's keys have."""

from __future__ import annotations

from provender.plugin.errors import FetchError


def key_like(thing: str, given: int | str, example: int | str) -> int | str:
    """Return a key in the type of another; raises FetchError for text where keys are numbers."""
    if isinstance(given, type(example)):
        return given
    if isinstance(example, str):
        return str(given)
    try:
        return int(given)
    except ValueError:
        raise FetchError(
            thing,
            found=repr(given),
            expected=f"a whole number, like {example}",
            remedy="Give the key as it stands in the events.",
        ) from None
