"""Public data as page sets: the files that `provender evaluate linksage` reads.

- github: pages are topics (name, short and long description). Pins are the repositories that a
  topic names, by the words of their names, and a card of each topic (name and short description),
  which is a pin on the topic's own page and on those that call it related. Boards are collections
  of repositories. A fifth of the repositories and related topics is for test.
- upworthy: pages are stories (lede and excerpt, one a test of headlines), pins are the packages
  that were shown for them (headline), boards are their images. Outcomes are impressions and clicks
  of each package, with the week; nothing of a package says how it fared.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
TEST_SHARE = 0.2


def write_set(data: Path, name: str, folder: Path) -> dict[str, Path]:
    """Write a set's files into a folder; returns them by option: pages, pins, pairs, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for table, rows in SETS[name](data).items():
        written[table] = folder / f"{table}.jsonl"
        with written[table].open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return written


def github(data: Path) -> dict[str, list[Row]]:
    topics = list(_json_lines(data / "github_explore" / "topics.jsonl.gz"))
    collections = list(_json_lines(data / "github_explore" / "collections.jsonl.gz"))
    known = {topic["topic"] for topic in topics}
    named = {topic["topic"]: _repositories(topic) for topic in topics}
    on_boards = [
        {"board": one["id"], "pin": f"repository:{str(item).lower()}"}
        for one in collections
        for item in one.get("items", [])
        if "/" in str(item)
    ]
    repositories = {pin for pins in named.values() for pin in pins}
    repositories |= {row["pin"] for row in on_boards}
    pins = [{"pin": pin, "title": _words(pin), "description": ""} for pin in sorted(repositories)]
    pins += [
        {
            "pin": f"topic:{topic['topic']}",
            "title": topic["display_name"],
            "description": topic["short_description"],
        }
        for topic in topics
    ]
    pairs = [(pin, page) for page, pins_of in named.items() for pin in sorted(pins_of)]
    pairs += [
        (f"topic:{other}", topic["topic"])
        for topic in topics
        for other in sorted(set(_list(topic.get("related"))) & known - {topic["topic"]})
    ]
    test = [_pair(pin, page) for pin, page in pairs if _drawn(pin, page) < TEST_SHARE]
    learned = [_pair(pin, page) for pin, page in pairs if _drawn(pin, page) >= TEST_SHARE]
    learned += [_pair(f"topic:{name}", name) for name in sorted(known)]
    pages = [
        {
            "page": topic["topic"],
            "title": topic["display_name"],
            "summary": topic["short_description"],
            "body": topic["body"],
        }
        for topic in topics
    ]
    return {"pages": pages, "pins": pins, "pairs": learned, "test": test, "boards": on_boards}


def upworthy(data: Path) -> dict[str, list[Row]]:
    packages = []
    for number, row in enumerate(_csv(data / "upworthy" / "packages.csv.gz")):
        year, week = int(row["test_week"][:4]), int(row["test_week"][4:])
        monday = datetime.fromisocalendar(year, max(week, 1), 1).replace(tzinfo=UTC)
        packages.append({**row, "pin": number, "time": monday.isoformat()})
    stories: dict[str, Row] = {}
    for row in packages:
        known = stories.setdefault(row["clickability_test_id"], row)
        if len(row["lede"] + row["excerpt"]) > len(known["lede"] + known["excerpt"]):
            stories[row["clickability_test_id"]] = row
    return {
        "pages": [
            {"page": test, "lede": _plain(row["lede"]), "excerpt": _plain(row["excerpt"])}
            for test, row in stories.items()
        ],
        "pins": [{"pin": row["pin"], "headline": _plain(row["headline"])} for row in packages],
        "pairs": [_pair(row["pin"], row["clickability_test_id"]) for row in packages],
        "boards": [
            {"board": row["eyecatcher_id"], "pin": row["pin"]}
            for row in packages
            if row["eyecatcher_id"]
        ],
        "outcomes": [
            {
                "pin": row["pin"],
                "page": row["clickability_test_id"],
                "shown": int(row["impressions"]),
                "clicked": int(row["clicks"]),
                "time": row["time"],
            }
            for row in packages
        ],
    }


SETS: Mapping[str, Callable[[Path], dict[str, list[Row]]]] = {
    "github": github,
    "upworthy": upworthy,
}


def _pair(pin: Any, page: Any) -> Row:
    return {"pin": pin, "page": page}


def _repositories(topic: Row) -> set[str]:
    found = re.findall(
        r"github\.com/([\w.-]+/[\w.-]+)", f"{topic.get('github_url')} {topic['body']}"
    )
    not_one = ("topics/", "orgs/", "features/", "sponsors/", "apps/", "marketplace/", "about/")
    names = {re.sub(r"(\.git|[.)]+)$", "", name).lower() for name in found}
    return {f"repository:{name}" for name in names if not name.startswith(not_one)}


def _words(pin: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", pin.partition(":")[2])


def _list(text: str | None) -> list[str]:
    return [each.strip() for each in (text or "").split(",") if each.strip()]


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _drawn(*names: str) -> float:
    return int(hashlib.sha256("\n".join(names).encode()).hexdigest()[:8], 16) / 2**32


def _json_lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line) for line in file)


def _csv(path: Path) -> Iterable[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
