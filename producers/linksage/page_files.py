"""A page set given as files: which column is what, by the names that people use.

    pages.csv   page, title, body, url          pins.csv   pin, title, image
    pairs.csv   pin, page, cohesion             boards.csv board, pin
    test.csv    pin, page

Parquet, CSV, TSV and JSON lines. What a file calls otherwise, the sections `pages`, `pins`,
`pairs` and `boards` of a configuration say (declarations.py, without `table`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from provender.plugin.checked_yaml import check
from provender.plugin.errors import MappingError
from provender.plugin.tables import CSV, TableSource, columns_of, open_tables, quoted
from provender.producers.event_sql import key_of
from provender.producers.linksage.declarations import PageSources
from provender.producers.linksage.page_columns import check_columns, key_type_of

_TEXTS = (
    *("title", "headline", "name", "display_name", "short_description", "summary", "description"),
    *("lede", "excerpt", "alt_text", "text", "body", "content"),
)
#: What a declaration names -> what its column may be called, the first one there counts.
_NODE = {
    "text_vector": ("text_vector", "text_embedding"),
    "images": ("images", "image", "image_file", "image_path"),
    "image_vectors": ("image_vectors", "image_vector", "image_embedding"),
    "image_sizes": ("image_sizes", "image_size"),
}
_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pages": {"key": ("page", "page_id", "key", "id"), "url": ("url", "link"), **_NODE},
    "pins": {
        "key": ("pin", "pin_id", "key", "id"),
        "target": ("target", "target_vector", "pin_vector"),
        **_NODE,
    },
    "pairs": {
        "pin": ("pin", "pin_id"),
        "page": ("page", "page_id"),
        "cohesion": ("cohesion", "cohesion_score"),
    },
    "test": {"pin": ("pin", "pin_id"), "page": ("page", "page_id")},
    "boards": {"key": ("board", "board_id"), "pin": ("pin", "pin_id")},
}
_ENDS = ("pin", "page")
#: What holds for pairs that are held out as for the others.
_SHARED = (*_ENDS, "where", "time", "time_unit")
_NEEDED = {"pages": ("key",), "pins": ("key",), "pairs": _ENDS, "test": _ENDS}
#: The kind of pairs that are set aside.
TEST = "test"
_VECTORS = ("text_vector", "image_vectors", "target")


@dataclass(frozen=True)
class PageFiles:
    """Tables by name, and what their columns are.

    Of the pairs, those of the kind TEST are neither edges nor learned from.
    """

    tables: Mapping[str, TableSource]
    sources: PageSources


def declare_files(
    files: Mapping[str, Path],
    given: Mapping[str, Any],
    where: str,
    *,
    hold_out: float = 0.0,
    seed: int = 0,
) -> PageFiles:
    """Find out what the columns of a page set's files are, and set pairs aside for a test.

    Args:
        files: `pages`, `pins` and `pairs`, and perhaps `boards` and `test`; relative paths start
            from the working folder.
        given: sections of the same names that say what is called otherwise.
        where: what messages call the configuration.
        hold_out: so much of the pairs is for the test, where there is no file for it.
        seed: picks them.

    Raises MappingError where a column that is needed has none of the known names, SourceError
    where a file can't be read.
    """
    tables = {name: TableSource(path=str(path.absolute())) for name, path in files.items()}
    with TemporaryDirectory() as work, open_tables(tables, Path.cwd(), Path(work)) as connection:
        columns = {name: columns_of(connection, name) for name in tables}
    declared = {
        name: {
            **_columns(name, list(there), files[name], given.get(name, {}), where),
            "table": name,
        }
        for name, there in columns.items()
    }
    for name, one in declared.items():
        if str(files[name]).endswith(CSV):
            types = {one[each]: "FLOAT[]" for each in _VECTORS if one.get(each)}
            tables[name] = tables[name].model_copy(update={"types": types})
    pairs, test = declared.pop("pairs"), declared.pop("test", None)
    ends = {
        name: [_end(name, files[name], one, end, declared, columns) for end in _ENDS]
        for name, one in (("pairs", pairs), ("test", test))
        if one is not None
    }
    kinds, split = _split(pairs, test, ends, hold_out, seed)
    return PageFiles({**tables, **split}, check(PageSources, {**declared, "pairs": kinds}, where))


def _end(
    table: str,
    file: Path,
    declared: Mapping[str, Any],
    end: str,
    nodes: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Mapping[str, str]],
) -> str:
    """SQL of a pair's pin or page as the text of the key that it will be read as.

    What is written in several ways (1, 1.0) is one key: all rows of a pair get one lot.
    """
    column, key = declared[end], nodes[f"{end}s"]["key"]
    check_columns(table, str(file), {end: column}, columns[table])
    wanted = key_type_of(columns[f"{end}s"].get(key, ""))
    found = key_of(f"{table}.{end}", quoted(column), columns[table][column], wanted)
    return f"({found})::VARCHAR"


def _split(
    pairs: dict[str, Any],
    test: dict[str, Any] | None,
    ends_of: Mapping[str, Sequence[str]],
    share: float,
    seed: int,
) -> tuple[dict[str, Any], dict[str, TableSource]]:
    """The kinds of pairs to learn from and to test by, and the tables that they are in."""
    ends = ends_of["pairs"]
    if test is not None:
        chosen = f"({', '.join(ends)}) IN (SELECT ({', '.join(ends_of['test'])}) FROM test)"
    elif share:
        # The same pairs on every machine, whatever rows there are beside them.
        drawn = f"md5(concat_ws(chr(10), {', '.join(ends)}, '{seed}'))"
        chosen = f"('0x' || {drawn}[:8])::BIGINT < {round(share * 2**32)}"
        test = {name: pairs[name] for name in _SHARED if name in pairs} | {"table": "held_out"}
    else:
        return {"pairs": pairs}, {}
    tables = {
        "learned": TableSource(sql=f"SELECT * FROM pairs WHERE NOT coalesce({chosen}, false)"),
        "held_out": TableSource(sql=f"SELECT * FROM pairs WHERE {chosen}"),
    }
    kinds = {
        "pairs": {**pairs, "table": "learned"},
        TEST: {**test, "edges": False, "positives": False},
    }
    return kinds, {name: each for name, each in tables.items() if name in _tables_of(kinds)}


def _tables_of(kinds: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {one["table"] for one in kinds.values()}


def _columns(
    table: str, there: Sequence[str], file: Path, given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """What a table's declaration says but its name: what was given, what can be guessed."""
    if not isinstance(given, Mapping):
        raise MappingError(
            f"{where}: {table}",
            found=repr(given),
            expected="a mapping such as {key: page_id, text: [title]}",
            remedy="Correct this section.",
        )
    found: dict[str, Any] = {}
    for name, known in _KEYS[table].items():
        column = next((one for one in known if one in there), None)
        if column is not None:
            found[name] = column
    if table in ("pages", "pins"):
        found["text"] = [one for one in _TEXTS if one in there]
    declared = {**found, **given}
    for name in _NEEDED.get(table, ("key", "pin")):
        if name not in declared:
            raise MappingError(
                f"{file}",
                found=f"the columns {', '.join(there)}",
                expected=f"a column of the {name}: {' or '.join(_KEYS[table][name])}",
                remedy=f"Rename it, or say `{table}: {{{name}: COLUMN}}` in --config.",
            )
    # Given vectors stand instead of what they were made from.
    if "text_vector" in declared and "text" not in given:
        declared.pop("text", None)
    if "image_vectors" in declared and "images" not in given:
        declared.pop("images", None)
    return declared
