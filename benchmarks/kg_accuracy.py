"""How well are held-out links predicted? Public graphs by `provender evaluate kg`'s own functions.

    python benchmarks/kg_accuracy.py --data path/to/data --set fb15k237 --model transra
    python benchmarks/kg_accuracy.py --data path/to/data --set pinterest --model peers

Sets: fb15k237, wn18rr and wn18 as OpenKE splits them; pinterest, of which each user's items are
split here (a fifth for test, at least one, a tenth for validation). Settings are those of --config,
else of kg_configs/SET_MODEL.yaml where there is one, else the command's defaults. On pinterest the
model `peers` stands for popularity, item-kNN and EASE (Steck 2019), their settings chosen by the
same validation links, judged by the same code. Each run puts its row into
benchmarks/results/kg_accuracy.{json,md} beside those of other runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from provender.producers.kg_data import LinkSets, read_link_sets
from provender.producers.kg_defaults import PATIENCE, VALIDATE_EVERY
from provender.producers.kg_evaluation import KS, configure, evaluate_links
from provender.producers.kg_judging import HeadJudge
from provender.producers.link_ranking import Scorer
from provender.producers.scores import SCORES

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parent / "kg_configs"
OPENKE = {"fb15k237": "FB15K237", "wn18rr": "WN18RR", "wn18": "WN18"}
PARTS = ("train", "valid", "test")
#: What peers' settings are chosen by, on the validation links of so many heads.
BY_K = 20
BY = f"recall@{BY_K}"
HEADS = 5_000
NEIGHBOURS = (50, 100, 200, 500, 1000, 2000, 5000)
LAMBDAS = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


def lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


def openke(data: Path, name: str, folder: Path) -> None:
    """Write OpenKE's files of ids, `head tail relation`, by name."""
    source = data / "kg_openke"

    def names(kind: str) -> list[str]:
        rows = [line.split("\t") for line in lines(source / f"{name}.{kind}2id.txt.gz")][1:]
        return [key for key, _ in sorted(rows, key=lambda row: int(row[1]))]

    entities, relations = names("entity"), names("relation")
    for part in PARTS:
        with (folder / f"{part}.tsv").open("w", encoding="utf-8") as out:
            for line in list(lines(source / f"{name}.{part}2id.txt.gz"))[1:]:
                head, tail, relation = map(int, line.split())
                out.write(f"{entities[head]}\t{relations[relation]}\t{entities[tail]}\n")


def pinterest(data: Path, folder: Path, seed: int = 0) -> None:
    """Split each user's items: a fifth for test, at least one, a tenth for validation."""
    random = np.random.default_rng(seed)
    files = [(folder / f"{part}.tsv").open("w", encoding="utf-8") for part in PARTS]
    for line in lines(data / "pinterest" / "train.txt.gz"):
        user, *items = line.split()
        shuffled = random.permutation(sorted(set(items), key=int)).tolist()
        test = max(1, round(0.2 * len(shuffled)))
        valid = round(0.1 * len(shuffled))
        parts = (shuffled[test + valid :], shuffled[test : test + valid], shuffled[:test])
        for file, part in zip(files, parts, strict=True):
            file.writelines(f"{user}\t{item}\n" for item in part)
    for file in files:
        file.close()


def read(data: Path, name: str) -> LinkSets:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pinterest(data, place) if name == "pinterest" else openke(data, OPENKE[name], place)
        relation = "pin" if name == "pinterest" else None
        return read_link_sets(*(place / f"{part}.tsv" for part in PARTS), relation=relation)


def model_row(sets: LinkSets, given: argparse.Namespace) -> dict[str, Any]:
    own = CONFIGS / f"{given.set}_{given.model}.yaml"
    path = given.config or (own if own.is_file() else None)
    overrides = {"epochs": given.epochs} if given.epochs else {}
    config = configure(sets, given.model, path, overrides)
    done = evaluate_links(
        sets,
        config,
        device=given.device,
        checkpoints=given.checkpoints,
        every=given.validate_every,
        patience=given.patience,
    )
    report = done.report
    return {
        "config": path.stem if path else "defaults",
        "settings": report["config"],
        "metrics": {name: _flat(one) for name, one in report["metrics"].items()},
        "per_head": {name: one["model"] for name, one in report.get("per_head", {}).items()},
        "curve": report["curve"],
        "seconds": report["seconds"],
        "cpu_seconds": report["cpu_seconds"],
    }


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not isinstance(value, dict)}


def peer_rows(sets: LinkSets) -> Iterator[tuple[str, dict[str, Any]]]:
    """Popularity, item-kNN and EASE, each as its best setting on the validation links."""
    judges = {name: HeadJudge.of(sets, name) for name in ("valid", "test")}
    popular = {name: judge.popularity(KS) for name, judge in judges.items()}
    yield "popularity", {"config": "", "per_head": popular}
    some = HeadJudge.of(sets, "valid", most=HEADS)
    pairs = (sets.train.head.numpy(), sets.train.tail.numpy())
    counts = sp.csr_matrix((np.ones(len(sets.train), np.float32), pairs))
    counts.data[:] = 1.0  # Each pair once.
    gram = (counts.T @ counts).toarray()
    yield "item-kNN", _best(some, judges, counts, "neighbours", NEIGHBOURS, _knn(gram))
    yield (
        "EASE",
        _best(some, judges, counts, "lambda", LAMBDAS, lambda penalty: _ease(gram, penalty)),
    )


