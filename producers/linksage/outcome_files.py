"""How pins fared, from a file: pin, page, shown, clicked and time; and what may tell it ahead."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from provender.plugin.errors import MappingError
from provender.plugin.tables import TableSource, columns_of, explained, open_tables, quoted
from provender.producers.event_sql import key_of
from provender.producers.linksage.page_clicks import Outcomes
from provender.producers.linksage.page_evaluation import Embeddings, PageTask, rows_of

_KNOWN = {
    "pin": ("pin", "pin_id"),
    "page": ("page", "page_id", "group", "test"),
    "shown": ("shown", "impressions"),
    "clicked": ("clicked", "clicks"),
    "time": ("time", "week", "day", "date", "event_timestamp"),
}


def read_outcomes(path: Path, task: PageTask) -> Outcomes:
    """Read how the pins of a task fared; rows of other pins or pages, or not shown, are left out.

    `time` may be a number, a time, or text of one length that begins with the year (2024-W05).

    Raises MappingError for a file without these columns or without usable rows, SourceError for
    one that can't be read.
    """
    with (
        TemporaryDirectory() as work,
        open_tables(
            {"outcomes": TableSource(path=str(path.absolute()))}, Path.cwd(), Path(work)
        ) as connection,
    ):
        there = columns_of(connection, "outcomes")
        names = {name: _named(path, name, list(there)) for name in _KNOWN}
        pin, page = (
            key_of(f"{path}: {name}", quoted(names[name]), there[names[name]], _type(keys))
            for name, keys in (("pin", task.features.pins.keys), ("page", task.features.pages.keys))
        )
        with explained(f"outcomes ({path})"):
            time = _time(connection, path, names["time"])
            table = connection.sql(
                f"SELECT {pin} AS pin, {page} AS page, "
                f"TRY_CAST({quoted(names['shown'])} AS DOUBLE) AS shown, "
                f"TRY_CAST({quoted(names['clicked'])} AS DOUBLE) AS clicked, "
                f"dense_rank() OVER (ORDER BY {time})::DOUBLE AS time "
                f"FROM outcomes WHERE {time} IS NOT NULL"
            ).to_arrow_table()
    return _outcomes(path, table, task)


def click_features(task: PageTask, made: Embeddings, outcomes: Outcomes) -> dict[str, Any]:
    """What ranks the pins of a page by clicks, by name: words first, and LinkSage beside them.

    LinkSage's are a pin's vector, and where it lies towards the page's.
    """
    pins, pages = made.pins[outcomes.pin], made.pages[outcomes.page]
    pins = np.where(made.there[outcomes.pin, None], pins, 0)
    own = sp.csr_array(np.hstack([pins, pins * pages * np.sqrt(pins.shape[1])]))
    texts = pq.read_table(task.rows.pins, columns=["text"])["text"].to_pylist()
    if not any(texts):
        return {"LinkSage": own}
    words, runs = (each[outcomes.pin] for each in _written(texts))
    return {
        "TF-IDF of words": words,
        "words and LinkSage": _beside(words, own),
        "words and runs of characters": _beside(words, runs),
        "words, runs and LinkSage": _beside(words, runs, own),
        "LinkSage": own,
    }


def _written(texts: list[str]) -> tuple[sp.csr_array, sp.csr_array]:
    """Tf-idf of words and pairs of words, and of runs of four characters, as hashed_text.py."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    runs = TfidfVectorizer(ngram_range=(4, 4), analyzer="char", sublinear_tf=True)
    return sp.csr_array(words.fit_transform(texts)), sp.csr_array(runs.fit_transform(texts))


def _beside(*features: sp.csr_array) -> sp.csr_array:
    return sp.csr_array(sp.hstack(features))


def _named(path: Path, name: str, there: list[str]) -> str:
    for each in _KNOWN[name]:
        if each in there:
            return each
    raise MappingError(
        f"{path}",
        found=f"the columns {', '.join(there)}",
        expected=f"a column {' or '.join(_KNOWN[name])}",
        remedy="Rename it.",
    )


def _type(keys: pa.Array[Any]) -> str:
    return "int64" if pa.types.is_integer(keys.type) else "string"


def _time(connection: duckdb.DuckDBPyConnection, path: Path, column: str) -> str:
    """SQL of the times in a form that sorts; raises MappingError where there is none.

    As text, week 10 would be before week 9, and 3/1/2016 after 10/1/2015.
    """
    text = f"nullif(trim({quoted(column)}::VARCHAR), '')"
    forms = [f"TRY_CAST({text} AS DOUBLE)", f"TRY_CAST({text} AS TIMESTAMPTZ)"]
    for form in forms:
        bad = f"{text} IS NOT NULL AND ({form} IS NULL OR NOT isfinite({form}))"
        if not connection.sql(f"SELECT 1 FROM outcomes WHERE {bad} LIMIT 1").fetchall():
            return form
    year_first = f"regexp_matches({text}, '^[0-9]{{4}}[^0-9]')"
    odd = connection.sql(
        f"SELECT count(DISTINCT len({text})) > 1 OR NOT bool_and({year_first}) FROM outcomes"
    ).fetchall()[0][0]
    if odd:
        (found,) = connection.sql(f"SELECT min({text}), max({text}) FROM outcomes").fetchall()
        raise MappingError(
            f"{path}: {column}",
            found=" and ".join(map(repr, found)),
            expected="numbers, times such as 2024-02-29, or text of one length such as 2024-W05",
            remedy="Write times that sort.",
        )
    return text


def _outcomes(path: Path, table: pa.Table, task: PageTask) -> Outcomes:
    of = {"page": task.features.pages.keys, "pin": task.features.pins.keys}
    rows = {name: rows_of(table[name], keys) for name, keys in of.items()}
    numbers = {name: table[name].fill_null(0).to_numpy() for name in ("shown", "clicked", "time")}
    good = (rows["page"] >= 0) & (rows["pin"] >= 0) & (numbers["shown"] > 0)
    good &= (numbers["clicked"] >= 0) & (numbers["clicked"] <= numbers["shown"])
    if len(np.unique(numbers["time"][good])) < _FEWEST_TIMES:
        raise MappingError(
            f"{path}",
            found=f"{int(good.sum())} rows of known pins that were shown, at "
            f"{len(np.unique(numbers['time'][good]))} times",
            expected=f"at least {_FEWEST_TIMES} times: what comes later is predicted",
            remedy="Check the keys of pins and pages, and the time column.",
        )
    shows = pq.read_table(task.rows.pins, columns=["content_hash"])["content_hash"]
    looks = shows.combine_chunks().dictionary_encode().indices.to_numpy()
    page, pin = rows["page"][good], rows["pin"][good]
    return Outcomes(
        page=page,
        pin=pin,
        looks=looks[pin].astype(np.int64),
        shown=numbers["shown"][good],
        clicked=numbers["clicked"][good],
        time=numbers["time"][good],
    )


_FEWEST_TIMES = 5
