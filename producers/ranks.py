"""The processes that train one model together, as torchrun starts them: rank 0 leads.

Rank 0 does all that a command does; the others wait for its orders and train with it whenever it
trains. Orders go through torch's key-value store, so that waiting for one costs nothing and may
last; the exchanges of a step go over gloo, and fail within `TIMEOUT` where a rank is gone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from provender.plugin.errors import TrainingError

#: For one exchange. A killed process is noticed at once; this is for one that stands still.
TIMEOUT = timedelta(minutes=2)
#: For an order: rank 0 may read events or judge parameters for hours.
_PATIENCE = timedelta(days=30)


@dataclass(eq=False)
class Ranks:
    """This process's place among the others."""

    rank: int
    count: int
    store: Store
    orders: int = 0

    def post(self, **order: Any) -> None:
        """Tell the other ranks what to do next."""
        self.store.set(f"order/{self.orders}", json.dumps(order))
        self.store.delete_key(f"order/{self.orders - 2}")  # everyone has taken part in the last one
        self.orders += 1

    def awaited(self) -> dict[str, Any]:
        """Wait for rank 0's next order."""
        key = f"order/{self.orders}"
        with _gone_ranks_told():
            self.store.wait([key], _PATIENCE)
            order: dict[str, Any] = json.loads(self.store.get(key))
        self.orders += 1
        return order

    def meet(self) -> None:
        """Wait for all ranks to be as far as here in the order, however long one of them takes."""
        met = [f"met/{self.orders}/{rank}" for rank in range(self.count)]
        self.store.set(met[self.rank], "")
        with _gone_ranks_told():
            self.store.wait(met, _PATIENCE)


_here: Ranks | None = None


def several() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def current() -> Ranks | None:
    """The ranks that this process has joined; None where it trains alone."""
    return _here


@contextmanager
def joined(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """Meet the other ranks where torchrun's environment says, and leave them at the end."""
    global _here
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if alone and sys.platform == "linux":  # one machine: its name need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with _gone_ranks_told():
        store, rank, count = next(rendezvous("env://", timeout=max(timeout, TIMEOUT)))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timeout)
    _here = Ranks(rank, count, PrefixStore("provender", store))
    try:
        yield _here
    finally:
        _here = None
        dist.destroy_process_group()


def all_to_all(
    output: Tensor, given: Tensor, takes: list[int] | None = None, gives: list[int] | None = None
) -> None:
    """Rank k's part of `given` to rank k, of equal sizes or of `gives` rows; see torch's own."""
    with _gone_ranks_told():
        dist.all_to_all_single(output, given, takes, gives)


def all_gather(own: Tensor) -> Tensor:
    """The tensors (...) of all ranks, (W, ...)."""
    found = own.new_empty(dist.get_world_size(), *own.shape)
    with _gone_ranks_told():
        dist.all_gather(list(found.unbind()), own)
    return found


def broadcast(values: Tensor) -> Tensor:
    """Rank 0's tensor, in place."""
    with _gone_ranks_told():
        dist.broadcast(values, 0)
    return values


def send(values: Tensor, rank: int) -> None:
    """To one rank, which receives."""
    with _gone_ranks_told():
        dist.send(values.contiguous(), rank)


def receive(values: Tensor, rank: int) -> Tensor:
    """From one rank, in place."""
    with _gone_ranks_told():
        dist.recv(values, rank)
    return values


@contextmanager
def _gone_ranks_told() -> Iterator[None]:
    """Gloo and the store raise RuntimeErrors in words of their own."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}",
            found=f"another rank gone or standing still ({str(error).splitlines()[0][:200]})",
            expected="all ranks to take part to the end",
            remedy="Read what the rank that ended first has written. Started again, the run goes "
            "on from its last checkpoint.",
        ) from error
