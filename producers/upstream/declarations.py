"""What upstream towers learn from and look at: sources with labels, and features by tower.

    upstream:
      sources:
        shown:
          table: impressions
          id: impression_id
          user: user_id
          pin: pin_id
          time: event_timestamp
          context:
            numbers: {position: {column: position}}
            categories: {surface: {column: surface}}
          labels:
            click: {table: engagements, where: "type = 'click'", match: {id: impression_id},
                    time: event_timestamp, within: 1h}
        bought: {table: purchases, user: user_id, pin: pin_id, time: ts, labels: {buy: always},
                 negatives: 4}
      features:
        user:
          counts: {clicks_7d: {events: [click], days: 7}}
          sequence: {events: [click, save], length: 50, views: [pin_transra_v1]}
          views: [user_transra_v1]
        pin: {ids: {buckets: 100000}}
        pair: {counts: {seen: {events: [impression]}}}

Tables are the world's (plugin/tables.py), `events` those of its section `events`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, model_validator

from provender.plugin.durations import Duration
from provender.plugin.errors import MappingError
from provender.plugin.time_sql import TimeUnit
from provender.plugin.world import Name, World
from provender.producers.event_mapping import EventDeclaration, EventMapping

#: Of a label: every row of its source has it.
ALWAYS = "always"


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Timed(_Declaration):
    table: str = Field(description="one of the world's tables")
    where: str | None = Field(None, description="SQL condition on the table's columns")
    time: str = Field(description="column of the row's time")
    time_unit: TimeUnit | None = Field(None, description="of a time written as a number since 1970")
    time_zone: str | None = Field(None, description="of times that carry none themselves; UTC else")


class LabelDeclaration(_Timed):
    """What makes a row of a source a positive of a task, if it follows soon enough."""

    match: dict[Literal["id", "user", "pin"], str] = Field(
        min_length=1,
        description="of the source's row -> column of this table; one row of this table makes one "
        "row of the source a positive, the newest that is not later",
    )
    within: Duration = Field(
        description="the attribution window, both ends included: 1d, 12h, 30m; until it has "
        "passed the label is unknown"
    )
    liked: bool = Field(
        True, description="whether a positive says that user and pin fit; a hide says they don't"
    )


class ScalarColumn(_Declaration):
    """A number in a column."""

    column: str
    scale: Literal["quantile", "log", "standard", "none"] = Field(
        "quantile",
        description="to a normal distribution by quantiles; log(1 + x), then as standard; less "
        "the mean, by the deviation; as it is",
    )


class CategoryColumn(_Declaration):
    """Text or a number that stands for something, or a list of them, in a column."""

    column: str
    buckets: int | None = Field(
        None, ge=1, description="hashed into so many; null learns the values that there are"
    )
    most_values: int = Field(
        10_000, ge=1, description="of values learned the most frequent; others are one"
    )


class ContextDeclaration(_Declaration):
    """What is known of a row when it is shown: only the interaction tower sees it."""

    numbers: dict[Name, ScalarColumn] = Field(default_factory=dict)
    categories: dict[Name, CategoryColumn] = Field(default_factory=dict)


class SourceDeclaration(_Timed):
    """A log whose rows are learned from: a user, a pin, a time and what followed."""

    user: str = Field(description="column of the user's key")
    pin: str = Field(description="column of the pin's key")
    id: str | None = Field(None, description="column that identifies the row, for labels' `match`")
    labels: dict[Name, LabelDeclaration | Literal["always"]] = Field(
        min_length=1,
        description="by task; `always` where every row is a positive. Tasks of one name in "
        "several sources are one task",
    )
    context: ContextDeclaration = ContextDeclaration()
    negatives: int = Field(
        0,
        ge=0,
        description="rows drawn beside each, with another pin and all labels that are `always` 0",
    )
    negatives_by: Literal["popularity", "uniform"] = Field(
        "popularity", description="how their pins are drawn, among those known at the time"
    )
    weight: float = Field(1.0, gt=0, description="of its rows in the loss")
    rate: float = Field(1.0, gt=0, le=1, description="so much of its rows is used, by a hash")
    negative_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="so much of the rows without any positive is used, and each weighs by so much "
        "more",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        always = [name for name, label in self.labels.items() if label == ALWAYS]
        if bool(always) != bool(self.negatives):
            raise ValueError("`negatives` above 0 where a label is `always`, and only there")
        for name, label in self.labels.items():
            if isinstance(label, LabelDeclaration) and "id" in label.match and self.id is None:
                raise ValueError(f"`id`, as label {name} is matched by it")
        return self


class CountDeclaration(_Declaration):
    """How many events there were before."""

    events: tuple[str, ...] = Field(min_length=1)
    days: float | None = Field(None, gt=0, description="of so many days; null counts all")


class RecencyDeclaration(_Declaration):
    """How many days ago the newest event was."""

    events: tuple[str, ...] = Field(min_length=1)


class NumberDeclaration(ScalarColumn):
    """A number of the entity; of several rows the newest before counts."""

    table: str
    key: str = Field(description="column of the entity's key")
    where: str | None = Field(None, description="SQL condition on the table's columns")
    time: str | None = Field(None, description="column of the time from which on it is known")
    time_unit: TimeUnit | None = None


class CategoryDeclaration(CategoryColumn):
    """A category of the entity; of several rows the newest before counts."""

    table: str
    key: str = Field(description="column of the entity's key")
    where: str | None = Field(None, description="SQL condition on the table's columns")
    time: str | None = Field(None, description="column of the time from which on it is known")
    time_unit: TimeUnit | None = None


class IdDeclaration(_Declaration):
    """A learned row an entity."""

    buckets: int | None = Field(
        None, ge=1, description="keys are hashed into so many rows; null has a row a key"
    )
    dim: int = Field(32, ge=1, description="the length of a row; that of `view` where there is one")
    view: str | None = Field(
        None, description="embedding view, such as user_transra_v1, whose vectors rows start from"
    )

    pretrained: bool = Field(
        False,
        description="without a `view`: whether rows start from a TransRA that is trained on the "
        "events of the sequence before the first refresh",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.buckets is not None and (self.view is not None or self.pretrained):
            raise ValueError("no `view` and not `pretrained` where keys are hashed into rows")
        if self.view is not None and self.pretrained:
            raise ValueError("`view` or `pretrained`, not both")
        return self


class SequenceDeclaration(_Declaration):
    """What a user has done last."""

    events: tuple[str, ...] = Field(min_length=1, description="between user and pin")
    length: int = Field(50, ge=1, description="so many are seen, the newest")
    views: tuple[str, ...] = Field((), description="embedding views of the pins that were met")


class PairFeatures(_Declaration):
    """What there was between this user and this pin: only the interaction tower sees it."""

    counts: dict[Name, CountDeclaration] = Field(default_factory=dict)
    recency: dict[Name, RecencyDeclaration] = Field(default_factory=dict)


class EntityFeatures(PairFeatures):
    """What a tower sees of a user or a pin."""

    numbers: dict[Name, NumberDeclaration] = Field(default_factory=dict)
    categories: dict[Name, CategoryDeclaration] = Field(default_factory=dict)
    views: tuple[str, ...] = Field((), description="embedding views of the entity, as of then")
    ids: IdDeclaration | None = None
    as_of: Literal["instant", "hour", "day"] = Field(
        "instant",
        description="as of when features are taken in training: of the row's time, or of the "
        "beginning of its hour or day in UTC, as a refresh at that time would have them",
    )


class UserFeatures(EntityFeatures):
    """What the user tower sees."""

    sequence: SequenceDeclaration | None = None


class PinFeatures(EntityFeatures):
    """What the pin tower sees."""

    as_of: Literal["instant", "hour", "day"] = "day"


class FeatureDeclarations(_Declaration):
    """What the towers see."""

    user: UserFeatures
    pin: PinFeatures
    pair: PairFeatures = PairFeatures()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        own = (self.user.ids, self.pin.ids)
        if len({ids.dim for ids in own if ids is not None and ids.pretrained}) > 1:
            raise ValueError("one `dim` of user.ids and pin.ids, as they are pretrained together")
        return self


class PinTable(_Declaration):
    """Pins that there are, apart from those that something has happened to."""

    table: str
    key: str
    where: str | None = None
    time: str | None = Field(None, description="column of the time from which on a pin is there")
    time_unit: TimeUnit | None = None
    until: str | None = Field(None, description="column of the time at which it is taken down")


class TowerSources(_Declaration):
    """The whole declaration."""

    sources: dict[Name, SourceDeclaration] = Field(min_length=1)
    features: FeatureDeclarations | None = Field(
        None, description="what the towers see; null takes `default_features`"
    )
    pins: PinTable | None = None
    backfills: bool = Field(
        True,
        description="whether vectors of other views count from their as-of time on, though they "
        "were computed later",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len({name.lower() for name in self.tasks}) < len(self.tasks):
            raise ValueError("tasks that differ in more than upper and lower case")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks, in the order in which they are declared."""
        names = (name for source in self.sources.values() for name in source.labels)
        return tuple(dict.fromkeys(names))

    @property
    def liked(self) -> tuple[str, ...]:
        """The tasks whose positives say that user and pin fit."""
        dislikes = {
            name
            for source in self.sources.values()
            for name, label in source.labels.items()
            if isinstance(label, LabelDeclaration) and not label.liked
        }
        return tuple(name for name in self.tasks if name not in dislikes)


