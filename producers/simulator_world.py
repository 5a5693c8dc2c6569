"""The planted world: advertisers, items with their pages, and the pins that promote them.

Topics are the axes of a space. A pin (and an item) points along one or two of them; a user has a
weight on each. What a user likes is the dot product of the two (`affinity`).
State is indexed by position; an id is the position plus its kind's offset, so that a user id can
never pass for a pin id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from provender.producers.simulator_config import SimulatorConfig
from provender.producers.simulator_files import table, vectors
from provender.producers.simulator_streams import Stream, generator
from provender.producers.simulator_topics import Floats, Ints, TopicIndex, Topics, mix_of
from provender.producers.simulator_users import Users

ENTITY_BLOCK = 8_192
SPECIALITIES = 3
QUALITY_SD = 0.5
APPEAL_SD = 0.5
BUDGET_SD = 0.4
ADVERTISER_SD = 0.4
MIXED_ANGLE = 0.7
"""Largest angle (radians) between a pin and its first topic."""

# A cohort's items come first, then their pages are crawled, then pins promote them: parts of the
# cohort's time.
ITEMS_COME, PAGES_COME, PINS_COME = (0.0, 0.25), (0.25, 0.5), (0.5, 1.0)
EntityRows: TypeAlias = tuple[str, pa.Table]


class AdsWorld:
    """Everything that exists, in arrays; `grow` adds a cohort and yields its rows to be written."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.topics = Topics(config)
        self.users = Users(config, self.topics)
        items = config.size(config.items, config.pin_growth, config.days)
        pins = config.size(config.pins, config.pin_growth, config.days)
        self.item_topic = np.empty((items, 2), np.int64)
        self.item_mix = np.empty((items, 2), np.float32)
        self.item_advertiser = np.empty(items, np.int32)
        self.item_appeal = np.empty(items, np.float32)
        self.pin_topic = np.empty((pins, 2), np.int64)
        self.pin_mix = np.empty((pins, 2), np.float32)
        self.pin_quality = np.empty(pins, np.float32)
        self.pin_budget = np.empty(pins, np.float32)
        self.pin_item = np.empty(pins, np.int64)
        self.items = self.pins = 0
        self._found_advertisers()

    def _found_advertisers(self) -> None:
        rng = generator(self.config.seed, Stream.ADVERTISERS)
        count = self.config.advertisers
        self.specialities = self.topics.draw(rng, (count, SPECIALITIES))
        # The main businesses are spread evenly, or a topic of two pins would make them popular.
        main = rng.permutation(len(self.topics))
        self.specialities[:, 0] = main[np.arange(count) % len(self.topics)]
        self._advertiser_size = np.cumsum(np.exp(rng.normal(0.0, ADVERTISER_SD, count)))

    def advertisers(self) -> pa.Table:
        """All advertisers (there from the start)."""
        return table("advertisers", {"advertiser_id": np.arange(self.config.advertisers)})

    def grow(self, cohort: int, earliest: int, latest: int) -> Iterator[EntityRows]:
        """The users, items, pages and pins of a cohort, created between two times (us)."""
        first_user = self.users.count
        self.users.arrive(cohort, earliest, latest)
        for first in range(first_user, self.users.count, ENTITY_BLOCK):
            rows = slice(first, min(first + ENTITY_BLOCK, self.users.count))
            user = np.arange(rows.start, rows.stop)
            columns = {"user_id": user, "created_timestamp": self.users.created[rows]}
            yield "users", table("users", columns)
        known_items = self.items
        yield from self._grow_items(cohort, earliest, latest)
        yield from self._grow_pins(cohort, known_items, earliest, latest)

    def _grow_items(self, cohort: int, earliest: int, latest: int) -> Iterator[EntityRows]:
        last = self.config.size(self.config.items, self.config.pin_growth, cohort)
        for block, first in enumerate(range(self.items, last, ENTITY_BLOCK)):
            rng = generator(self.config.seed, Stream.ITEMS, cohort, block)
            rows = slice(first, min(first + ENTITY_BLOCK, last))
            self._draw_items(rng, rows)
            yield "items", self._item_rows(rng, rows, earliest, latest)
            yield "pages", self._page_rows(rng, rows, earliest, latest)
        self.items = last

    def _draw_items(self, rng: np.random.Generator, rows: slice) -> None:
        size = rows.stop - rows.start
        sizes = self._advertiser_size
        advertiser = np.searchsorted(sizes, rng.random(size) * sizes[-1], side="right")
        advertiser = np.minimum(advertiser, len(sizes) - 1)
        # The first speciality is the main business: 60, 30 and 10 % of the items.
        speciality = np.searchsorted([0.6, 0.9], rng.random((size, 2)), side="right")
        self.item_advertiser[rows] = advertiser
        self.item_topic[rows] = self.specialities[advertiser[:, None], speciality]
        self.item_mix[rows] = mix_of(rng, self.item_topic[rows], MIXED_ANGLE / 2)
        self.item_appeal[rows] = rng.normal(0.0, APPEAL_SD, size)

    def _item_rows(
        self, rng: np.random.Generator, rows: slice, earliest: int, latest: int
    ) -> pa.Table:
        item = np.arange(rows.start, rows.stop)
        columns = {
            "item_id": item,
            "advertiser_id": self.item_advertiser[rows],
            "page_id": item,
            "created_timestamp": _times(rng, len(item), earliest, latest, ITEMS_COME),
        }
        return table("items", columns)

    def _page_rows(
        self, rng: np.random.Generator, rows: slice, earliest: int, latest: int
    ) -> pa.Table:
        page, advertiser = np.arange(rows.start, rows.stop), self.item_advertiser[rows]
        topic, mix = self.item_topic[rows], self.item_mix[rows]
        shops = zip(advertiser.tolist(), page.tolist(), strict=True)
        columns = {
            "page_id": page,
            "url": [f"https://shop-{shop}.example/products/{number}" for shop, number in shops],
            "advertiser_id": advertiser,
            "text_vector": vectors(self.topics.show(rng, self.topics.text_axes, topic, mix)),
            "image_vector": vectors(self.topics.show(rng, self.topics.image_axes, topic, mix)),
            "crawled_timestamp": _times(rng, len(page), earliest, latest, PAGES_COME),
        }
        return table("pages", columns)

    def _grow_pins(
        self, cohort: int, known_items: int, earliest: int, latest: int
    ) -> Iterator[EntityRows]:
        last = self.config.size(self.config.pins, self.config.pin_growth, cohort)
        for block, first in enumerate(range(self.pins, last, ENTITY_BLOCK)):
            rng = generator(self.config.seed, Stream.PINS, cohort, block)
            rows = slice(first, min(first + ENTITY_BLOCK, last))
            self._draw_pins(rng, rows, known_items)
            yield "pins", self._pin_rows(rng, rows, earliest, latest)
            if self.config.truth:
                yield "pin_topics", self._pin_truth(rows)
        self.pins = last

    def _draw_pins(self, rng: np.random.Generator, rows: slice, known_items: int) -> None:
        size = rows.stop - rows.start
        # Half of the new pins promote what is new, if anything is; the others anything.
        lowest = np.where(rng.random(size) < 0.5, known_items, 0)
        lowest[lowest >= self.items] = 0
        item = lowest + (rng.random(size) * (self.items - lowest)).astype(np.int64)
        self.pin_item[rows] = item
        self.pin_topic[rows, 0] = self.item_topic[item, 0]
        other = self.topics.draw(rng, (size,))
        own = rng.random(size) < 0.5
        self.pin_topic[rows, 1] = np.where(own, self.item_topic[item, 1], other)
        self.pin_mix[rows] = mix_of(rng, self.pin_topic[rows], MIXED_ANGLE)
        self.pin_quality[rows] = rng.normal(0.0, QUALITY_SD, size)
        self.pin_budget[rows] = np.exp(rng.normal(0.0, BUDGET_SD, size))

    def _pin_rows(
        self, rng: np.random.Generator, rows: slice, earliest: int, latest: int
    ) -> pa.Table:
        item = self.pin_item[rows]
        image = self.topics.show(
            rng, self.topics.image_axes, self.pin_topic[rows], self.pin_mix[rows]
        )
        columns = {
            "pin_id": np.arange(rows.start, rows.stop),
            "page_id": item,
            "item_id": item,
            "advertiser_id": self.item_advertiser[item],
            "created_timestamp": _times(rng, len(item), earliest, latest, PINS_COME),
            "image_vector": vectors(image),
        }
        return table("pins", columns)

    def _pin_truth(self, rows: slice) -> pa.Table:
        dense = np.zeros((rows.stop - rows.start, len(self.topics)), np.float32)
        for side in (0, 1):
            np.add.at(
                dense,
                (np.arange(len(dense)), self.pin_topic[rows, side]),
                self.pin_mix[rows, side],
            )
        columns = {
            "pin_id": np.arange(rows.start, rows.stop),
            "topics": vectors(dense),
            "quality": self.pin_quality[rows],
        }
        return table("pin_topics", columns)

    def pin_index(self) -> TopicIndex:
        """Of the pins that exist now, by first topic and budget."""
        return TopicIndex(
            self.pin_topic[: self.pins, 0], self.pin_budget[: self.pins], len(self.topics)
        )

    def item_index(self) -> TopicIndex:
        """Of the items that exist now, by first topic and appeal."""
        appeal = np.exp(self.item_appeal[: self.items])
        return TopicIndex(self.item_topic[: self.items, 0], appeal, len(self.topics))

    def affinity(self, interests: Floats, user: Ints, pin: Ints) -> Floats:
        """Cosine (n,) in topic space of `user` (a row of `interests`) with `pin`."""
        length = np.sqrt(np.square(interests).sum(axis=1))
        topic, mix = self.pin_topic[pin], self.pin_mix[pin]
        dot = interests[user, topic[:, 0]] * mix[:, 0] + interests[user, topic[:, 1]] * mix[:, 1]
        cosine: Floats = dot / length[user]
        return cosine


def _times(
    rng: np.random.Generator, count: int, earliest: int, latest: int, part: tuple[float, float]
) -> Ints:
    """Ascending times (us) within a part of the time from earliest to latest."""
    span = latest - earliest
    low, high = (earliest + int(span * edge) for edge in part)
    return np.sort(rng.integers(low, high, count))