def _best(
    some: HeadJudge,
    judges: dict[str, HeadJudge],
    counts: sp.csr_matrix,
    setting: str,
    values: tuple[float, ...],
    weights: Callable[[float], np.ndarray],
) -> dict[str, Any]:
    """The figures of the value that ranks some heads' validation links best."""
    tried: dict[float, float] = {}
    started = time.process_time()
    for value in values:
        tried[value] = some.figures(_linear(counts, weights(value)), [BY_K])[BY]
        print(f"{setting} {value:g}: {BY} {tried[value]:.4f} on valid", flush=True)
    chosen = max(tried, key=lambda value: tried[value])
    scorer = _linear(counts, weights(chosen))
    return {
        "config": f"{setting} {chosen:g}",
        "tried": {f"{value:g}": figure for value, figure in tried.items()},
        "per_head": {name: judge.figures(scorer, KS) for name, judge in judges.items()},
        "cpu_seconds": {"tuning and ranking": time.process_time() - started},
    }


def _linear(counts: sp.csr_matrix, weights: np.ndarray) -> Scorer:
    """Scores of all items by a user's items and weights between items (n, n)."""

    def scores(_: str, asked: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(counts[asked.numpy()] @ weights))

    return lambda _: scores


def _knn(gram: np.ndarray) -> Callable[[float], np.ndarray]:
    """Cosine similarities of an item's nearest ones, the others zero."""
    norms = np.sqrt(np.diag(gram)).clip(min=1.0)
    cosine = gram / norms[:, None] / norms
    np.fill_diagonal(cosine, 0.0)

    def nearest(count: float) -> np.ndarray:
        least = -np.partition(-cosine, int(count) - 1, axis=1)[:, int(count) - 1]
        return np.where(cosine >= least, cosine, np.float32(0))  # By column; it is symmetric.

    return nearest


def _ease(gram: np.ndarray, penalty: float) -> np.ndarray:
    """Steck 2019, eq. 8: B = I - P / diag(P), P the inverse of the penalised Gram matrix."""
    penalised = torch.from_numpy(gram + np.float32(penalty) * np.eye(len(gram), dtype=np.float32))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalised)).numpy()
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def keep(rows: dict[str, dict[str, Any]]) -> None:
    """Put rows, by `set/model`, beside those of other runs; write both files."""
    path = RESULTS / "kg_accuracy.json"
    every = json.loads(path.read_text()) if path.is_file() else {}
    every = dict(sorted({**every, **rows}.items()))
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(every, indent=2) + "\n")
    (RESULTS / "kg_accuracy.md").write_text(table(every))


def table(rows: dict[str, dict[str, Any]]) -> str:
    links = ["mrr", "hits@1", "hits@3", "hits@10", "mean_rank"]
    heads = [f"{figure}@{k}" for figure in ("recall", "ndcg") for k in KS]
    graphs = {name: row["metrics"]["test"] for name, row in rows.items() if not row["per_head"]}
    items = {name: row["per_head"]["test"] for name, row in rows.items() if row["per_head"]}
    told = []
    for columns, chosen in ((links, graphs), (heads, items)):
        if chosen:
            told.append(
                f"| set | model | {' | '.join(columns)} |\n" + "|---" * (len(columns) + 2) + "|\n"
            )
            told += [_line(name, figures, columns) for name, figures in chosen.items()]
            told.append("\n")
    return "".join(told[:-1])


def _line(name: str, figures: dict[str, float], columns: list[str]) -> str:
    cells = (f"{figures[c]:,.0f}" if c == "mean_rank" else f"{figures[c]:.4f}" for c in columns)
    return f"| {' | '.join(name.split('/'))} | {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data")
    parser.add_argument("--set", choices=[*OPENKE, "pinterest"], required=True)
    parser.add_argument("--model", choices=[*SCORES, "peers"], default="transra")
    parser.add_argument("--config", type=Path, help="YAML of settings")
    parser.add_argument("--epochs", type=int, help="instead of the settings'")
    parser.add_argument("--validate-every", type=int, default=VALIDATE_EVERY)
    parser.add_argument("--patience", type=int, default=PATIENCE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoints", type=Path, help="folder in which a run finds its place")
    given = parser.parse_args()
    if given.model == "peers" and given.set != "pinterest":
        parser.error("the peers are those of interactions: choose --set pinterest")
    sets = read(given.data, given.set)
    rows = peer_rows(sets) if given.model == "peers" else [(given.model, model_row(sets, given))]
    for name, row in rows:
        keep({f"{given.set}/{name}": row})
    print((RESULTS / "kg_accuracy.md").read_text())


if __name__ == "__main__":
    main()
