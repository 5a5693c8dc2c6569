"""What benchmarks/stores.py compares: the works, who does them, and what is to be reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store_worlds import Table

MiB = 2**20
OURS, FEAST, COPY = "provender", "Feast", "(a copy of the output)"


@dataclass(frozen=True)
class Contestant:
    """Who does a work: a job of store_jobs.py and its arguments, as often as `runs` says.

    `touch` is what it will take of memory, in MiB, roughly.
    """

    label: str
    job: str
    arguments: dict[str, Any]
    runs: int
    touch: float = 0.0


@dataclass(frozen=True)
class Goal:
    """How much less of a figure ours is to need than another, or than `times` a fixed amount."""

    label: str
    figure: str
    times: float
    against: str | None = None
    most: float | None = None


@dataclass(frozen=True)
class Work:
    """A row of the table: contestants take turns, and what comes out must be the same."""

    name: str
    title: str
    tables: Sequence[Table]
    contestants: Sequence[Contestant]
    goals: Sequence[Goal] = ()
    before: Sequence[tuple[str, dict[str, Any]]] = ()
    after: Sequence[tuple[str, dict[str, Any]]] = ()


@dataclass(frozen=True)
class Growth:
    """A size that doubles, and the figures that must not grow faster than it."""

    name: str
    title: str
    figures: Sequence[str]
    job: str
    points: Sequence[tuple[int, dict[str, Any]]]
    tables: Sequence[Table]
    before: Sequence[tuple[str, dict[str, Any]]] = ()
    after: Sequence[tuple[str, dict[str, Any]]] = ()
    touch: float = 0.0


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    work: Path
    repeats: int = 3
    part: int = 1
    stream_rows: int = 20_000_000
    requests: int = 100
    user: Table = field(init=False)
    pin: Table = field(init=False)
    pin_once: Table = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", Table("user", self.of(100_000), 64, 5))
        object.__setattr__(self, "pin", Table("pin", self.of(100_000), 256, 5))
        object.__setattr__(self, "pin_once", Table("pin", self.of(100_000), 256, 1))

    def of(self, size: int) -> int:
        return max(size // self.part, 1)


def works(scale: Scale) -> list[Work]:
    deep = Table("user", scale.of(500), 16, 4_000 if scale.part == 1 else 400, deep=True)
    wide, both = [scale.pin], [scale.user, scale.pin]
    small, large = scale.of(200_000), scale.of(1_000_000)
    return [
        _join(
            scale,
            "deep",
            "deep history",
            [deep],
            scale.of(50_000),
            {"cpu_s": 50, "peak_mib": 20},
            1,
        ),
        _join(scale, "wide_200k", "wide", wide, small, {"cpu_s": 7}),
        _join(
            scale, "wide_cold", "wide, files not in memory", wide, small, {"wall_s": 1}, cold=True
        ),
        _join(scale, "wide_1m", "wide", wide, large, {"cpu_s": 9}, 2),
        _join(scale, "two_views", "two views at once", both, large, {"cpu_s": 8}, 2),
        _join(scale, "torch", "to torch", wide, large, {"cpu_s": 15}, 2, form="tensor"),
        _join(scale, "nested", "the first 64 floats", wide, small, {}, prefix=64),
        *(
            _materialize(scale, database, times)
            for database, times in (("sqlite", 10), ("postgres", 8))
        ),
        _memory(scale),
        _requests(scale),
        _stream(scale),
    ]


def growths(scale: Scale) -> list[Growth]:
    def join(name: str, title: str, sizes: Sequence[tuple[int, Table, int]]) -> Growth:
        points = [
            (size, {"who": OURS, "tables": [table], "rows": rows, "work": scale.work})
            for size, table, rows in sizes
        ]
        tables = [table for _, table, _ in sizes]
        figures = ("cpu_s", "peak_mib")
        return Growth(name, title, figures, "point_in_time", points, tables, touch=2_500)

    rows = scale.of(200_000)
    keys = scale.of(20_000)
    doublings = (1, 2, 4, 8)
    return [
        join(
            "rows",
            f"entity rows ({scale.pin.keys:,} pins x 256 x 5)",
            [(n, scale.pin, n) for n in (rows * d for d in doublings)],
        ),
        join(
            "history",
            f"daily snapshots ({keys:,} pins x 64)",
            [(5 * d, Table("pin", keys, 64, 5 * d), rows) for d in doublings],
        ),
        join(
            "values",
            f"values an entity in one file ({scale.of(500)} users x 16)",
            [
                (n, Table("user", scale.of(500), 16, n, deep=True), scale.of(50_000))
                for n in (500 * d for d in doublings)
            ],
        ),
        join(
            "dims",
            f"dims ({keys:,} pins x 5)",
            [(64 * d, Table("pin", keys, 64 * d, 5), rows) for d in doublings],
        ),
        *(_candidates(scale, database) for database in ("sqlite", "hot")),
        _materialized(scale),
    ]


def _join(
    scale: Scale,
    name: str,
    title: str,
    tables: list[Table],
    rows: int,
    times: dict[str, float],
    peer_runs: int | None = None,
    **options: Any,
) -> Work:
    arguments = {"tables": tables, "rows": rows, "work": scale.work, **options}
    peers, runs = peer_runs or scale.repeats, scale.repeats
    output = rows * sum(options.get("prefix") or table.dim for table in tables) * 4 / MiB
    table = tables[0]  # Of a deep history, Feast joins each row with all values before it.
    theirs = rows * table.days * table.dim * 5 / MiB if table.deep else 4.5 * output + 1_000
    goals = [Goal(OURS, figure, factor, f"{FEAST} duckdb") for figure, factor in times.items()]
    if name.startswith("wide"):
        goals.append(Goal(OURS, "peak_mib", 1.3, most=output))

    def joins(label: str, who: str, times: int, touch: float) -> Contestant:
        return Contestant(label, "point_in_time", {"who": who, **arguments}, times, touch)

    shape = " and ".join(f"{t.keys:,} {t.entity}s x {t.dim} x {t.days:,}" for t in tables)
    return Work(
        name,
        f"join, {title}: {rows:,} rows with {shape}",
        tables,
        [
            Contestant(
                f"{FEAST} duckdb", "point_in_time", {"who": "feast", **arguments}, peers, theirs
            ),
            Contestant(OURS, "point_in_time", {"who": OURS, **arguments}, runs, 1.5 * output + 500),
            Contestant(COPY, "floor", {"mib": output}, runs, output),
        ],
        goals,
    )


def _materialize(scale: Scale, database: str, times: float) -> Work:
    arguments = {"table": scale.pin_once, "database": database, "work": scale.work}
    return Work(
        f"materialize_{database}",
        f"materialize {scale.pin_once.keys:,} x {scale.pin_once.dim} into {_NAMES[database]}",
        [scale.pin_once],
        [
            Contestant(FEAST, "materialize", {"who": "feast", **arguments}, 2, 2_500),
            Contestant(OURS, "materialize", {"who": OURS, **arguments}, scale.repeats, 300),
            Contestant(COPY, "floor", {"mib": scale.pin_once.keys * 1024 / MiB}, 2),
        ],
        [Goal(OURS, "wall_s", times, FEAST)],
    )


def _memory(scale: Scale) -> Work:
    """Twice the rows, and for ours eight times: what memory does."""

    def fills(label: str, who: str, table: Table) -> Contestant:
        arguments = {"who": who, "table": table, "database": "sqlite", "work": scale.work}
        return Contestant(f"{label}, {table.keys:,} rows", "materialize", arguments, 1)

    once, twice, _, much = _sizes(scale)
    return Work(
        "materialize_memory",
        "materialize into SQLite, memory by rows",
        _sizes(scale),
        [
            *(fills(FEAST, "feast", table) for table in (once, twice)),
            *(fills(OURS, OURS, table) for table in (once, twice, much)),
        ],
        [
            Goal(
                f"{OURS}, {much.keys:,} rows",
                "peak_mib",
                1 / 1.1,
                f"{OURS}, {twice.keys:,} rows",
            )
        ],
    )


def _requests(scale: Scale, candidates: int = 1_000) -> Work:
    tables = [dataclasses.replace(scale.user, days=1), scale.pin_once]
    base = {"tables": tables, "candidates": candidates, "count": scale.requests, "work": scale.work}

    def asks(label: str, who: str, database: str, how: str, runs: int) -> Contestant:
        arguments = {"who": who, "database": database, "how": how, **base}
        if how == "tensor":  # Ten times faster: more of them, for the sake of the percentile.
            arguments["count"] = 5 * scale.requests
        return Contestant(label, "requests", arguments, runs)

    filled = [
        ("feast", "sqlite"),
        ("feast", "postgres"),
        ("feast", "redis"),
        (OURS, "sqlite"),
        (OURS, "postgres"),
        (OURS, "hot"),
    ]
    fill = [
        ("fill", {"who": w, "database": d, "tables": tables, "work": scale.work}) for w, d in filled
    ]
    drain = [("drain", {"who": w, "database": d, "work": scale.work}) for w, d in filled]
    ours, feasts = [], []
    for who, database in filled:
        if who == "feast":
            feasts.append(
                asks(
                    f"{FEAST} {_NAMES[database]}, to_dict", who, database, "to_dict", scale.repeats
                )
            )
            feasts.append(
                asks(
                    f"{FEAST} {_NAMES[database]}, values of the protobuf",
                    who,
                    database,
                    "values",
                    scale.repeats,
                )
            )
        else:
            ours.append(asks(f"{OURS} {_NAMES[database]}", who, database, "tensor", scale.repeats))
    stock = "get_online_features alone"
    return Work(
        "requests",
        f"request to tensor: 1 user x {scale.user.dim} and {candidates:,} pins x {scale.pin.dim}",
        tables,
        [
            *feasts,
            *ours,
            asks(f"{FEAST} SQLite, {stock}", "feast", "sqlite", "stock", scale.repeats),
            asks(f"{OURS} SQLite, {stock}", OURS, "sqlite", "stock", scale.repeats),
            Contestant(
                COPY, "floor", {"mib": candidates * 1024 / MiB, "times": 500}, scale.repeats
            ),
        ],
        [
            Goal(f"{OURS} SQLite", "p50_ms", 15, f"{FEAST} SQLite, to_dict"),
            Goal(f"{OURS} PostgreSQL", "p50_ms", 9, f"{FEAST} PostgreSQL, to_dict"),
            Goal(f"{OURS} hot snapshot", "p50_ms", 90, f"{FEAST} SQLite, to_dict"),
            Goal(f"{OURS} hot snapshot", "p99_ms", 1, most=1.0),
            Goal(f"{OURS} SQLite, {stock}", "p50_ms", 1, f"{FEAST} SQLite, {stock}"),
        ],
        fill,
        drain,
    )


def _stream(scale: Scale) -> Work:
    arguments = {"tables": [scale.pin], "rows": scale.stream_rows, "work": scale.work}
    return Work(
        "stream",
        f"stream {scale.stream_rows:,} rows x {scale.pin.dim}: {scale.stream_rows / 1e6:.1f} GB",
        [scale.pin],
        [
            Contestant(f"{OURS} to Parquet", "stream", {"form": "parquet", **arguments}, 1),
            Contestant(f"{OURS} to torch batches", "stream", {"form": "tensors", **arguments}, 1),
        ],
        [
            Goal(f"{OURS} to {form}", "resident_mib", 1, most=4 * 1024)
            for form in ("Parquet", "torch batches")
        ],
        [("lay_frame", arguments)],
    )


def _candidates(scale: Scale, database: str) -> Growth:
    tables = [dataclasses.replace(scale.user, days=1), scale.pin_once]
    shared = {"who": OURS, "database": database, "tables": tables, "work": scale.work}
    points = [
        (n, {**shared, "how": "tensor", "count": scale.requests, "candidates": n})
        for n in (scale.of(500) * d for d in (1, 2, 4, 8))
    ]
    return Growth(
        f"candidates_{database}",
        f"candidates a request, {_NAMES[database]}",
        ("p50_ms",),
        "requests",
        points,
        tables,
        [("fill", shared)],
        [("drain", {"who": OURS, "database": database, "work": scale.work})],
    )


def _materialized(scale: Scale) -> Growth:
    shared = {"who": OURS, "database": "sqlite", "work": scale.work}
    points = [(table.keys, {"table": table, **shared}) for table in _sizes(scale)]
    return Growth(
        "materialized",
        "rows materialized into SQLite (x 256)",
        ("wall_s", "peak_mib"),
        "materialize",
        points,
        _sizes(scale),
        touch=700,
    )


def _sizes(scale: Scale) -> list[Table]:
    once = scale.pin_once
    return [dataclasses.replace(once, keys=once.keys * times) for times in (1, 2, 4, 8)]


_NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "redis": "Redis", "hot": "hot snapshot"}
