from __future__ import annotations

from pathlib import Path

import pytest

from provender.plugin.errors import MappingError
from provender.plugin.gates import FILE, DriftGates, Gates, gates_of


def test_a_repo_without_the_file_has_the_defaults(tmp_path: Path) -> None:
    found = gates_of(tmp_path, "transra")
    assert found == Gates()
    assert (found.coverage, found.quality, found.sample, found.keep_days) == (
        0.95,
        0.95,
        1000,
        None,
    )


def test_a_family_has_what_its_section_says_and_the_defaults_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        "transra:\n  coverage: 0.5\n  drift: {cosine: 0.9}\n  keep_days: 30\nlinksage:\n"
    )
    assert gates_of(tmp_path, "transra") == Gates(
        coverage=0.5, drift=DriftGates(cosine=0.9), keep_days=30
    )
    assert gates_of(tmp_path, "linksage") == Gates()
    assert gates_of(tmp_path, "other") == Gates()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("transra: {coverage: 95}", "transra: coverage: found 95; expected Input should be less"),
        ("transra: {quality: -1}", "transra: quality: found -1; expected"),
        ("transra: {sample: 0}", "transra: sample: found 0; expected"),
        ("transra: {keep_days: 0}", "transra: keep_days: found 0; expected"),
        ("transra: {cover: 1}", "transra: cover: found an unknown key; expected one of coverage, "),
        ("transra: {drift: {cosine: 2}}", "transra: drift.cosine: found 2; expected"),
        ("transra: [1]", "expected"),
    ],
)
def test_a_file_that_says_what_can_not_be_is_refused(
    tmp_path: Path, section: str, told: str
) -> None:
    (tmp_path / FILE).write_text(section)
    with pytest.raises(MappingError) as error:
        gates_of(tmp_path, "transra")
    assert str(error.value).startswith(f"{tmp_path / FILE}")
    assert told in str(error.value)
