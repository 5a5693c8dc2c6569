"""How pins fared, from a file: pin, page, shown, clicked and time; and what may tell it ahead."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from provender.plugin.errors import MappingError
from provender.plugin.tables import TableSource, columns_of, explained, open_tables, quoted
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

    `time` may be anything that sorts: a time, a week, a number.

    Raises MappingError for a file without these columns or without usable rows, SourceError for
    one that can't be read.
    """
    with (
        TemporaryDirectory() as work,
        open_tables(
            {"outcomes": TableSource(path=str(path.absolute()))}, Path.cwd(), Path(work)
        ) as connection,
    ):
        there = list(columns_of(connection, "outcomes"))
        names = {name: _named(path, name, there) for name in _KNOWN}
        with explained(f"outcomes ({path})"):
            table = connection.sql(
                f"SELECT {quoted(names['pin'])} AS pin, {quoted(names['page'])} AS page, "
                f"TRY_CAST({quoted(names['shown'])} AS DOUBLE) AS shown, "
                f"TRY_CAST({quoted(names['clicked'])} AS DOUBLE) AS clicked, "
                f"dense_rank() OVER (ORDER BY {quoted(names['time'])})::DOUBLE AS time "
                "FROM outcomes"
            ).to_arrow_table()
    return _outcomes(path, table, task)


def click_features(task: PageTask, made: Embeddings, outcomes: Outcomes) -> dict[str, Any]:
    """What ranks the pins of a page by clicks, by name: words first, and LinkSage beside them.

    LinkSage's are a pin's vector, and where it lies towards the page's.
    """
    pins, pages = made.pins[outcomes.pin], made.pages[outcomes.page]
    pins = np.where(np.isfinite(pins).all(axis=1, keepdims=True), pins, 0)
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


def _outcomes(path: Path, table: pa.Table, task: PageTask) -> Outcomes:
    of = {"page": task.features.pages.keys, "pin": task.features.pins.keys}
    rows = {name: rows_of(table[name].cast(keys.type), keys) for name, keys in of.items()}
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
