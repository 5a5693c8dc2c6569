"""What a knowledge-graph model learned, as files: vectors by name, relations by name."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from provender.plugin.errors import ConfigError
from provender.plugin.files import STAGING, remove_empty, remove_folder, whole_folder
from provender.producers.graph import TripleGraph
from provender.producers.parameters import Parameters
from provender.producers.vectors import save_vectors

#: Who finds it in a folder knows that the folder is ours.
RELATIONS = "relations.safetensors"


def check_free(folder: Path) -> None:
    """Raise ConfigError for a folder that holds something else than an earlier run's embeddings."""
    if folder.exists() and any(folder.iterdir()) and not (folder / RELATIONS).is_file():
        raise ConfigError(
            str(folder),
            found="a folder with other files in it",
            expected="a new or empty folder, or one that --save has filled",
            remedy="Choose another folder.",
        )


def save_embeddings(folder: Path, parameters: Parameters, graph: TripleGraph) -> None:
    """Write the folder whole, in the place of what an earlier run saved there.

    `<entity type>.parquet` has the columns key (string) and vector (float32, d), sorted by key.
    `relations.safetensors` has each parameter of relations as (R, ...); its metadata names the
    model and, as a JSON list, the relations in their order.
    """
    check_free(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        remove_folder(folder.parent, folder)
    with whole_folder(folder.parent, folder) as staged:
        save_vectors(staged, {entity: parameters.vectors(graph, entity) for entity in graph.counts})
        names = json.dumps([one.name for one in graph.relations])
        tensors = {name: values.contiguous() for name, values in parameters.relation.items()}
        about = {"model": parameters.model, "relations": names}
        (staged / RELATIONS).write_bytes(save(tensors, metadata=about))
    remove_empty(folder.parent / STAGING)
