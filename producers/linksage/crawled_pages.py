"""What crawlers send of a page, one JSON object: columns of the declared pages' table, by name.

    {"page_id": 7, "title": "Oak chairs", "url": "https://...", "image_vector": [0.1, ...],
     "pins": [31, 32]}

A column is there under the name that the declaration has for it, null where a page has nothing
there. `pins` may name pins that lead to the page, for pages that no refresh has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from provender.producers.linksage.declarations import PageDeclaration

#: Columns beside the declared ones: keys of pins, and an integer by which the newest is known.
PINS, ORDER = "pins", "crawl_order"
Reader = Callable[[Any], Any]
_FLOATS = pa.list_(pa.float32())
_LEAST, _MOST = -(2**63), 2**63 - 1


class BadPageError(ValueError):
    """A message that is no page; its text says why."""


@dataclass(frozen=True)
class CrawledColumns:
    """The columns of crawled pages: their types, and how a JSON value becomes one of them."""

    key: str
    schema: pa.Schema
    readers: Mapping[str, Reader]

    @classmethod
    def of(
        cls, declared: PageDeclaration, keys: Mapping[str, pa.DataType], dims: Mapping[str, int]
    ) -> CrawledColumns:
        """Those of a declaration.

        Args:
            keys: types of the keys by `page` and `pin`, int64 or string.
            dims: lengths of vectors by `text` and `image`.
        """
        key, pin = keys["page"], keys["pin"]
        roles: list[tuple[str | None, pa.DataType, Reader]] = [
            (declared.key, key, _KEYS[key]),
            (declared.text_vector, _FLOATS, partial(_vector, dim=dims["text"])),
            (declared.images, pa.list_(pa.string()), _texts),
            (declared.image_vectors, pa.list_(_FLOATS), partial(_vectors, dim=dims["image"])),
            (declared.image_sizes, _FLOATS, _vector),
            *((column, pa.string(), _text) for column in (*declared.text, declared.url)),
            (PINS, pa.list_(pin), partial(_many, read=_KEYS[pin])),
        ]
        schema, readers = pa.schema([]), dict[str, Reader]()
        for column, kind, read in roles:
            if column is not None and column not in readers:
                schema, readers[column] = schema.append(pa.field(column, kind)), read
        return cls(declared.key, schema.append(pa.field(ORDER, pa.int64())), readers)

    def check(self, page: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a page, or of its JSON, as the schema has them; raises BadPageError."""
        found = page if isinstance(page, Mapping) else _parsed(page)
        missing = [name for name in self.readers if name not in found and name != PINS]
        if missing:
            raise BadPageError(f"no column {', '.join(missing)}")
        row: dict[str, Any] = {}
        for name, read in self.readers.items():
            value = found.get(name)
            try:
                row[name] = None if value is None else read(value)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise BadPageError(f"column {name}: {error}") from None
        if row[self.key] is None:
            raise BadPageError(f"column {self.key}: no key")
        row[PINS] = row[PINS] or []
        return row

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Checked pages, each with its ORDER, as a table of the schema."""
        return pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        page = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPageError(f"no JSON: {error}") from None
    if not isinstance(page, dict):
        raise BadPageError(f"no JSON object but a {type(page).__name__}")
    return page


def _integer(value: Any) -> int:
    if isinstance(value, str):
        value = int(value.strip())
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not _LEAST <= value <= _MOST:
        raise ValueError(f"{_told(value)} is no int64 key")
    return value


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{_told(value)} is no string key")
    return _encodable(str(value).strip())


def _text(value: Any) -> str:
    return _encodable(value if isinstance(value, str) else json.dumps(value))


def _texts(value: Any) -> list[str]:
    listed = _listed(value) if isinstance(value, list) or _is_list(value) else [value]
    if not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{_told(value)} is no file name, nor a list of them")
    return [_encodable(each) for each in listed]


def _vector(value: Any, dim: int | None = None) -> list[float]:
    listed = _listed(value) if isinstance(value, list) or _is_list(value) else [value]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in listed):
        raise ValueError(f"{_told(value)} is no list of numbers")
    if dim is not None and len(listed) not in (0, dim):
        raise ValueError(f"{len(listed)} numbers instead of {dim}")
    return [float(each) for each in listed]


def _vectors(value: Any, dim: int) -> list[list[float]]:
    listed = _listed(value)
    nested = listed if listed and isinstance(listed[0], list) else [listed] * bool(listed)
    return [_vector(each, dim) for each in nested]


def _many(value: Any, read: Reader) -> list[Any]:
    return [read(each) for each in _listed(value)]


def _is_list(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("[")


def _listed(value: Any) -> list[Any]:
    """A list, which may be written as JSON text, as columns of CSV have it."""
    found = json.loads(value) if _is_list(value) else value
    if not isinstance(found, list):
        raise ValueError(f"{_told(value)} is no list")
    return found


def _encodable(text: str) -> str:
    text.encode()  # JSON may hold half a surrogate pair, which no file can.
    return text


def _told(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "..."


_KEYS: dict[pa.DataType, Reader] = {pa.int64(): _integer, pa.string(): _name}