#: Parts of names of events that only say that a pin was there to be seen.
_SHOWN = ("impression", "exposure", "shown")
_COUNT_DAYS = (1.0, 7.0, 30.0, None)


def default_features(events: Mapping[str, tuple[str, str]]) -> FeatureDeclarations:
    """What towers see where nothing is declared.

    Args:
        events: name -> entity types of head and tail, of the world's events that have a time.

    Counts of 1, 7 and 30 days and of all time, recencies, the last 50 events but for impressions
    and the like (those that are named so, if others are left), and a learned row for each user and
    pin, which starts from what these events say.
    """
    of_users = [name for name, (head, _) in events.items() if head == "user"]
    of_pins = [name for name in of_users if events[name][1] == "pin"]
    deeds = [name for name in of_pins if not any(part in name.lower() for part in _SHOWN)]
    met = tuple(deeds or of_pins)
    ids = IdDeclaration(dim=64, pretrained=True) if met else IdDeclaration()
    return FeatureDeclarations(
        user=UserFeatures(
            counts=_counts(of_users),
            recency=_recencies(of_users),
            ids=ids,
            sequence=SequenceDeclaration(events=met) if met else None,
        ),
        pin=PinFeatures(counts=_counts(of_pins), recency=_recencies(of_pins), ids=ids),
        pair=PairFeatures(counts=_counts(of_pins), recency=_recencies(of_pins)),
    )


