"""Refreshes of one world that fork: each way of refreshing goes on from the last common one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from refresh_lift_worlds import LiftWorld

from provender.producers.evaluation import quality
from provender.producers.event_set import EventSet
from provender.producers.graph import TripleGraph, build_graph
from provender.producers.optimizer_state import STATE, OptimizerState
from provender.producers.trainer import train
from provender.producers.training_state import optimizers_at_end
from provender.producers.transra_config import TransRAConfig
from provender.producers.vectors import Vectors, load_vectors, save_vectors
from provender.producers.warm_start import Parent, load_relations, save_relations

TURNED = ", turned back"
#: Of several hundred pins, a hundred are no achievement.
RECALL = 20
#: What of the settings each way of refreshing changes; None: it is not refreshed at all.
ARMS: dict[str, dict[str, Any] | None] = {
    "tether": {},
    "warm start only": {"anchor_entities": "off"},
    "afresh": {},
    "afresh, turned back": {},
    "frozen": {"anchor_entities": "frozen"},
    "stale": None,
    "tether, optimizers kept": {"state_decay": 0.5},
    "tether of 10": {"tether": 10.0},
    "tether, smaller steps": {"refresh_learning_rate": 0.01},
}


@dataclass(frozen=True)
class Chain:
    """The refreshes of a world, trained when they are asked for and kept in its folder."""

    world: LiftWorld

    def vectors(self, arm: str, day: int) -> dict[str, Vectors]:
        """What an arm's refresh as of the morning of a day knows."""
        known = dict(self._run(arm.removesuffix(TURNED), day).vectors)
        return self._turned_back(known) if arm.endswith(TURNED) else known

    def quality(self, arm: str, day: int) -> float | None:
        """Recall@20 of the day's own events, the mean over the relations."""
        arm = arm.removesuffix(TURNED)  # A turn changes no ranking.
        if ARMS[arm] is None:
            return None
        known = self.folder(arm, day) / "quality.json"
        if not known.exists():
            events, graph = self._graph(day)
            parameters = self._run(arm, day).parameters(graph, self._config(arm).model)
            window = self.world.events(day + 1).since(events)
            found = quality(parameters, graph, window, recall=RECALL, max_heads=500)
            known.write_text(json.dumps(found.model if found else None))
        told: float | None = json.loads(known.read_text())
        return told

    def cosine(self, arm: str, day: int) -> float:
        """Between the vectors that the ranker learned from last and these, over all entities."""
        one, other = self._common(self.vectors("tether", self._fork), self.vectors(arm, day))
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return float(((one * other).sum(1) / np.maximum(norms, 1e-9)).mean())

    def _turned_back(self, vectors: dict[str, Vectors]) -> dict[str, Vectors]:
        """Turned onto what the ranker learned from last: Procrustes (Schoenemann 1966)."""
        former, now = self._common(self.vectors("tether", self._fork), vectors)
        left, _, right = np.linalg.svd(now.T @ former)
        turn = left @ right
        return {each: Vectors(one.keys, one.vectors @ turn) for each, one in vectors.items()}

    def _common(
        self, former: dict[str, Vectors], now: dict[str, Vectors]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The rows of all that are in both."""
        rows: list[tuple[Any, Any]] = []
        for entity in self.world.views:
            places = pc.index_in(former[entity].keys, value_set=now[entity].keys)
            still = places.is_valid().to_numpy(zero_copy_only=False)
            rows.append(
                (former[entity].vectors[still], now[entity].vectors[places.drop_null().to_numpy()])
            )
        one, other = (np.concatenate(part) for part in zip(*rows, strict=True))
        return one, other

    @property
    def _fork(self) -> int:
        return self.world.last_training_day

    def folder(self, arm: str, day: int) -> Path:
        """Where an arm's model of a day lies; what has the same settings is the same."""
        changed = sorted((ARMS[arm] or {}).items())
        name = ",".join(f"{field}={value}" for field, value in changed)
        return (
            self.world.folder
            / "models"
            / f"{'afresh' if arm == 'afresh' else name or 'default'}-{day}"
        )

    def _run(self, arm: str, day: int) -> Parent:
        if day <= self._fork or ARMS[arm] is None:
            arm, day = "tether", min(day, self._fork)
        folder = self.folder(arm, day)
        if not folder.exists():
            self._train(arm, day, folder)
        state = OptimizerState.load(folder / STATE)
        return Parent(load_vectors(folder), load_relations(folder / "relations.safetensors"), state)

    def _train(self, arm: str, day: int, folder: Path) -> None:
        config = self._config(arm)
        first = day == self.world.training_days[0] or arm == "afresh"
        parent = None if first else self._run(arm, day - 1)
        if arm == "afresh":  # Nor does it begin from the same random vectors.
            config = config.model_copy(update={"seed": day})
        _, graph = self._graph(day)
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        checkpoints = scratch / "checkpoints"
        parameters = train(graph, config, device="cpu", checkpoint_dir=checkpoints, parent=parent)
        save_vectors(scratch, {each: parameters.vectors(graph, each) for each in graph.counts})
        save_relations(scratch / "relations.safetensors", parameters, graph)
        state = optimizers_at_end(checkpoints, graph, config, parent)
        if state is not None:
            state.save(scratch / STATE)
        shutil.rmtree(checkpoints)
        scratch.rename(folder)

    def _config(self, arm: str) -> TransRAConfig:
        return TransRAConfig.parse({**self.world.settings, **(ARMS[arm] or {})})

    def _graph(self, day: int) -> tuple[EventSet, TripleGraph]:
        events, config = self.world.events(day), self._config("tether")
        graph = build_graph(
            events.triples(),
            events.relations,
            {entity: events.keys(entity) for entity in events.counts},
            as_of=events.as_of,
            half_life_days=config.half_life_days,
            degree_cap=config.degree_cap,
            chosen=config.relations,
        )
        return events, graph
