"""Feast's file registry, written whole.

    registry:
      registry_store_type: provender.plugin.registry_store.WholeFileRegistryStore
      path: data/registry.db

Feast's own empties the file before it writes it: a `feast materialize` killed in that moment has
lost every view, and one that reads then finds none.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry

from provender.plugin.files import write_whole


class WholeFileRegistryStore(FileRegistryStore):
    """A registry in a local file, of which every reader sees the former state or the new one."""

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        write_whole(self._filepath, registry_proto.SerializeToString())
