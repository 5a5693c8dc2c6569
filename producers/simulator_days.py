"""What a block of users sees and does in a day: arrays in, arrays out, nothing written.

Legend: n impressions (or events) of the block, u users of the block, K topics. Times are
microseconds since 1970 (UTC). `user` counts within the block, `pin` and `item` over the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from provender.producers.simulator_files import DAY_US, ENGAGEMENTS
from provender.producers.simulator_streams import Stream, generator
from provender.producers.simulator_topics import Doubles, Floats, Ints, TopicIndex
from provender.producers.simulator_users import draw_topic
from provender.producers.simulator_world import AdsWorld

Columns: TypeAlias = Mapping[str, Any]

FEED = 12
"""Pins a visit shows, at positions 1 to FEED."""
SECOND_US, MINUTE_US, HOUR_US = 1_000_000, 60_000_000, 3_600_000_000
LAST_START_US = DAY_US - 5 * MINUTE_US
"""Visits begin early enough to end in their own day."""

# Log-odds of a click, beside the affinity's (a knob) and the user's and pin's own.
POSITION_EFFECT = -0.3
SURFACE_SHARE = (0.6, 0.85)
SURFACE_EFFECT = np.array([0.0, 0.15, 0.35])
# Log-odds that a click converts.
CONVERSION_AFFINITY = 1.5
CONVERSION_PROPENSITY = 0.5

LONG_CLICK = (-1.0, 1.5)
"""Log-odds that a click is a long one: at no affinity, and what full affinity adds."""
SAVE_AFTER_CLICK = 0.12
HIDE = 0.004
ORGANIC_AT_RANDOM = 0.1
ORGANIC_TYPES = (0.80, 0.91, 0.96)
CAUSED_TYPES = (0.55, 0.78, 0.90)
"""Where page_visit, add_to_cart and checkout end; sign_up is the rest."""
QUICK_SHARE, QUICK_MEAN_US, SLOW_MEAN_US = 0.6, 6 * HOUR_US, 48 * HOUR_US


@dataclass(frozen=True)
class Market:
    """What can be drawn on a day: the pins and items that existed when it began."""

    day: int
    midnight: int
    pins: TopicIndex
    items: TopicIndex
    pin_count: int
    item_count: int


@dataclass(frozen=True)
class Baseline:
    """Log-odds that make the world's rates what was asked for."""

    click: float
    conversion: float


@dataclass(frozen=True)
class Served:
    """The impressions of a block: each array (n,)."""

    user: Ints
    pin: Ints
    time: Ints
    position: Ints
    surface: Ints
    affinity: Floats
    click_odds: Doubles
    conversion_odds: Doubles
    """Log-odds, before the baseline."""


@dataclass(frozen=True)
class BlockDay:
    """All that happens to a block of users in a day; ids of impressions are still to be given.

    `impression` columns of engagements and conversions count within the block, -1 if organic.
    """

    impressions: Columns
    engagements: Columns
    conversions: Columns
    click_probability: Columns
    interests: Floats


def sigmoid(odds: Doubles) -> Doubles:
    """Probabilities of log-odds."""
    return 1.0 / (1.0 + np.exp(-odds))


def simulate_block(world: AdsWorld, market: Market, block: int, baseline: Baseline) -> BlockDay:
    """A day of a block of users."""
    rows = world.users.block(block)
    interests = world.users.interests(rows)
    seed, day = world.config.seed, market.day
    served = serve(world, market, rows, interests, generator(seed, Stream.SERVING, day, block))
    p_click = sigmoid(served.click_odds + baseline.click)
    p_conversion = sigmoid(served.conversion_odds + baseline.conversion)
    rng = generator(seed, Stream.REACTION, day, block)
    clicked, click_time, engagements = _react(rng, served, p_click)
    conversions = _convert(rng, world, served, clicked, click_time, p_conversion)
    rng = generator(seed, Stream.ORGANIC, day, block)
    saves = _organic_saves(rng, world, market, rows, interests)
    visits = _organic_visits(rng, world, market, rows, interests)
    return BlockDay(
        impressions={
            "event_timestamp": served.time,
            "user_id": served.user + rows.start,
            "pin_id": served.pin,
            "position": served.position,
            "surface": served.surface,
        },
        engagements=_joined(engagements, saves, rows.start),
        conversions=_joined(conversions, visits, rows.start),
        click_probability={
            "p_click": p_click,
            "p_conversion": p_conversion,
            "affinity": served.affinity,
        },
        interests=interests,
    )


