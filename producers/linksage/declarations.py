"""Where a page set's rows are: pages, pins, the pairs between them, and boards.

    linksage:
      pages: {table: pages, key: page_id, text: [title, body], url: url, time: crawled_at}
      pins: {table: pins, key: pin_id, text: [title], images: image_file, time: created_at}
      pairs:
        saved: {table: pins, pin: pin_id, page: page_id, cohesion: cohesion, time: created_at}
      boards: {table: boards, key: board_id, pin: pin_id}

The tables themselves are the world's (plugin/tables.py).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from provender.plugin.time_sql import TimeUnit


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    table: str
    where: str | None = Field(None, description="SQL condition on the table's columns")
    time: str | None = Field(
        None, description="column of the time from which on a row is known; null means always"
    )
    time_unit: TimeUnit | None = Field(None, description="of a time written as a number since 1970")


class NodeDeclaration(_Declaration):
    """What pages or pins show. Of several rows of a key the newest before the cut counts."""

    key: str = Field(description="column of the key")
    text: tuple[str, ...] = Field((), description="columns of text, put one after another")
    text_vector: str | None = Field(
        None, description="column of a list of numbers, instead of `text`"
    )
    images: str | None = Field(
        None, description="column of an image file, or of a list of them, under the data folder"
    )
    image_vectors: str | None = Field(
        None, description="column of a vector, or of a list of them, instead of `images`"
    )
    image_sizes: str | None = Field(
        None, description="column of a number an image, its size on the page; all alike without"
    )


class PageDeclaration(NodeDeclaration):
    """Landing pages."""

    url: str | None = Field(None, description="column of the address, for link clusters")


class PinDeclaration(NodeDeclaration):
    """Pins, and the vectors that pages are to lie near to."""

    target: str | None = Field(
        None, description="column of a given vector of the pin (PinSage or any other)"
    )


class PairDeclaration(_Declaration):
    """Which pins lead to which pages, or have earned an engagement or a conversion there."""

    pin: str = Field(description="column of the pin's key")
    page: str = Field(description="column of the page's key")
    cohesion: str | None = Field(
        None, description="column of how well pin and page fit; else the content's cosine"
    )
    weight: float = Field(1.0, gt=0, description="of its pairs as positives and as edges")
    edges: bool = Field(True, description="whether walks follow these pairs")
    positives: bool = Field(True, description="whether these pairs are learned from")


class BoardDeclaration(_Declaration):
    """Which pins are on which boards."""

    key: str = Field(description="column of the board's key")
    pin: str = Field(description="column of the pin's key")


class PageSources(BaseModel):
    """The whole declaration of a page set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pages: PageDeclaration
    pins: PinDeclaration
    pairs: dict[str, PairDeclaration] = Field(min_length=1)
    boards: BoardDeclaration | None = None
