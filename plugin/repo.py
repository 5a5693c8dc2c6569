"""Feast repos on disk: laying out the one that ships, and reading what a repo declares."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from feast.repo_operations import parse_repo

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.errors import ConfigError
from provender.plugin.spec import EmbeddingSpec


def lay_out(target: Path) -> bool:
    """Copy the feature repo that ships to ``target``; return False where one stands already.

    A standing repo is the user's: nothing in it is touched.
    """
    if (target / "feature_store.yaml").exists():
        return False
    with as_file(files("provender.feature_repo")) as shipped:
        shutil.copytree(
            shipped,
            target,
            dirs_exist_ok=True,
            # The folder becomes a Feast repo, no longer a Python package of ours.
            ignore=shutil.ignore_patterns("__init__.py", "__pycache__", "py.typed", "data"),
        )
    (target / "data").mkdir(exist_ok=True)
    return True


def specs_in_repo(repo: Path) -> dict[str, EmbeddingSpec]:
    """Return the embedding views that the Python files of a Feast repo declare, by view name.

    Raises ConfigError where there is no Feast repo; a refused declaration raises its own error.
    """
    if not (repo / "feature_store.yaml").is_file():
        raise ConfigError(
            f"feature repo {repo}",
            found="no feature_store.yaml",
            expected="a Feast repo that declares the embedding views",
            remedy="Give its folder with --repo, or let `provender demo` lay one out.",
        )
    place = repo.resolve()
    with standing_in(place):
        views = parse_repo(place).feature_views
    return {view.name: spec_of(view) for view in views if is_embedding_view(view)}


@contextlib.contextmanager
def standing_in(repo: Path) -> Iterator[None]:
    """Stand in the repo's folder with it on the path, as Feast's command line does."""
    before = set(sys.modules)
    with contextlib.chdir(repo):
        sys.path.insert(0, "")
        try:
            yield
        finally:
            sys.path.remove("")
            _forget(set(sys.modules) - before)


def _forget(names: set[str]) -> None:
    """Drop a repo's modules, lest another repo's `entities` be taken for this one's."""
    for name in names:
        if "." not in name and Path(f"{name}.py").is_file():
            del sys.modules[name]
