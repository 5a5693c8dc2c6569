from __future__ import annotations

import sys
from pathlib import Path

import pytest

from provender.plugin.errors import ConfigError, SpecError
from provender.plugin.repo import lay_out, open_store, views_in_repo

SHIPPED = {
    *("page_linksage_v1", "pin_linksage_v1", "pin_transra_v1", "user_transra_v1"),
    *("pin_upstream_v1", "user_upstream_v1"),
}


def test_the_shipped_repo_is_laid_out_once_and_then_the_user_s(tmp_path: Path) -> None:
    repo = tmp_path / "feature_repo"
    assert lay_out(repo)
    assert not (repo / "__init__.py").exists()
    (repo / "services.py").write_text("# mine\n")
    assert not lay_out(repo)
    assert (repo / "services.py").read_text() == "# mine\n"


def test_specs_are_read_from_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path / "feature_repo")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    for repo in (Path("feature_repo"), tmp_path / "feature_repo"):
        assert {view.spec.view_name for view in views_in_repo(repo)} == SHIPPED
    assert Path.cwd() == tmp_path
    assert {name for name in set(sys.modules) - before if name in ("entities", "sources")} == set()


def test_two_repos_in_one_process_are_not_mixed(tmp_path: Path) -> None:
    for name, dim in (("one", 64), ("two", 48)):
        lay_out(tmp_path / name)
        views = tmp_path / name / "embedding_views.py"
        views.write_text(views.read_text().replace("dim=64", f"dim={dim}"))
        found = {view.spec.view_name: view.spec.dim for view in views_in_repo(tmp_path / name)}
        assert found["user_transra_v1"] == found["pin_transra_v1"] == dim


def test_the_type_of_the_keys_is_told(tmp_path: Path) -> None:
    lay_out(tmp_path / "repo")
    entities = tmp_path / "repo" / "entities.py"
    entities.write_text(entities.read_text().replace("INT64", "STRING", 1))
    told = {view.spec.entity: view.key_type for view in views_in_repo(tmp_path / "repo")}
    assert told == {"user": "string", "pin": "int64", "page": "int64"}


def test_other_files_in_its_place_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="found other files"):
        lay_out(tmp_path / "repo")
    assert [path.name for path in (tmp_path / "repo").iterdir()] == ["notes.txt"]


def test_no_repo_and_a_refused_view_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no feature_store\.yaml"):
        views_in_repo(tmp_path)
    lay_out(tmp_path / "repo")
    views = tmp_path / "repo" / "embedding_views.py"
    views.write_text(views.read_text().replace("dim=64", "dim=0"))
    with pytest.raises(SpecError, match="dim: found 0"):
        views_in_repo(tmp_path / "repo")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (None, "no feature_store.yaml"),
        ("", "NoneType"),
        ("project: [x", "expected ',' or ']'"),
        ("project: x\nregistry: r.db\nprovider: local\nonline_store: nope", "nope"),
        ("project: x\nregistry: r.db\nonline_store: {type: my.Shop}", "my.Shop"),
        ("registry: r.db\nprovider: local", "project"),
    ],
)
def test_settings_that_feast_can_t_read_are_named(
    settings: str | None, found: str, tmp_path: Path
) -> None:
    if settings is not None:
        (tmp_path / "feature_store.yaml").write_text(settings)
    with pytest.raises(ConfigError, match=str(tmp_path)) as refused:
        open_store(tmp_path)
    assert found in refused.value.found
    assert "\n" not in str(refused.value)