def _joined(caused: dict[str, Ints], organic: dict[str, Ints], first_user: int) -> dict[str, Ints]:
    joined = {name: np.concatenate([caused[name], organic[name]]) for name in caused}
    joined["user_id"] += first_user
    return joined


def serve(
    world: AdsWorld, market: Market, rows: slice, interests: Floats, rng: np.random.Generator
) -> Served:
    """The impressions of the users at `rows`, in visits of up to FEED positions."""
    config, users = world.config, world.users
    mean = config.impressions_per_user * users.activity[rows]
    user, slot = _repeat(rng.poisson(mean))
    # A visit is a user's next FEED slots; numbered over the block, it has one start, one surface.
    visit = np.cumsum((slot % FEED == 0).astype(np.int64)) - 1
    visits = int(visit[-1]) + 1 if len(visit) else 0
    surface = np.searchsorted(SURFACE_SHARE, rng.random(visits), side="right")[visit]
    position = slot % FEED
    start = _in_day(users.created[rows][user], market.midnight, rng.random(visits)[visit])
    time = start + ((position + rng.random(len(user))) * 8 * SECOND_US).astype(np.int64)
    pin = _deliver(world, market, interests, user, rng)
    affinity = world.affinity(interests, user, pin)
    propensity = users.propensity[rows][user].astype(np.float64)
    click_odds = config.affinity_effect * affinity + propensity + world.pin_quality[pin]
    click_odds += POSITION_EFFECT * np.log1p(position) + SURFACE_EFFECT[surface]
    appeal = world.item_appeal[world.pin_item[pin]]
    conversion_odds = CONVERSION_AFFINITY * affinity + CONVERSION_PROPENSITY * propensity + appeal
    return Served(user, pin, time, position + 1, surface, affinity, click_odds, conversion_odds)


def _repeat(counts: Ints) -> tuple[Ints, Ints]:
    """Who each of sum(counts) events belongs to, and which of theirs it is."""
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - first[owner]


def _in_day(created: Ints, midnight: int, uniform: Doubles) -> Ints:
    """Times in the day, not before the user's own creation."""
    low = np.maximum(created, midnight)
    time: Ints = low + (uniform * (midnight + LAST_START_US - low)).astype(np.int64)
    return time


def _deliver(
    world: AdsWorld, market: Market, interests: Floats, user: Ints, rng: np.random.Generator
) -> Ints:
    """A pin for each impression: by the user's interests, by popularity or at random."""
    config = world.config
    how, uniform = rng.random(len(user)), rng.random(len(user))
    topic = draw_topic(interests, user, rng.random(len(user)))
    return np.select(
        [how < config.targeted, how < config.targeted + config.popular],
        [market.pins.draw_in(topic, uniform), market.pins.draw(uniform)],
        (uniform * market.pin_count).astype(np.int64),
    )


def _react(
    rng: np.random.Generator, served: Served, p_click: Doubles
) -> tuple[Ints, Ints, dict[str, Ints]]:
    """Clicks as (impression, time), and all engagements they and the impressions lead to."""
    is_click = rng.random(len(p_click)) < p_click
    hates = rng.random(len(p_click)) < HIDE * np.exp(-2.0 * served.affinity)
    clicked, hidden = np.flatnonzero(is_click), np.flatnonzero(hates & ~is_click)
    click_time = _after(rng, served.time[clicked], 1, 15)
    p_long = sigmoid(LONG_CLICK[0] + LONG_CLICK[1] * served.affinity[clicked].astype(np.float64))
    is_long = rng.random(len(clicked)) < p_long
    saves = rng.random(len(clicked)) < SAVE_AFTER_CLICK
    parts = [
        ("click", clicked, click_time),
        ("long_click", clicked[is_long], _after(rng, click_time[is_long], 30, 180)),
        ("save", clicked[saves], _after(rng, click_time[saves], 5, 60)),
        ("hide", hidden, _after(rng, served.time[hidden], 1, 10)),
    ]
    impression = np.concatenate([rows for _, rows, _ in parts])
    codes = [np.full(len(rows), ENGAGEMENTS.index(name)) for name, rows, _ in parts]
    return (
        clicked,
        click_time,
        {
            "impression_id": impression,
            "event_timestamp": np.concatenate([time for _, _, time in parts]),
            "user_id": served.user[impression],
            "pin_id": served.pin[impression],
            "type": np.concatenate(codes),
        },
    )


