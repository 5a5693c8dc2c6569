"""Feast repos on disk: laying out the one that ships, and reading what a repo declares."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import yaml
from feast import FeatureStore, FeatureView
from feast.errors import FeastError
from feast.repo_config import FeastConfigError
from feast.repo_operations import parse_repo
from feast.types import String

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.errors import ConfigError
from provender.plugin.files import whole_folder
from provender.plugin.spec import EmbeddingSpec

#: What makes a folder a Feast repo.
SETTINGS = "feature_store.yaml"


@dataclass(frozen=True)
class DeclaredView:
    """An embedding view as a repo declares it, and the type of its entity's key."""

    spec: EmbeddingSpec
    key_type: Literal["int64", "string"]


def lay_out(target: Path) -> bool:
    """Copy the feature repo that ships to ``target``; return False where one stands already.

    A standing repo is the user's: nothing in it is touched. A new one appears whole.

    Raises ConfigError where other files are in its place.
    """
    if (target / SETTINGS).exists():
        return False
    # The folder becomes a Feast repo, no longer a Python package of ours.
    not_copied = shutil.ignore_patterns("__init__.py", "__pycache__", "py.typed", "data")
    try:
        with (
            as_file(files("provender.feature_repo")) as shipped,
            whole_folder(target.parent, target) as staged,
        ):
            shutil.copytree(shipped, staged, dirs_exist_ok=True, ignore=not_copied)
            (staged / "data").mkdir()
    except FileExistsError:
        raise ConfigError(
            f"feature repo {target}",
            found="other files, and no feature_store.yaml",
            expected="a Feast repo, an empty folder or none",
            remedy="Give another folder.",
        ) from None
    return True


def views_in_repo(repo: Path) -> list[DeclaredView]:
    """Return the embedding views that the Python files of a Feast repo declare.

    Raises ConfigError where there is no Feast repo; a refused declaration raises its own error.
    """
    _check_repo(repo)
    place = repo.resolve()
    with standing_in(place):
        views = parse_repo(place).feature_views
    return [_declared(view) for view in views if is_embedding_view(view)]


def open_store(repo: Path) -> FeatureStore:
    """Open a Feast repo; raises ConfigError where there is none, or Feast can't read it."""
    _check_repo(repo)
    try:
        store = FeatureStore(str(repo))
        _ = store.config.online_store  # Feast looks at this section when it is asked for.
        return store
    except (FeastError, FeastConfigError, yaml.YAMLError, TypeError) as error:
        raise ConfigError(
            f"{repo / SETTINGS}",
            found=" ".join(str(error).split()) or type(error).__name__,
            expected="settings that Feast can read",
            remedy="Correct the file.",
        ) from None


def _check_repo(repo: Path) -> None:
    if not (repo / SETTINGS).is_file():
        raise ConfigError(
            f"feature repo {repo}",
            found=f"no {SETTINGS}",
            expected="a Feast repo",
            remedy="Give its folder with --repo, or its home with --home.",
        )


def _declared(view: FeatureView) -> DeclaredView:
    (key,) = view.entity_columns
    return DeclaredView(spec_of(view), "string" if key.dtype == String else "int64")


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
