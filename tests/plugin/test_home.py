from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from provender.plugin.errors import ConfigError
from provender.plugin.home import Home

HOLDER = """
import sys, time
from pathlib import Path
from provender.plugin.home import Home
with Home(Path(sys.argv[1])).locked("runs"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConfigError, match=f"found process {holder.pid} at work on its runs"),
            Home(tmp_path).locked("runs"),
        ):
            pass
        with Home(tmp_path).locked("rankers"):
            holder.kill()
    with Home(tmp_path).locked("runs"):
        assert (tmp_path / ".runs.lock").read_text() == str(os.getpid())
