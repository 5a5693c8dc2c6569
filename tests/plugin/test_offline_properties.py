"""Random small worlds, with few keys and few instants so that ties and edges abound.

Whatever the units, zones, files and row groups of a world are, the store and the oracle agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView
from feast.types import Array, Float32, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from provender.plugin.embedding_view import embedding_view, spec_of
from provender.plugin.manifest import MANIFEST_NAME, RunInfo
from provender.plugin.snapshot import write_snapshot
from tests.plugin.offline_world import (
    CREATED,
    PIN,
    T0,
    TIME,
    USER,
    asked,
    at,
    check,
    facts_of,
    open_store,
    retrieve,
    stamps,
    view_of,
    write,
)
from tests.plugin.pit_oracle import PER_UNIT, Facts, joined, rows_of

SECOND = 10**9
UNITS = st.sampled_from(["s", "ms", "us", "ns"])
ZONES = st.sampled_from([None, "UTC", "Asia/Tokyo"])
TTLS = st.sampled_from([None, 0, 1, 2, 3, 1.000001]).map(
    lambda seconds: None if seconds is None else timedelta(seconds=seconds)
)
USERS = st.sampled_from([None, 0, 1, 2])
PINS = st.sampled_from([None, "a", "ключ", ""])


@st.composite
def instants(draw: st.DrawFn, unit: str) -> int:
    """One of seven seconds, or the smallest step after or before it."""
    return T0 + draw(st.integers(0, 6)) * SECOND + draw(st.integers(-1, 1)) * PER_UNIT[unit]


@dataclass(frozen=True)
class World:
    """A view, its files as tables, and how each is cut into row groups."""

    name: str
    entities: tuple[Entity, ...]
    ttl: timedelta | None
    created: bool
    tables: list[pa.Table]
    group_rows: int

    def view(self, folder: Path) -> FeatureView:
        place = folder / self.name
        for number, table in enumerate(self.tables):
            write(place / f"{number}.parquet", table, row_group_size=self.group_rows)
        return view_of(
            place if len(self.tables) > 1 else place / "0.parquet",
            self.name,
            entities=self.entities,
            features={"value": Int64, "word": String, "vector": Array(Float32)},
            ttl=self.ttl,
            created=CREATED if self.created else None,
        )


@st.composite
def worlds(draw: st.DrawFn, name: str, entities: tuple[Entity, ...]) -> World:
    created = draw(st.booleans())
    rows: list[tuple[Any, ...]] = []
    tables, seen = [], set()
    for _ in range(draw(st.integers(1, 3))):
        unit, zone = draw(UNITS), draw(ZONES)
        part: list[tuple[Any, ...]] = []
        for _ in range(draw(st.integers(0, 7))):
            key = tuple(draw(USERS if entity is USER else PINS) for entity in entities)
            event = (
                draw(st.none() | instants(unit)) if draw(st.booleans()) else draw(instants(unit))
            )
            made = draw(st.none() | instants(unit))
            if (tie := (key, event, made if created else None)) in seen:
                continue  # of two rows that nothing tells apart, either is right
            seen.add(tie)
            part.append((key, event, made, len(rows) + len(part)))
        rows.extend(part)
        tables.append(table_of(entities, part, unit, zone, created=created))
    return World(name, entities, draw(TTLS), created, tables, draw(st.integers(1, 4)))


def table_of(
    entities: Sequence[Entity], rows: list[Any], unit: str, zone: str | None, *, created: bool
) -> pa.Table:
    types = [pa.int64() if entity is USER else pa.string() for entity in entities]
    values = [row[3] for row in rows]
    vectors = [None if n % 5 == 4 else [n + 0.5, -n] for n in values]
    columns = {
        TIME: stamps([row[1] for row in rows], unit, zone),
        **{
            entity.join_key: pa.array([row[0][place] for row in rows], types[place])
            for place, entity in enumerate(entities)
        },
        "vector": pa.array(vectors, pa.list_(pa.float32())),
        "word": pa.array([None if n % 4 == 3 else f"w{n}" for n in values], pa.string()),
        "value": pa.array([None if n % 7 == 6 else n for n in values], pa.int64()),
    }
    if created:
        columns[CREATED] = stamps([row[2] for row in rows], unit, zone)
    return pa.table(columns)


@st.composite
def frames(draw: st.DrawFn) -> pa.Table:
    unit = draw(UNITS)
    rows = draw(st.lists(st.tuples(USERS, PINS, instants(unit)), max_size=9))
    rows = rows + rows[: draw(st.integers(0, 2))]  # duplicates
    return pa.table(
        {
            "pin_id": pa.array([row[1] for row in rows], pa.string()),
            TIME: stamps([row[2] for row in rows], unit, draw(ZONES)),
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "row": pa.array(range(len(rows)), pa.int64()),
        }
    )


@settings(max_examples=50, deadline=None)
@given(
    users=worlds("users", (USER,)),
    pins=worlds("pins", (PIN,)),
    pairs=worlds("pairs", (PIN, USER)),
    entities=frames(),
    strict=st.booleans(),
    rows=st.integers(1, 4),
)
def test_every_world_is_joined_as_the_oracle_does(
    tmp_path_factory: pytest.TempPathFactory,
    users: World,
    pins: World,
    pairs: World,
    entities: pa.Table,
    strict: bool,
    rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("world")
    all_worlds = [users, pins, pairs]
    views = [world.view(folder) for world in all_worlds]
    store = open_store(folder, views)
    facts = [
        facts_of(view, *world.tables, full=True)
        for view, world in zip(views, all_worlds, strict=True)
    ]
    references = [f"{view.name}:{feature}" for view in views for feature in FEATURES]

    found = check(store, entities, references, facts, full=True, strict=strict)

    job = retrieve(
        store, entities, references, full_feature_names=True, filter_by_created_timestamp=strict
    )
    batches = list(job.stream(rows))
    assert all(batch.num_rows <= rows for batch in batches)
    assert pa.Table.from_batches(batches) == found


FEATURES = ("value", "word", "vector")


# Snapshots ------------------------------------------------------------------------------------


@st.composite
def snapshots(draw: st.DrawFn, keys: Sequence[Any]) -> dict[int, tuple[int, list[Any]]]:
    """As-of time -> (created time, keys): refreshes with few entities, some of none."""
    times = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True))
    chosen = st.lists(st.sampled_from(sorted(keys)), unique=True, max_size=len(keys)).map(sorted)
    return {
        T0 + time * SECOND: (T0 + draw(st.integers(0, 8)) * SECOND + 1000, draw(chosen))
        for time in times
    }


@contextmanager
def clock_at(instant: int) -> Iterator[None]:
    """Let snapshots be written at a given time."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(0, tz) + (at(instant) - at(0))

    with patch("provender.plugin.snapshot.datetime", Clock):
        yield


