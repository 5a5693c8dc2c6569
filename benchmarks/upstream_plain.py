"""Towers trained as one would write it first: a Dataset, a collate, dense Adam, nothing shared.

Features of a row are looked up by numpy on the arrays of its user and its pin, rows are stacked and
padded, and each goes through both towers; the id tables are nn.Embedding, and what is looked up is
projected where it occurs. What is read, the parameters and the loss are provender's own: the same
rows have the same logits.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from provender.plugin.id_table import Rows
from provender.producers.upstream.batch_shares import Place
from provender.producers.upstream.event_index import EventLog
from provender.producers.upstream.example_files import ExampleFile
from provender.producers.upstream.feature_reader import FeatureReader
from provender.producers.upstream.inputs import Actions, Bag, Batch, Gathered, Inputs
from provender.producers.upstream.preprocessing import Fitted, TowerTransforms
from provender.producers.upstream.timed_rows import TimedRows
from provender.producers.upstream.tower_categories import CategoryValues, encoded
from provender.producers.upstream.tower_numbers import DAY, MINUTE, Ages, EventNumbers
from provender.producers.upstream.tower_reader import TowerReader
from provender.producers.upstream.tower_steps import TowerSteps
from provender.producers.upstream.tower_tokens import Looked, age_class
from provender.producers.upstream.tower_tokens import Sequence as TowerSequence
from provender.producers.upstream.upstream_model import UpstreamModel

Row = dict[str, Any]
Floats = NDArray[np.float32]


class PlainExamples(Dataset[Row]):
    """All examples in memory, one at a time."""

    def __init__(self, reader: FeatureReader, fitted: Fitted) -> None:
        file = ExampleFile(reader.tower_set)
        table = file.read(range(len(file.rows)))
        self.reader, self.tasks = reader, reader.tower_set.tasks
        plain = ("source", "user", "pin", "time", "weight")
        self.columns = {name: table[name].to_numpy() for name in plain}
        labels = [table[f"label_{task}"].cast("float32").to_numpy() for task in self.tasks]
        self.labels = np.stack(labels, 1)
        self.position = table["number_position"].to_numpy()
        texts, codes, offsets = encoded(table["category_surface"])
        self.surface = fitted.cross.categories["surface"].rows(texts)[codes], offsets
        self.log_q = file.log_q
        self.categories = {
            (entity, name): (values, transforms.categories[name].rows(values.texts))
            for entity, tower, transforms in (
                ("user", reader.user, fitted.user),
                ("pin", reader.pin, fitted.pin),
            )
            for name, values in tower.categories.items()
        }

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> Row:
        user, pin, time = (int(self.columns[name][place]) for name in ("user", "pin", "time"))
        reader = self.reader
        pair_numbers = []
        for pairs, source in zip(reader.cross.pairs, reader.cross.sources, strict=True):
            wanted = user * pairs.pins + pin
            at = int(pairs.pairs.searchsorted(wanted))
            known = at < len(pairs.pairs) and pairs.pairs[at] == wanted
            row = at if known else len(pairs.pairs)
            pair_numbers += _event_numbers(source, row, time)
        values, offsets = self.surface
        seen = time - time % reader.user.floor
        return {
            "user": self._entity("user", reader.user, user, seen),
            "pin": self._entity("pin", reader.pin, pin, time - time % reader.pin.floor),
            "sequence": self._sequence(user, seen),
            "cross": np.array([self.position[place], *pair_numbers], np.float32),
            "surface": values[offsets[place] : offsets[place + 1]],
            "who": (user, pin, int(self.columns["source"][place])),
            "labels": self.labels[place],
            "weight": self.columns["weight"][place],
        }

    def _entity(self, entity: str, tower: TowerReader, number: int, time: int) -> Row:
        numbers: list[float] = []
        for source in tower.sources:
            if isinstance(source, EventNumbers):
                numbers += _event_numbers(source, number, time)
            elif isinstance(source, Ages):
                first = source.first[number]
                numbers.append((time - first) / MINUTE if first < time else np.nan)
        assert tower.id_rows is not None
        return {
            "numbers": np.array(numbers, np.float32),
            "id": tower.id_rows[number],
            "views": {
                name: view.vectors[view.places[number]] for name, view in tower.views.items()
            },
            "categories": {
                name: _category(*self.categories[entity, name], number, time)
                for name in tower.categories
            },
        }

    def _sequence(self, user: int, time: int) -> Row:
        actions = self.reader.user.actions
        assert actions is not None
        log: EventLog = actions.log
        start, end = (int(log.rows.offsets[user + each]) for each in (0, 1))
        end = start + int(log.rows.times[start:end].searchsorted(time))
        newest = slice(max(start, end - actions.length), end)
        pins = log.pin[newest][::-1].astype(np.int64)
        return {
            "event": log.event[newest][::-1].astype(np.int64),
            "age": ((time - log.rows.times[newest][::-1]) / DAY).astype(np.float32),
            "pin": actions.pin_rows[pins],
            "views": {name: view.vectors[pins] for name, view in actions.views.items()},
        }


def _event_numbers(source: EventNumbers, row: int, time: int) -> list[float]:
    rows: TimedRows = source.rows
    start, end = int(rows.offsets[row]), int(rows.offsets[row + 1])
    end = bisect_left(rows.times, time, start, end)
    numbers: list[float] = [
        end - (start if days is None else bisect_left(rows.times, time - days * DAY, start, end))
        for days in source.counts.values()
    ]
    newest = (time - int(rows.times[end - 1])) / MINUTE if end > start else np.nan
    return numbers + [newest] * len(source.recencies)


def _category(
    values: CategoryValues, rows: NDArray[np.int64], number: int, time: int
) -> NDArray[np.int64]:
    start, end = (int(values.rows.offsets[number + each]) for each in (0, 1))
    end = bisect_left(values.rows.times, time, start, end)
    entry = end - 1 if end > start else len(values.offsets) - 2
    found: NDArray[np.int64] = rows[values.codes[values.offsets[entry] : values.offsets[entry + 1]]]
    return found


class Collate:
    """Rows of a batch side by side, as tensors."""

    def __init__(self, examples: PlainExamples, fitted: Fitted) -> None:
        self.examples, self.fitted = examples, fitted

    def __call__(self, rows: Sequence[Row]) -> Batch:
        reader, labels = self.examples.reader, np.stack([row["labels"] for row in rows])
        user, pin, source = torch.tensor([row["who"] for row in rows]).T
        each = torch.arange(len(rows))
        cross = np.stack([row["cross"] for row in rows])
        return Batch(
            users=replace(
                self._entity([row["user"] for row in rows], reader.user, self.fitted.user),
                sequence=_padded([row["sequence"] for row in rows]),
            ),
            pins=self._entity([row["pin"] for row in rows], reader.pin, self.fitted.pin),
            cross=Inputs(
                _scaled(reader.cross.numbers, self.fitted.cross, cross),
                {"surface": _bag([row["surface"] for row in rows])},
            ),
            user=each,
            pin=each,
            user_id=user,
            pin_id=pin,
            labels=torch.from_numpy(np.nan_to_num(labels)),
            known=torch.from_numpy(~np.isnan(labels)),
            weight=torch.from_numpy(np.stack([row["weight"] for row in rows])),
            source=source,
            log_q=torch.from_numpy(self.examples.log_q[pin.numpy()]),
        )

    def _entity(self, rows: Sequence[Row], tower: TowerReader, fitted: TowerTransforms) -> Inputs:
        numbers = np.stack([row["numbers"] for row in rows])
        views = {name: np.stack([row["views"][name] for row in rows]) for name in tower.views}
        return Inputs(
            _scaled(tower.numbers, fitted, numbers),
            {name: _bag([row["categories"][name] for row in rows]) for name in tower.categories},
            {
                name: Gathered(torch.from_numpy(each), torch.arange(len(each)))
                for name, each in views.items()
            },
            torch.tensor([row["id"] for row in rows]),
        )


def _scaled(numbers: Sequence[Any], fitted: TowerTransforms, read: Floats) -> Tensor:
    columns = [
        fitted.numbers[number.name].apply(values)
        for number, values in zip(numbers, read.T, strict=True)
    ]
    flags = [
        ~np.isfinite(values)
        for number, values in zip(numbers, read.T, strict=True)
        if number.flagged
    ]
    return torch.from_numpy(np.stack([*columns, *flags], 1).astype(np.float32))


def _bag(rows: Sequence[NDArray[np.int64]]) -> Bag:
    offsets = np.cumsum([0, *map(len, rows)])
    return Bag(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(offsets))


def _padded(rows: Sequence[Row]) -> Actions:
    """Actions side by side (B, L), vectors (B L, dim)."""
    pad = nn.utils.rnn.pad_sequence
    event, age, pin = (
        pad([torch.from_numpy(row[name]) for row in rows], True, value)
        for name, value in (("event", 0), ("age", 0.0), ("pin", -1))
    )
    lengths = torch.tensor([len(row["event"]) for row in rows])
    present = torch.arange(event.shape[1]) < lengths[:, None]
    vectors = {}
    for name in rows[0]["views"]:
        table = pad([torch.from_numpy(row["views"][name]) for row in rows], True)
        places = torch.where(present, torch.arange(present.numel()).view_as(present), -1)
        vectors[name] = Gathered(table.flatten(0, 1), places)
    return Actions(event, age, pin, present, vectors)


class PlainLooked(Looked):
    """Each vector that is looked up through the matrix, as often as it occurs."""

    def gathered(self, given: Gathered) -> Tensor:
        found = given.table[given.index.clamp(min=0)]
        found = found * found.square().mean(-1, keepdim=True).add(1e-12).rsqrt()
        return self._projected(found, given.index)

    def rows(self, rows: Rows | None, ids: Tensor | None) -> Tensor:
        assert rows is not None and ids is not None
        return self._projected(F.embedding(ids.clamp(min=0), rows.values), ids)

    def _projected(self, found: Tensor, index: Tensor) -> Tensor:
        return torch.where(index.unsqueeze(-1) < 0, self.missing, self.project(found))


class PlainSequence(TowerSequence):
    """Attention over padded actions."""

    def forward(self, actions: Actions, pins: Rows | None) -> Tensor:
        total = F.embedding(actions.event, self.event[:, 0])
        total = total + F.embedding(age_class(actions.age), self.age)
        assert self.ids is not None
        total = total + self.ids.rows(pins, actions.pin)
        for name, looked in self.vectors.each():
            total = total + looked.gathered(actions.vectors[name])
        each = self.norm(total)  # (B, L, w)
        scores = self.attention(each).masked_fill(~actions.present[..., None], -1e4)
        pooled = scores.softmax(1).transpose(1, 2) @ each
        tokens = self.value(pooled.view(len(each), self.queries, -1))
        some = actions.present.any(1).view(-1, 1, 1)
        return torch.where(some, tokens, self.nothing)


def plainly(model: UpstreamModel) -> UpstreamModel:
    """The model itself, with modules that share nothing."""
    for module in model.towers.modules():
        if type(module) is Looked:
            module.__class__ = PlainLooked
        elif type(module) is TowerSequence:
            module.__class__ = PlainSequence
    return model


class PlainTraining:
    """The model with nn.Embedding for its id tables, and Adam over everything."""

    def __init__(self, model: UpstreamModel, examples: PlainExamples, fitted: Fitted) -> None:
        self.model = plainly(model)
        self.embeddings = nn.ModuleDict(
            {
                name: nn.Embedding.from_pretrained(table.values.clone(), freeze=False)
                for name, table in model.tables.items()
            }
        )
        parameters = [*model.towers.parameters(), *self.embeddings.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=model.config.training.learning_rate)
        self.steps = TowerSteps(model.config, None, torch.device("cpu"), Place())
        self.loader = DataLoader(
            examples,
            model.config.training.batch_size,
            shuffle=True,
            collate_fn=Collate(examples, fitted),
            generator=torch.Generator().manual_seed(0),
        )

    def step(self, batch: Batch) -> float:
        """One step of Adam."""
        self.model.towers.train()
        self.optimizer.zero_grad()
        rows = {name: Rows(each.weight) for name, each in self.embeddings.items()}  # type: ignore[arg-type]
        loss = self.steps.loss(self.model, batch, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.towers.parameters(), self.model.config.training.clip)
        self.optimizer.step()
        return float(loss.detach())
