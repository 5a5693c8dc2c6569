"""Public data as links for training, validation and test, by name.

- fb15k237, wn18rr and wn18 as OpenKE splits them.
- pinterest: of each user's pins a fifth is for test, at least one, a tenth for validation.
- completejourney (products that households buy) and retailrocket (items that users view): the last
  week is for test, the week before for validation, all before that for training. Only households
  and users that training knows are asked about; what is new among products and items stays in, and
  nobody predicts it. What was bought twice is there twice.
"""

from __future__ import annotations

import csv
import gzip
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from provender.producers.kg_data import LinkSets, read_link_sets

PARTS = ("train", "valid", "test")
OPENKE = {"fb15k237": "FB15K237", "wn18rr": "WN18RR", "wn18": "WN18"}
#: Of two columns: the name of their one relation.
INTERACTIONS = {"pinterest": "pin", "completejourney": "purchase", "retailrocket": "view"}
#: A time, who, and what.
Event = tuple[datetime, str, str]


def read_set(data: Path, name: str) -> LinkSets:
    """Split one of the sets in the folder of public data, and read it as the command would."""
    write = {"pinterest": _pinterest, "completejourney": _journey, "retailrocket": _retail}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{part}.tsv" for part in PARTS]
        if name in OPENKE:
            _openke(data / "kg_openke", OPENKE[name], files)
        else:
            write[name](data, files)
        return read_link_sets(*files, relation=INTERACTIONS.get(name))


def _openke(source: Path, name: str, files: list[Path]) -> None:
    """Of files of ids, `head tail relation`, after a line with their number."""

    def names(kind: str) -> list[str]:
        rows = [line.split("\t") for line in _lines(source / f"{name}.{kind}2id.txt.gz")][1:]
        return [key for key, _ in sorted(rows, key=lambda row: int(row[1]))]

    entities, relations = names("entity"), names("relation")
    for part, path in zip(PARTS, files, strict=True):
        ids = [line.split() for line in _lines(source / f"{name}.{part}2id.txt.gz")][1:]
        _write(
            path,
            ((entities[int(h)], relations[int(r)], entities[int(t)]) for h, t, r in ids),
        )


def _pinterest(data: Path, files: list[Path], seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    parts: list[list[tuple[str, str]]] = [[], [], []]
    for line in _lines(data / "pinterest" / "train.txt.gz"):
        user, *items = line.split()
        shuffled = random.permutation(sorted(set(items), key=int)).tolist()
        test = max(1, round(0.2 * len(shuffled)))
        valid = round(0.1 * len(shuffled))
        split = (shuffled[test + valid :], shuffled[test : test + valid], shuffled[:test])
        for part, chosen in zip(parts, split, strict=True):
            part += [(user, item) for item in chosen]
    for path, part in zip(files, parts, strict=True):
        _write(path, part)


def _journey(data: Path, files: list[Path]) -> None:
    rows = csv.DictReader(_lines(data / "completejourney" / "transactions_sample.csv.gz"))
    when: Callable[[str], datetime] = datetime.fromisoformat
    _by_week(
        files,
        [(when(r["transaction_timestamp"]), r["household_id"], r["product_id"]) for r in rows],
    )


def _retail(data: Path, files: list[Path]) -> None:
    rows = csv.DictReader(_lines(data / "retailrocket_mb" / "events.csv.gz"))
    views = (row for row in rows if row["behavior"] == "view")
    _by_week(
        files, [(datetime.fromtimestamp(int(r["ts"]), UTC), r["user"], r["item"]) for r in views]
    )


def _by_week(files: list[Path], events: list[Event]) -> None:
    """Split at one week and at two before the last event."""
    week, last = timedelta(days=7), max(when for when, _, _ in events)
    age = [min((last - when) // week, 2) for when, _, _ in events]
    known = {who for (_, who, _), weeks in zip(events, age, strict=True) if weeks == 2}
    for path, own in zip(files, (2, 1, 0), strict=True):
        _write(
            path,
            (
                (who, what)
                for (_, who, what), weeks in zip(events, age, strict=True)
                if weeks == own and who in known
            ),
        )


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


def _write(path: Path, rows: Iterator[tuple[str, ...]] | list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)
