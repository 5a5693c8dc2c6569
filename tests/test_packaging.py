"""What the wheel holds: every source file, under one name, and nothing else."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("plugin", "producers", "consumers", "feature_repo")


def sources() -> set[str]:
    """Every file of the four folders that a user's installation needs."""
    kept = {".py", ".yaml", ".typed"}
    return {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if (path.suffix in kept or path.name == "py.typed")
        and not {"data", "__pycache__"} & set(path.parts)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from a copy of the tree, without leftovers of other builds."""
    copy = tmp_path_factory.mktemp("tree")
    for name in sources() | {"setup.cfg", "pyproject.toml", "README.md"}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(copy / "dist"), "."], cwd=copy, check=True)
    (built,) = (copy / "dist").glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def test_every_source_file_is_in_the_wheel_under_one_name(wheel: set[str]) -> None:
    files = {name for name in wheel if ".dist-info/" not in name}
    assert files == {f"provender/{name}" for name in sources()}


def test_the_four_folders_all_have_something_in_it(wheel: set[str]) -> None:
    for folder in FOLDERS:
        assert f"provender/{folder}/__init__.py" in wheel
        assert f"provender/{folder}/py.typed" in wheel
    assert "provender/feature_repo/feature_store.yaml" in wheel
    assert "provender/feature_repo/worlds/simulator.yaml" in wheel


def test_every_folder_with_code_is_declared() -> None:
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    packages = set(declared["options"]["packages"].split())
    folders = {Path(name).parent.as_posix() for name in sources() if name.endswith(".py")}
    assert packages == {f"provender.{folder.replace('/', '.')}" for folder in folders}
