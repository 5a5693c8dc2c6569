"""What several test modules stand on: one small world, walked once by `provender demo`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provender.plugin.cli import main

ROOT = Path(__file__).parents[1]
SMALL = ["--users", "300", "--pins", "300", "--seeds", "2", "--candidates", "50"]


Provender = Callable[..., Result]


@pytest.fixture(scope="session")
def provender() -> Provender:
    """Run the command line in this process; what it refuses comes back as a result too."""
    return lambda *arguments: CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory, provender: Provender) -> Path:
    """A home in which the whole path has been walked on 300 users and 300 pins."""
    home = tmp_path_factory.mktemp("demo") / "home"
    result = provender("demo", "--home", home, *SMALL)
    assert result.exit_code == 0, result.output
    return home


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the public data sets, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("PROVENDER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; PROVENDER_DATA names their folder")
    return folder
