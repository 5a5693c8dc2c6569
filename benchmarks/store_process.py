"""Run one measured job in a process of its own, and look at its memory from outside."""

from __future__ import annotations

import multiprocessing
import os
from importlib import import_module
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

#: The same for every contestant: all cores, the C library's own memory settings.
SETTINGS = {
    "OMP_NUM_THREADS": str(os.cpu_count()),
    "OMP_WAIT_POLICY": "passive",
    "PYTHONPATH": str(Path(__file__).parent),
}


def job_context(module: str = "store_jobs") -> ForkServerContext:
    """Return a context whose processes have imported the jobs, and done nothing with them."""
    os.environ.update(SETTINGS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def measure(
    context: ForkServerContext,
    job: str,
    arguments: dict[str, Any],
    touch: float = 0.0,
    module: str = "store_jobs",
) -> dict[str, Any]:
    """Return the figures of one run of a job, or its error; `touch` MiB are made ready for it.

    Args:
        module: in whose JOBS it is.
    """
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(module, sender, job, arguments, touch))
    process.start()
    sender.close()
    anonymous = 0.0
    measuring = False
    try:
        while True:
            if measuring:
                anonymous = max(anonymous, _anonymous(process))
            if not receiver.poll(0.01):
                continue
            message = receiver.recv()
            if isinstance(message, dict):
                break
            measuring = message == "begin"
    except EOFError:
        message = {"error": "the process was killed, for memory perhaps"}
    process.join()
    base = message.pop("baseline_anonymous_mib", 0.0)
    return {**message, "anonymous_mib": max(0.0, anonymous - base)}


def _run(module: str, *arguments: Any) -> None:
    # They are there already: the server was told to.
    jobs = import_module(module).JOBS
    import_module("store_jobs").run(*arguments, jobs)


def _anonymous(process: BaseProcess) -> float:
    """Return the MiB the process holds of its own, without the pages of mapped files."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max(
        (int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), default=0.0
    )