def _after(rng: np.random.Generator, time: Ints, least_s: int, most_s: int) -> Ints:
    return time + rng.integers(least_s * SECOND_US, most_s * SECOND_US, len(time))


def _convert(
    rng: np.random.Generator,
    world: AdsWorld,
    served: Served,
    clicked: Ints,
    click_time: Ints,
    p_conversion: Doubles,
) -> dict[str, Ints]:
    """At most one conversion a click, of the item its pin promotes, hours to days later."""
    converts = rng.random(len(clicked)) < p_conversion[clicked]
    impression = clicked[converts]
    delay = _delay(rng, len(impression), world.config.attribution_days * DAY_US)
    item = world.pin_item[served.pin[impression]]
    kind = np.searchsorted(CAUSED_TYPES, rng.random(len(impression)), side="right")
    return _conversion_columns(
        world, served.user[impression], item, click_time[converts] + delay, kind, impression
    )


def _delay(rng: np.random.Generator, count: int, longest: int) -> Ints:
    """Delays (us): quick and slow deciders, each exponential, cut off at `longest`."""
    mean = np.where(rng.random(count) < QUICK_SHARE, QUICK_MEAN_US, SLOW_MEAN_US)
    # The inverse of the truncated exponential's distribution function.
    mass = -np.expm1(-longest / mean)
    delay = -mean * np.log1p(-rng.random(count) * mass)
    return np.maximum(delay.astype(np.int64), MINUTE_US)


def _conversion_columns(
    world: AdsWorld, user: Ints, item: Ints, time: Ints, kind: Ints, impression: Ints
) -> dict[str, Ints]:
    return {
        "event_timestamp": time,
        "user_id": user,
        "item_id": item,
        "page_id": item,
        "advertiser_id": world.item_advertiser[item].astype(np.int64),
        "type": kind.astype(np.int64),
        "impression_id": impression,
    }


def _organic(
    rng: np.random.Generator,
    world: AdsWorld,
    market: Market,
    rows: slice,
    interests: Floats,
    mean: float,
) -> tuple[Ints, Ints, Ints, Doubles]:
    """Organic events: user, time, a topic of interest, and a uniform number to draw with."""
    user, _ = _repeat(rng.poisson(mean * world.users.activity[rows]))
    time = _in_day(world.users.created[rows][user], market.midnight, rng.random(len(user)))
    topic = draw_topic(interests, user, rng.random(len(user)))
    stray = rng.random(len(user)) < ORGANIC_AT_RANDOM
    topic[stray] = rng.integers(0, len(world.topics), int(stray.sum()))
    return user, time, topic, rng.random(len(user))


def _organic_saves(
    rng: np.random.Generator, world: AdsWorld, market: Market, rows: slice, interests: Floats
) -> dict[str, Ints]:
    mean = world.config.saves_per_user
    user, time, topic, uniform = _organic(rng, world, market, rows, interests, mean)
    return {
        "impression_id": np.full(len(user), -1),
        "event_timestamp": time,
        "user_id": user,
        "pin_id": market.pins.draw_in(topic, uniform),
        "type": np.full(len(user), ENGAGEMENTS.index("save")),
    }


def _organic_visits(
    rng: np.random.Generator, world: AdsWorld, market: Market, rows: slice, interests: Floats
) -> dict[str, Ints]:
    mean = world.config.visits_per_user
    user, time, topic, uniform = _organic(rng, world, market, rows, interests, mean)
    item = market.items.draw_in(topic, uniform)
    kind = np.searchsorted(ORGANIC_TYPES, rng.random(len(user)), side="right")
    return _conversion_columns(world, user, item, time, kind, np.full(len(user), -1))
