"""A piece of a study: one variant trained with one seed and judged; none is done twice.

A piece is a file of its own that appears whole. It says by a fingerprint of what it was made; one
of other data, settings or code is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from provender.consumers.metrics import TaskMetrics
from provender.consumers.ranker_config import RankerConfig
from provender.consumers.ranker_evaluation import evaluate_segments
from provender.consumers.ranker_training import TrainingConfig, train_ranker
from provender.consumers.study.data import StudyData
from provender.consumers.study.variants import Start, Variant
from provender.plugin.files import write_whole
from provender.plugin.manifest import code_version

#: At which rows of tables learn, by what they begin as; the rows held back say which is better.
RATES: dict[Start | None, tuple[float, ...]] = {
    None: (1.0,),
    "nothing": (0.002, 0.02),
    "snapshot": (0.00002, 0.0002, 0.002),
    "residual": (0.0002, 0.002),
}
#: (pieces done, of how many, which one has just been done or found)
OnPiece = Callable[[int, int, str], None]


class Piece(BaseModel):
    """The figures of one trained ranker.

    Attributes:
        fingerprint: of the data, the settings and the code.
        epochs: passes over the training rows until it was best.
        rate: at which rows of its tables learned, the best of RATES on the rows held back.
        figures: segment -> task -> figures on the later rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    variant: str
    seed: int
    epochs: int
    rate: float | None
    figures: dict[str, dict[str, TaskMetrics]]


def pieces(
    data: StudyData,
    variants: Sequence[Variant],
    how: TrainingConfig,
    seeds: Sequence[int],
    folder: Path,
    on_piece: OnPiece,
) -> Iterator[Piece]:
    """Yield every piece, seed by seed; those that lie in the folder already are taken from there.

    Args:
        folder: of the pieces' files; made where it is not.

    Raises TrainingError: rows that no ranker can learn from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, done = len(variants) * len(seeds), 0
    for seed in seeds:
        for variant in variants:
            place = folder / f"{_file(variant)}-{seed}.json"
            fingerprint = _fingerprint(data, variant, how, seed)
            piece = _kept(place, fingerprint)
            if piece is None:
                on_piece(done, total, f"{variant.name}, seed {seed}")
                piece = _made(data, variant, how, seed, fingerprint)
                write_whole(place, piece.model_dump_json(indent=1).encode())
            done += 1
            on_piece(done, total, f"{variant.name}, seed {seed}")
            yield piece


def _made(
    data: StudyData, variant: Variant, how: TrainingConfig, seed: int, fingerprint: str
) -> Piece:
    training, evaluation = data.seen_by(variant)
    tried = []
    for rate in RATES[variant.tables]:
        tables, config = data.tables(variant, rate, seed), data.config(variant)
        tried.append((train_ranker(training, config, how, seed=seed, tables=tables), rate))
    trained, rate = min(tried, key=lambda one: one[0].loss)
    return Piece(
        fingerprint=fingerprint,
        variant=variant.name,
        seed=seed,
        epochs=trained.epochs,
        rate=rate if variant.tables else None,
        figures=evaluate_segments(trained.ranker, evaluation, data.segments),
    )


def _kept(place: Path, fingerprint: str) -> Piece | None:
    """The piece of a file, if it is whole and of the same making."""
    try:
        piece = Piece.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None
    return piece if piece.fingerprint == fingerprint else None


def _fingerprint(data: StudyData, variant: Variant, how: TrainingConfig, seed: int) -> str:
    config: RankerConfig = data.config(variant)
    told = [
        data.digest,
        code_version(),
        RATES[variant.tables],
        config.model_dump_json(),
        how.model_dump_json(),
        seed,
    ]
    return hashlib.sha256(json.dumps([*told, variant.model_dump_json()]).encode()).hexdigest()


def _file(variant: Variant) -> str:
    return "".join(each if each.isalnum() else "-" for each in variant.name.replace(", ", "--"))