def vector_of(key: Any, instant: int, dim: int) -> np.ndarray[Any, Any]:
    seed = abs(hash((key, instant))) if isinstance(key, int) else sum(map(ord, key)) + instant
    return np.random.default_rng(seed % 2**32).normal(size=dim).astype(np.float32)


def write_all(
    root: Path,
    view: FeatureView,
    refreshes: dict[int, tuple[int, list[Any]]],
    key_type: pa.DataType,
) -> list[dict[str, Any]]:
    """Write the snapshots, and return their rows as the oracle wants them."""
    spec, facts = spec_of(view), []
    for as_of, (created, keys) in refreshes.items():
        vectors = np.array([vector_of(key, as_of, spec.dim) for key in keys], np.float32)
        run = RunInfo("run", spec.producer, "c0ffee", at(as_of), at(as_of))
        with clock_at(created):
            write_snapshot(
                root,
                spec,
                at(as_of),
                pa.array(keys, key_type),
                vectors.reshape(len(keys), spec.dim),
                run,
            )
        times = {TIME: as_of, CREATED: created}
        facts += [
            {spec.join_key: key, **times, "embedding": [float(x) for x in vector]}
            for key, vector in zip(keys, vectors, strict=True)
        ]
    return facts


def declared(root: Path, version: int, entity: Entity, dim: int, ttl: timedelta) -> FeatureView:
    return embedding_view(
        name="emb",
        version=version,
        entity=entity,
        dim=dim,
        nested_dims=(2,),
        space=f"s{version}",
        producer="p",
        ttl=ttl,
        snapshots=root,
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data(), strings=st.booleans(), strict=st.booleans(), rows=st.integers(1, 5))
def test_embeddings_of_two_versions_are_joined_as_the_oracle_does(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    strings: bool,
    strict: bool,
    rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("snapshots")
    entity, keys = (PIN, ["a", "b", "ключ"]) if strings else (USER, [-5, 0, 1, 2**40])
    key_type = pa.string() if strings else pa.int64()
    ttls = st.sampled_from([1, 2, 100]).map(lambda seconds: timedelta(seconds=seconds))
    views, facts = [], []
    for version, dim in ((1, 4), (2, 3)):
        view = declared(folder / "s", version, entity, dim, data.draw(ttls))
        held = write_all(folder / "s", view, data.draw(snapshots(keys)), key_type)
        views.append(view)
        column = {"embedding": f"{view.name}__embedding"}
        ttl = view.ttl // timedelta(microseconds=1) * 1000 if view.ttl else None
        facts.append(Facts(held, {entity.join_key: entity.join_key}, column, ttl))
    store = open_store(folder, views)
    unit = data.draw(UNITS)
    wanted = st.tuples(st.sampled_from([None, *keys, *keys[:1] * 2]), instants(unit))
    entities = asked(data.draw(st.lists(wanted, min_size=1)), key=entity.join_key, unit=unit)
    entities = entities.set_column(0, entity.join_key, entities[0].cast(key_type))
    references = [f"{view.name}:embedding" for view in views]

    found = check(store, entities, references, facts, full=True, strict=strict)

    job = retrieve(
        store, entities, references, full_feature_names=True, filter_by_created_timestamp=strict
    )
    assert pa.Table.from_batches(list(job.stream(rows))) == found
    shorter = job.at_dims({"emb_v1": 2}).to_arrow()
    whole = joined(rows_of(entities), facts, strict=strict)
    assert shorter["emb_v1__embedding"].to_pylist() == [
        row["emb_v1__embedding"] and row["emb_v1__embedding"][:2] for row in whole
    ]
    assert shorter["emb_v2__embedding"] == found["emb_v2__embedding"]


# Many rows ------------------------------------------------------------------------------------


def as_of(entities: pa.Table, facts: pa.Table, ttl: timedelta, strict: bool) -> pd.DataFrame:
    """The same join by pandas' merge_asof: another method than the oracle's, for many rows."""
    left = pd.DataFrame(rows_of(entities)).assign(row=range(entities.num_rows))
    right = pd.DataFrame(rows_of(facts)).sort_values([TIME, CREATED]).rename(columns={TIME: "at"})
    if strict:  # what is created late becomes known late, and only if nothing newer is known
        right["known"] = right[["at", CREATED]].max(axis=1)
        right = right.sort_values(["user_id", "known", "at", CREATED])
        newest = right.groupby("user_id")["at"].cummax() == right["at"]
        right = right[newest].drop_duplicates(["user_id", "known"], keep="last")
    else:
        right = right.drop_duplicates(["user_id", "at"], keep="last").assign(known=right["at"])
    found = pd.merge_asof(
        left.sort_values(TIME),
        right.sort_values("known"),
        left_on=TIME,
        right_on="known",
        by="user_id",
    ).sort_values("row")
    late = found[TIME] - found["at"] > ttl // timedelta(microseconds=1) * 1000
    found.loc[late, "value"] = np.nan
    return found


@pytest.mark.parametrize("strict", [False, True])
def test_many_rows_over_many_row_groups(tmp_path: Path, strict: bool) -> None:
    dice = np.random.default_rng(11)
    rows, asking = 60_000, 150_000
    event = T0 + dice.integers(0, 500, rows) * SECOND
    created = event + dice.permutation(rows) * 7_000_000  # no two alike, some much later
    facts = pa.table(
        {
            "user_id": dice.integers(0, 3000, rows),
            TIME: stamps(event.tolist()),
            CREATED: stamps(created.tolist()),
            "value": np.arange(rows),
        }
    )
    entities = pa.table(
        {
            "user_id": dice.integers(0, 3100, asking),
            TIME: stamps((T0 + dice.integers(-9, 600, asking) * SECOND).tolist()),
        }
    )
    ttl = timedelta(seconds=40)
    path = write(tmp_path / "many.parquet", facts, row_group_size=7_001)
    store = open_store(tmp_path, [view_of(path, ttl=ttl)])

    job = retrieve(store, entities, ["stats:value"], filter_by_created_timestamp=strict)
    found = job.to_arrow()

    expected = as_of(entities, facts, ttl, strict)["value"].fillna(-1).to_numpy()
    assert np.array_equal(found["value"].fill_null(-1).to_numpy(), expected)
    assert 0.02 < found["value"].null_count / asking < 0.98
    assert found.select(entities.column_names) == entities


@pytest.mark.parametrize("dense", [True, False])
def test_many_vectors_over_many_row_groups_and_refreshes(tmp_path: Path, dense: bool) -> None:
    dice = np.random.default_rng(12)
    view = declared(tmp_path / "s", 1, USER, 3, timedelta(seconds=2))
    keys = np.arange(40_000) if dense else np.sort(dice.choice(10**12, 40_000, replace=False))
    facts = []
    for day in range(4):
        held = np.sort(dice.choice(keys, 35_000, replace=False))
        places = np.searchsorted(keys, held).astype(np.float32)
        vectors = np.stack([places, np.full(len(held), day, np.float32), -places], axis=1)
        instant = T0 + day * SECOND
        run = RunInfo("run", "p", "c0ffee", at(instant), at(instant))
        write_snapshot(tmp_path / "s", spec_of(view), at(instant), pa.array(held), vectors, run)
        times = stamps([instant] * len(held))
        code = np.searchsorted(keys, held) * 10 + day
        facts.append(pa.table({"user_id": held, TIME: times, CREATED: times, "value": code}))
    store = open_store(tmp_path, [view])
    asking = 150_000
    entities = pa.table(
        {
            "user_id": dice.choice(np.append(keys, [-1, 10**13]), asking),
            TIME: stamps((T0 + dice.integers(-1, 7, asking) * SECOND).tolist()),
        }
    )

    found = retrieve(store, entities, ["emb_v1:embedding"]).to_arrow()

    codes = as_of(entities, pa.concat_tables(facts), view.ttl or timedelta(), False)["value"]
    known = codes.notna().to_numpy()
    column = found["embedding"].combine_chunks()
    assert np.array_equal(column.is_valid().to_numpy(zero_copy_only=False), known)
    matrix = column.flatten().to_numpy().reshape(-1, 3)
    place, refresh = np.divmod(codes[known].to_numpy().astype(np.int64), 10)
    assert np.array_equal(matrix, np.stack([place, refresh, -place], axis=1).astype(np.float32))
    assert 0.1 < known.mean() < 0.9


def test_snapshots_from_before_manifests_told_where_vectors_lie(tmp_path: Path) -> None:
    view = declared(tmp_path / "s", 1, USER, 3, timedelta(seconds=2))
    held: dict[int, tuple[int, list[Any]]] = {T0: (T0, [1, 2]), T0 + SECOND: (T0, [2, 3])}
    facts = write_all(tmp_path / "s", view, held, pa.int64())
    for path in (tmp_path / "s").rglob(MANIFEST_NAME):
        manifest = json.loads(path.read_text())
        for file in manifest["files"]:
            del file["pages"]
        path.write_text(json.dumps(manifest))
    store = open_store(tmp_path, [view])
    entities = asked([(user, T0 + s * SECOND) for user in range(4) for s in range(-1, 4)])

    column = {"embedding": "embedding"}
    known = Facts(facts, {"user_id": "user_id"}, column, 2 * SECOND)
    check(store, entities, ["emb_v1:embedding"], [known])