def _counts(events: Iterable[str]) -> dict[str, CountDeclaration]:
    return {
        f"{name}_{'all' if days is None else f'{days:.0f}d'}": CountDeclaration(
            events=(name,), days=days
        )
        for name in events
        for days in _COUNT_DAYS
    }


def _recencies(events: Iterable[str]) -> dict[str, RecencyDeclaration]:
    return {name: RecencyDeclaration(events=(name,)) for name in events}


def check_declared(sources: TowerSources, world: World) -> None:
    """Raise MappingError for tables, events or entities that a world does not declare.

    A user's counts and recency may be of any event whose head is a user; those of a pin and of a
    pair, and the sequence, are of events between user and pin. All of them need a time.
    """
    for entity in ("user", "pin"):
        if entity not in world.entities:
            raise MappingError(
                "upstream",
                found=f"entities {', '.join(world.entities)}",
                expected="an entity named user and one named pin",
                remedy="Name those so, under `entities` and in `events`, that towers are for.",
            )
    for place, declared in _rows_of(sources):
        if declared.table not in world.tables:
            raise _unknown(f"{place}.table", declared.table, world.tables, "tables")
        _check_zone(f"{place}.time_zone", getattr(declared, "time_zone", None))
    events = EventMapping.from_world(world).events
    for place, names, tail in _events_of(sources.features):
        for name in names:
            if name not in events:
                raise _unknown(place, name, events, "events")
            _check_event(place, name, events[name], tail)


def _rows_of(sources: TowerSources) -> Iterator[tuple[str, Any]]:
    """All that names a table, behind its place."""
    for name, source in sources.sources.items():
        yield f"upstream.sources.{name}", source
        for task, label in source.labels.items():
            if isinstance(label, LabelDeclaration):
                yield f"upstream.sources.{name}.labels.{task}", label
    if sources.features is not None:
        for entity in ("user", "pin"):
            seen: EntityFeatures = getattr(sources.features, entity)
            for kind in ("numbers", "categories"):
                for name, declared in getattr(seen, kind).items():
                    yield f"upstream.features.{entity}.{kind}.{name}", declared
    if sources.pins is not None:
        yield "upstream.pins", sources.pins


def _events_of(
    features: FeatureDeclarations | None,
) -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    """All that names events: its place, their names, and the entity that tails must be."""
    if features is None:
        return
    for tower in ("user", "pin", "pair"):
        seen: PairFeatures = getattr(features, tower)
        for kind, declared in (("counts", seen.counts), ("recency", seen.recency)):
            for name, one in declared.items():
                place = f"upstream.features.{tower}.{kind}.{name}.events"
                yield place, one.events, None if tower == "user" else "pin"
    if features.user.sequence is not None:
        yield "upstream.features.user.sequence.events", features.user.sequence.events, "pin"


def _check_event(place: str, name: str, event: EventDeclaration, tail: str | None) -> None:
    found = f"{name} of {event.head_entity} and {event.tail_entity}"
    if event.time is None:
        found = f"{name}, which has no time"
    elif event.head_entity == "user" and tail in (None, event.tail_entity):
        return
    raise MappingError(
        place,
        found=found,
        expected=f"events whose head is user{f' and whose tail is {tail}' if tail else ''}, "
        "with a time",
        remedy="Name others, or declare such ones under `events`.",
    )


def _check_zone(place: str, zone: str | None) -> None:
    try:
        ZoneInfo(zone or "UTC")
    except (KeyError, ValueError, OSError):
        raise MappingError(
            place,
            found=repr(zone),
            expected="a time zone such as UTC or Europe/Berlin",
            remedy="Correct it.",
        ) from None


def _unknown(place: str, found: str, known: Iterable[str], section: str) -> MappingError:
    return MappingError(
        place,
        found=repr(found),
        expected=f"one of {', '.join(sorted(known))}",
        remedy=f"Correct it or declare it under `{section}`.",
    )
