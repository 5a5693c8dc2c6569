"""Several ranks in processes of their own, as torchrun would start them."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch

from provender.producers import ranks
from provender.producers.ranks import Ranks

#: What a rank does; what it returns goes through a pipe.
Work = Callable[[Ranks], Any]


def over(count: int, work: Work, *, timeout: timedelta = timedelta(seconds=60)) -> list[Any]:
    """What each rank returned, its error as text, or None where it was killed; see `launched`."""

    def joining() -> Any:
        with ranks.joined(timeout) as here:
            return work(here)

    return launched(count, joining)


def launched(count: int, work: Callable[[], Any]) -> list[Any]:
    """What each rank returned (tensors, words), its error as text, or None where it was killed.

    The processes are forks, so `work` may be any function. Whoever is stopped by a signal is
    killed in the end.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        place = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        settings = {name: str(value) for name, value in place.items()}
        process = context.Process(target=_run, args=(sender, settings, work))
        process.start()
        sender.close()
        started.append((process, receiver))
    answers = [_answer(process.pid or 0, receiver) for process, receiver in started]
    for process, _ in started:
        process.kill()
        process.join()
    return answers


def _answer(process: int, receiver: Connection) -> Any:
    try:
        while not receiver.poll(0.1):
            if os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                return None
        return torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=True)
    except EOFError:
        return None


def _run(sender: Connection, settings: dict[str, str], work: Callable[[], Any]) -> None:
    os.environ.update(settings, GLOO_SOCKET_IFNAME="lo")
    try:
        answer = work()
    except Exception as error:
        traceback.print_exc()
        answer = f"{type(error).__name__}: {error}"
    told = io.BytesIO()
    torch.save(answer, told)
    sender.send_bytes(told.getvalue())
