"""Nodes, pairs and edges of a page set as tables of one DuckDB connection, out of core.

`page_node` and `pin_node` (number, key), `pin_row` (number, node, key), `pairs` (pin row, page,
kind, weight, edges, positives, cohesion) and `edges`, as pruning.py has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from provender.plugin.tables import literal
from provender.producers.linksage.cohesion import cohesion
from provender.producers.linksage.config import GraphConfig, NodeType
from provender.producers.linksage.page_tables import PageSet

if TYPE_CHECKING:
    from provender.producers.linksage.features import Features

Connection = duckdb.DuckDBPyConnection
Ints = NDArray[np.int64]
#: Kinds of edges, by the table of their rows: number of either end, weight, and the ends' keys.
KINDS: dict[tuple[NodeType, NodeType], str] = {
    ("pin", "page"): "SELECT node AS a, page AS b, weight, p.key AS a_key, g.key AS b_key "
    "FROM pairs JOIN pin_row r ON pairs.pin = r.number JOIN pin_node p ON r.node = p.number "
    "JOIN page_node g ON pairs.page = g.number WHERE edges",
    ("pin", "board"): "SELECT r.node AS a, d.number AS b, 1 AS weight, p.key AS a_key, d.key AS "
    "b_key FROM board_row b JOIN board_node d ON b.board = d.key JOIN pin_row r ON b.pin = r.key "
    "JOIN pin_node p ON r.node = p.number",
    ("page", "link"): "SELECT page AS a, l.number AS b, 1 AS weight, g.key AS a_key, l.key AS "
    "b_key FROM page_link JOIN link_node l ON page_link.link = l.key "
    "JOIN page_node g ON page_link.page = g.number",
}
_LINKS = {"domain": "domain", "url": "canonical_url"}


def create_nodes(
    connection: Connection, pages: PageSet, cluster: Ints, config: GraphConfig
) -> dict[NodeType, int]:
    """Create the tables of nodes; returns how many there are of each type.

    Args:
        cluster: (raw pins,) the pin node of each row of pins.parquet.
    """
    for name, place in (("page", pages.pages), ("pin", pages.pins)):
        connection.execute(
            f"CREATE VIEW {name}_file AS SELECT file_row_number AS number, * FROM "
            f"read_parquet({literal(str(place))}, file_row_number = true)"
        )
    connection.execute(
        f"CREATE VIEW board_row AS SELECT * FROM read_parquet({literal(str(pages.boards))})"
    )
    connection.register("cluster", pa.table({"number": np.arange(len(cluster)), "node": cluster}))
    connection.execute(
        "CREATE TABLE pin_row AS SELECT number, node, key FROM pin_file JOIN cluster USING (number)"
    )
    connection.unregister("cluster")
    connection.execute("CREATE TABLE page_node AS SELECT number, key FROM page_file")
    connection.execute(
        "CREATE TABLE pin_node AS SELECT node AS number, min(key) AS key FROM pin_row GROUP BY node"
    )
    _number_keys(connection, "board_node", "SELECT DISTINCT board AS key FROM board_row")
    links = " UNION ALL ".join(
        f"SELECT {literal(f'{kind} ')} || {_LINKS[kind]} AS link, number AS page FROM page_file "
        f"WHERE {_LINKS[kind]} IS NOT NULL"
        for kind in config.link_clusters
    )
    none = "SELECT ''::VARCHAR AS link, 0::BIGINT AS page WHERE false"
    connection.execute(f"CREATE TABLE page_link AS {links or none}")
    _number_keys(  # a page alone on its site has nobody to share a node with
        connection,
        "link_node",
        "SELECT link AS key FROM page_link GROUP BY link HAVING count(*) > 1",
    )
    kinds: tuple[NodeType, ...] = ("page", "pin", "board", "link")
    return {kind: _count(connection, f"{kind}_node") for kind in kinds}


def create_pairs(
    connection: Connection, pages: PageSet, features: Features, least: float | None, work: Path
) -> dict[str, Any]:
    """Create the table of pairs that are cohesive enough; returns what was dropped.

    A pair's cohesion is the greatest that is given with it, or else the contents' cosine. Pairs of
    which neither is known stay.
    """
    connection.execute(
        "CREATE TABLE pairs AS SELECT r.number AS pin, g.number AS page, kind, weight, edges, "
        "positives, max(cohesion) OVER (PARTITION BY r.number, g.number) AS cohesion "
        f"FROM read_parquet({literal(str(pages.pairs))}) p JOIN pin_row r ON p.pin = r.key "
        "JOIN page_node g ON p.page = g.key"
    )
    distinct = "(SELECT DISTINCT pin, page, cohesion FROM pairs)"
    report: dict[str, Any] = {"pairs": _count(connection, distinct), "min_cohesion": least}
    if least is None:
        return report
    computed = _computed(connection, features, work / "cohesion.parquet")
    connection.execute(
        "CREATE OR REPLACE TABLE pairs AS SELECT * REPLACE (coalesce(pairs.cohesion, c.cohesion) "
        f"AS cohesion) FROM pairs LEFT JOIN read_parquet({literal(str(computed))}) c "
        "USING (pin, page)"
    )
    low = f"cohesion < {least!r}"
    report["cohesion computed"] = _count(connection, f"read_parquet({literal(str(computed))})")
    report["cohesion unknown, kept"] = _count(connection, f"{distinct} WHERE cohesion IS NULL")
    report["dropped below min_cohesion"] = _count(connection, f"{distinct} WHERE {low}")
    connection.execute(f"DELETE FROM pairs WHERE {low}")
    return report


def create_edges(connection: Connection) -> None:
    """Create the table of edges, each pair of nodes once, with the sum of its rows' weights."""
    parts = [
        f"SELECT {literal(source)} AS source, {literal(target)} AS target, a, b, "
        "sum(weight::DOUBLE) AS weight, "
        f"any_value({key_hash('concat(a_key, chr(31), b_key)')}) AS tie "
        f"FROM ({select}) GROUP BY a, b"
        for (source, target), select in KINDS.items()
    ]
    connection.execute(f"CREATE TABLE edges AS {' UNION ALL '.join(parts)}")


def key_hash(key: str) -> str:
    """SQL of a text's hash: UBIGINT, the first 8 bytes of its MD5, in every version of DuckDB."""
    return f"CAST('0x' || md5({key})[1:16] AS UBIGINT)"


def _computed(connection: Connection, features: Features, place: Path) -> Path:
    """Write the cosine of the pairs that have no cohesion, where there is one."""
    pairs = connection.sql("SELECT DISTINCT pin, page FROM pairs WHERE cohesion IS NULL")
    schema = pa.schema([("pin", pa.int64()), ("page", pa.int64()), ("cohesion", pa.float32())])
    with pq.ParquetWriter(place, schema) as writer:
        for batch in pairs.to_arrow_reader(1 << 16):
            pins, of_pages = (batch.column(name).to_numpy() for name in ("pin", "page"))
            found = cohesion(features, pins, of_pages)
            known = ~np.isnan(found)
            columns = [pa.array(array[known]) for array in (pins, of_pages, found)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return place


def _number_keys(connection: Connection, table: str, keys: str) -> None:
    connection.execute(
        f"CREATE TABLE {table} AS SELECT row_number() OVER (ORDER BY key) - 1 AS number, key "
        f"FROM ({keys})"
    )


def _count(connection: Connection, source: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])
