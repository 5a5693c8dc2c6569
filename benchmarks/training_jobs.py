"""The measured work of benchmarks/training_batches.py; store_jobs.py says how a job is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from feast import FeatureService, FeatureStore
from store_jobs import Meter, digest
from store_worlds import Table, apply, entity_rows, open_store

from provender.consumers.attention_head import AttentionHead
from provender.consumers.preprocessing import Preprocessing
from provender.consumers.ranker import Ranker, RankerConfig
from provender.consumers.ranker_loss import entire_space_loss
from provender.consumers.training_stream import TrainingStream

SERVICE, BATCH, CLICKS = "bench", 4_096, 0.1


def batches(
    meter: Meter, who: str, tables: Sequence[Table], rows: int, work: Path
) -> dict[str, Any]:
    """Go once through impressions in memory as batches of tensors, masks and labels."""
    with TemporaryDirectory(dir=work) as home:
        store = _open(who, Path(home), tables, work)
        frame = _impressions(tables, rows)
        digests = [0] * len(tables)
        with meter:
            made = _stream if who == "provender" else _stock
            for numbers, vectors in made(store, tables, frame):
                kept = (numbers, vectors)
        # Not timed: the same once more, to see that the rows are the same.
        del kept
        for numbers, vectors in made(store, tables, frame):
            for place, each in enumerate(vectors):
                digests[place] += digest(numbers, each.numpy())
    rate = rows / meter.figures["wall_s"]
    return {"digest": [str(d % 2**64) for d in digests], "rows_per_s": rate}


def training(
    meter: Meter, tables: Sequence[Table], rows: int, work: Path, steps: int
) -> dict[str, Any]:
    """Train the reference ranker with its attention head; which share of the time does it wait?"""
    with TemporaryDirectory(dir=work) as home:
        store = _open("provender", Path(home), tables, work)
        stream = _made(store, _impressions(tables, rows))
        ranker = _ranker(stream)
        optimizer = torch.optim.AdamW(ranker.parameters(), lr=2e-3)
        waited, done, going = 0.0, 0, iter(stream)
        _step(ranker, optimizer, next(going))  # Whatever is done once is done by now.
        with meter:
            while done < steps:
                asked = time.perf_counter()
                batch = next(going, None)
                if batch is None:
                    going = iter(stream)
                    batch = next(going)
                waited += time.perf_counter() - asked
                _step(ranker, optimizer, batch)
                done += 1
        going.close()  # type: ignore[attr-defined]
    wall = meter.figures["wall_s"]
    return {
        "digest": None,
        "waiting_share": waited / wall,
        "waiting_s": waited,
        "step_ms": 1e3 * (wall - waited) / steps,
        "rows_per_s": steps * BATCH / wall,
    }


def _open(who: str, home: Path, tables: Sequence[Table], work: Path) -> FeatureStore:
    store = open_store(who, home)
    apply(store, tables, work)
    store.apply([FeatureService(name=SERVICE, features=[table.view(work) for table in tables])])
    return store


def _made(store: FeatureStore, frame: pd.DataFrame) -> TrainingStream:
    # As Feast does unless it is told otherwise: the snapshots were written after the impressions.
    return TrainingStream(store, frame, SERVICE, batch_size=BATCH, backfills=True)


def _impressions(tables: Sequence[Table], rows: int) -> pd.DataFrame:
    frame = entity_rows(tables, rows)
    random = np.random.default_rng(rows + 1)
    click = (random.random(rows) < CLICKS).astype(np.int8)
    return frame.assign(
        impression_id=frame["row"], click=click, conversion=click * (random.random(rows) < CLICKS)
    )


def _stream(store: FeatureStore, tables: Sequence[Table], frame: pd.DataFrame) -> Any:
    for batch in _made(store, frame):
        numbers = batch.context["row"].to_numpy()
        yield numbers, [batch.vectors[table.view_name] for table in tables]


def _stock(store: FeatureStore, tables: Sequence[Table], frame: pd.DataFrame) -> Any:
    """Feast's way: `to_df`, a tensor a column, batches in a random order."""
    features = [table.feature for table in tables]
    found = store.get_historical_features(frame, features, full_feature_names=True).to_df()
    vectors, masks = [], []
    for table in tables:
        column = found[f"{table.view_name}__embedding"]
        there = column.notna().to_numpy()
        nothing = np.zeros(table.dim, np.float32)
        if not there.all():
            column = [value if value is not None else nothing for value in column]
        vectors.append(torch.from_numpy(np.stack(list(column))))
        masks.append(torch.from_numpy(there))
    labels = torch.from_numpy(found["click"].to_numpy().astype(np.float32))
    rows = found["row"].to_numpy()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    for start in range(0, len(rows), BATCH):
        chosen = order[start : start + BATCH]
        for each in (*masks, labels):
            each.index_select(0, chosen)
        yield rows[chosen.numpy()], [each.index_select(0, chosen) for each in vectors]


def _ranker(stream: TrainingStream) -> Ranker:
    sample = stream.sample(20_000).rows
    preprocessing = Preprocessing.fit(stream.layout, sample, [])
    torch.manual_seed(0)
    pin = stream.layout.embeddings[-1].view_name
    ranker = Ranker(RankerConfig(query=pin), stream.layout, preprocessing)
    ranker.fit_inputs(sample)
    if not isinstance(ranker.head, AttentionHead):
        raise TypeError("a ranker without an attention head")
    return ranker.train()


def _step(ranker: Ranker, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    logits = ranker.logits(ranker.preprocessing(batch), batch)
    labels = batch.labels
    loss = entire_space_loss(logits, labels["click"], labels["conversion"], batch.weights)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


JOBS: dict[str, Callable[..., dict[str, Any]]] = {job.__name__: job for job in (batches, training)}
