"""Which pages a refresh embeds anew, against sums over dictionaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from provender.producers.linksage.page_changes import Embedded, carried, changes

#: key -> (content, neighbour -> visits)
Pages = dict[int, tuple[int, dict[int, int]]]
PAGES = st.dictionaries(
    st.integers(0, 8),
    st.tuples(st.integers(0, 2), st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=5)),
)


def embedded(pages: Pages) -> Embedded:
    keys = sorted(pages)
    found = [pages[key][1] for key in keys]
    sizes = [0, *(len(each) for each in found)]
    return Embedded(
        pa.array(keys, pa.int64()),
        np.array([pages[key][0] for key in keys], np.uint64),
        np.cumsum(sizes),
        np.array([name for each in found for name in each], np.uint64),
        np.array([count for each in found for count in each.values()], np.int32),
    )


def distance(one: dict[int, int], other: dict[int, int]) -> float:
    """Half the sum of the differences of shares; against nothing all has changed."""
    if not one or not other:
        return float(bool(one) or bool(other))
    shares = [{name: n / sum(each.values()) for name, n in each.items()} for each in (one, other)]
    names = set(one) | set(other)
    return 0.5 * sum(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) for name in names)


@given(PAGES, PAGES, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_reasons_are_those_of_the_definition(now: Pages, before: Pages, most: float) -> None:
    found = changes(embedded(now), embedded(before), most)
    for row, key in enumerate(sorted(now)):
        same = key in before and now[key][0] == before[key][0]
        apart = distance(now[key][1], before[key][1]) if same else 0.0
        assert found.new[row] == (key not in before)
        assert found.content[row] == (key in before and not same)
        if abs(apart - most) > 1e-9:
            assert found.neighbourhood[row] == (same and apart > most)
    assert sum(found.counts().values()) == len(now)


@given(PAGES, PAGES)
def test_what_is_kept_stays_as_it_was_embedded(now: Pages, before: Pages) -> None:
    found = changes(embedded(now), embedded(before), 0.3)
    left = carried(embedded(now), embedded(before), found)
    expected = {
        key: now[key] if found.any[row] else before[key] for row, key in enumerate(sorted(now))
    }
    wanted = embedded(expected)
    assert left.keys == wanted.keys
    for name in ("content", "offsets", "neighbours", "visits"):
        np.testing.assert_array_equal(getattr(left, name), getattr(wanted, name))
    # So a small change that is passed over is not forgotten: it counts in the next comparison.
    assert changes(left, embedded(before), 0.3).counts() == found.counts()


@given(pages=PAGES)
def test_a_file_gives_back_what_was_saved(tmp_path_factory: object, pages: Pages) -> None:
    folder = tmp_path_factory.mktemp("saved")  # type: ignore[attr-defined]
    path = Path(folder) / "embedded.parquet"
    saved = embedded(pages)
    saved.save(path)
    loaded = Embedded.load(path)
    assert loaded.keys == saved.keys
    for name in ("content", "offsets", "neighbours", "visits"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
