"""One rank of one contestant of benchmarks/row_shards.py, which starts it and says when to go.

It runs by the contestant's own Python: what it needs of provender or TorchRec it imports late.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

ROWS, DIM, RATE, BATCHES = 200_000, 128, 0.1, 64
#: Of one rank and step: heads, tails and the negatives of both sides, repeats included.
TRIPLES, NEGATIVES = 1024, 256
LOOKUPS = 2 * (TRIPLES + NEGATIVES)
#: Takes the row numbers (LOOKUPS,) of a step.
Step = Callable[[Tensor], None]


def batches(rank: int) -> list[Tensor]:
    """Row numbers (LOOKUPS,) whose frequencies fall as rank ** -0.75, popular ones anywhere."""
    generator = torch.Generator().manual_seed(rank)
    anywhere = torch.randperm(ROWS, generator=torch.Generator().manual_seed(99))
    cumulative = torch.arange(1, ROWS + 1, dtype=torch.float64).pow(-0.75).cumsum(0)
    drawn = torch.rand(BATCHES, LOOKUPS, generator=generator, dtype=torch.float64)
    return list(anywhere[torch.searchsorted(cumulative / cumulative[-1], drawn)])


def first_table() -> Tensor:
    """The same on every rank, (ROWS, DIM)."""
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(7)) / DIM**0.5


def provender() -> Step:
    """Row shards; a step's repeats are looked up once, as a chunk does it."""
    from provender.producers.row_shards import RowShards

    mine = first_table()[dist.get_rank() :: dist.get_world_size()].contiguous()
    shards = RowShards(mine, torch.zeros(len(mine)), LOOKUPS)

    def step(ids: Tensor) -> None:
        rows, position = torch.unique(ids, return_inverse=True)
        exchange = shards.ask(rows)
        found = shards.gather(exchange).requires_grad_()
        each = found.index_select(0, exchange.place.index_select(0, position))
        each.square().sum().backward()
        gradient = shards.give_back(exchange, found.grad)
        shards.update(exchange.here, gradient, rate=RATE)

    return step


def ddp() -> Step:
    """The whole table on each rank; sparse gradients are gathered by DDP, Adagrad is torch's."""
    table = torch.nn.Embedding(ROWS, DIM, sparse=True, _weight=first_table())
    model = torch.nn.parallel.DistributedDataParallel(table)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=RATE)

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        model(ids).square().sum().backward()
        optimizer.step()

    return step


def torchrec(*, unique: bool) -> Step:
    """EmbeddingCollection, row-wise, with its fused row-wise Adagrad.

    Its own `use_index_dedup` is for GPUs only; with `unique` the repeats are taken out before it.
    """
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    sharder = EmbeddingCollectionSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": RATE},
    )
    config = EmbeddingConfig(ROWS, DIM, name="table", feature_names=["id"])
    collection = EmbeddingCollection(tables=[config], device=torch.device("cpu"))
    ranks = dist.get_world_size()
    plan = construct_module_sharding_plan(
        collection,
        {"table": row_wise(compute_kernel="fused")},
        sharder=sharder,
        local_size=ranks,
        world_size=ranks,
        device_type="cpu",
    )
    model = DistributedModelParallel(
        collection,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
    )
    lengths = torch.ones(LOOKUPS, dtype=torch.int32)

    def looked_up(ids: Tensor) -> Tensor:
        return (
            model(KeyedJaggedTensor(["id"], ids, lengths=lengths[: len(ids)])).wait()["id"].values()
        )

    def step(ids: Tensor) -> None:
        if unique:
            rows, position = torch.unique(ids, return_inverse=True)
            found = looked_up(rows).index_select(0, position)
        else:
            found = looked_up(ids)
        found.square().sum().backward()

    return step


CONTESTANTS: dict[str, Callable[[], Step]] = {
    "provender": provender,
    "ddp": ddp,
    "torchrec": partial(torchrec, unique=False),
    "torchrec, unique ids": partial(torchrec, unique=True),
}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    step, numbers = CONTESTANTS[sys.argv[1]](), batches(dist.get_rank())
    done = 0
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:  # how many steps
        dist.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step(numbers[done % BATCHES])
            done += 1
        figures = {"cpu": time.process_time() - processor, "wall": time.perf_counter() - wall}
        print(json.dumps({name: s / int(line) * 1e3 for name, s in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
