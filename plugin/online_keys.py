"""Between Feast's entity keys and the key column of an online table.

One whole-number key is the column itself (BIGINT), one string its UTF-8 bytes; several keys, bytes
and views without an entity have Feast's serialized entity key (version 3).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast.base_feature_view import BaseFeatureView
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from provender.plugin.errors import OnlineValueError

Ints = npt.NDArray[np.int64]
#: The keys of n rows as the column holds them.
Keys = Ints | list[bytes]
Kind = Literal["integer", "string", "entity"]

#: Value type -> its field of the protobuf value, and its fixed size in a serialized key.
_FIELDS = {
    ValueType.INT32: ("int32_val", pa.int32(), "<i"),
    ValueType.INT64: ("int64_val", pa.int64(), "<q"),
    ValueType.UNIX_TIMESTAMP: ("unix_timestamp_val", pa.int64(), "<q"),
    ValueType.STRING: ("string_val", pa.large_string(), ""),
    ValueType.BYTES: ("bytes_val", pa.large_binary(), ""),
}
_INTEGERS = ("int64_val", "int32_val", "unix_timestamp_val")
_VERSION = 3


@dataclass(frozen=True)
class EntityKeys:
    """How one view's entities are written as keys.

    Attributes:
        view: the view's name, for messages.
        kind: what the key column holds.
        types: join key -> type, in the order of names.
    """

    view: str
    kind: Kind
    types: dict[str, ValueType]

    @classmethod
    def of(cls, view: BaseFeatureView) -> EntityKeys:
        """The keys of a feature view that Feast has registered."""
        columns = {c.name: c.dtype.to_value_type() for c in getattr(view, "entity_columns", [])}
        types = {name: columns[name] for name in sorted(columns)}
        if getattr(view, "entities", None) == [DUMMY_ENTITY_NAME] or not types:
            return cls(view.name, "entity", {DUMMY_ENTITY_ID: ValueType.STRING})
        only = next(iter(types.values())) if len(types) == 1 else None
        if only is not None and _FIELDS.get(only, ("",))[0] in _INTEGERS:
            return cls(view.name, "integer", types)
        return cls(view.name, "string" if only == ValueType.STRING else "entity", types)

    def from_protos(self, entities: Sequence[EntityKey]) -> Keys:
        """Keys of Feast's entity keys; raises OnlineValueError for another type or null."""
        if self.kind == "integer":
            numbers = [self._single(entity, _INTEGERS) for entity in entities]
            return np.array(numbers, dtype=np.int64)
        if self.kind == "string":
            return [self._single(entity, ("string_val",)).encode() for entity in entities]
        try:
            return [serialize_entity_key(entity, _VERSION) for entity in entities]
        except ValueError as error:
            raise self._refused(str(error)) from None

    def from_columns(self, columns: Mapping[str, Sequence[Any] | npt.NDArray[Any]]) -> Keys:
        """Keys of a request; raises OnlineValueError for another name, type, length or null."""
        self._check_names(columns)
        if self.kind == "integer":
            only = np.asarray(next(iter(columns.values())))
            if only.dtype.kind in "iu" or not only.size:
                return only.astype(np.int64).reshape(-1)
        arrays = {}
        for name, kind in self.types.items():
            try:
                arrays[name] = _array(columns[name], kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise self._refused(f"{name}: {error}") from None
        return self._from_arrays(arrays)

    def from_batch(self, batch: pa.RecordBatch) -> Keys:
        """Keys of an Arrow batch; raises OnlineValueError for a missing column, type or null."""
        columns = {name: batch.column(name) for name in self.types if name in batch.schema.names}
        if list(self.types) == [DUMMY_ENTITY_ID]:
            columns[DUMMY_ENTITY_ID] = pa.repeat(DUMMY_ENTITY_VAL, batch.num_rows)
        self._check_names(columns)
        try:
            arrays = {name: columns[name].cast(_FIELDS[kind][1]) for name, kind in self._fields()}
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._refused(str(error)) from None
        return self._from_arrays(arrays)

    def to_protos(self, keys: Keys) -> list[EntityKey]:
        """Feast's entity keys."""
        if self.kind == "entity":
            return [deserialize_entity_key(key, _VERSION) for key in _listed(keys)]
        name, field = next(iter(self.types)), self._field()
        values = [key.decode() if isinstance(key, bytes) else key for key in _listed(keys)]
        new_value: Any = Value
        return [
            EntityKey(join_keys=[name], entity_values=[new_value(**{field: value})])
            for value in values
        ]

    def to_columns(self, keys: Keys) -> dict[str, npt.NDArray[Any]]:
        """Join key -> (n,) int64, or objects."""
        if self.kind == "integer":
            return {next(iter(self.types)): np.asarray(keys)}
        protos = self.to_protos(keys)
        columns: dict[str, list[Any]] = {}
        for proto in protos:
            for name, value in zip(proto.join_keys, proto.entity_values, strict=True):
                columns.setdefault(name, []).append(_plain(value))
        if not protos:
            columns = {name: [] for name in self.types}
        return {name: _objects(values) for name, values in columns.items()}

    def shown(self, key: int | bytes) -> str:
        """A key as messages name it."""
        try:
            (proto,) = self.to_protos(np.array([key]) if isinstance(key, int) else [key])
        except (ValueError, struct.error):
            return repr(key)
        pairs = zip(proto.join_keys, proto.entity_values, strict=True)
        return ", ".join(f"{name} {_plain(value)!r}" for name, value in pairs)

    def _fields(self) -> list[tuple[str, ValueType]]:
        for name, kind in self.types.items():
            if kind not in _FIELDS:
                raise self._refused(f"{name} of type {kind.name}")
        return list(self.types.items())

    def _field(self) -> str:
        return _FIELDS[next(iter(self.types.values()))][0]

    def _single(self, entity: EntityKey, fields: Sequence[str]) -> Any:
        values = entity.entity_values
        field = values[0].WhichOneof("val") if len(values) == 1 else None
        if field is None or field not in fields:
            raise self._refused(" ".join(str(entity).split()) or "an empty key")
        return getattr(values[0], field)

    def _check_names(self, columns: Mapping[str, Any]) -> None:
        if sorted(columns) != list(self.types):
            raise self._refused(f"the key columns {', '.join(columns) or 'none'}")

    def _from_arrays(self, arrays: Mapping[str, pa.Array]) -> Keys:
        for name, array in arrays.items():
            if array.null_count:
                row = int(np.argmin(array.is_valid().to_numpy(zero_copy_only=False)))
                raise self._refused(f"null for {name} in row {row}")
        if len({len(array) for array in arrays.values()}) != 1:
            raise self._refused("key columns of several lengths")
        if self.kind == "integer":
            numbers: Ints = next(iter(arrays.values())).cast(pa.int64()).to_numpy()
            return numbers
        if self.kind == "string":
            texts: list[bytes] = next(iter(arrays.values())).cast(pa.large_binary()).to_pylist()
            return texts
        return self._serialized(arrays)

    def _serialized(self, arrays: Mapping[str, pa.Array]) -> list[bytes]:
        """Feast's serialized keys of whole columns at once."""
        head = struct.pack("<I", len(arrays))
        for name in arrays:
            raw = name.encode()
            head += struct.pack("<II", ValueType.STRING.value, len(raw)) + raw
        parts = [pa.scalar(head, pa.large_binary())]
        for name, kind in self._fields():
            parts += [pa.scalar(struct.pack("<I", kind.value), pa.large_binary())]
            parts += _sized(arrays[name])
        separator = pa.scalar(b"", pa.large_binary())
        joined: list[bytes] = pc.binary_join_element_wise(*parts, separator).to_pylist()
        return joined

    def _refused(self, found: str) -> OnlineValueError:
        kinds = ", ".join(f"{name} ({kind.name})" for name, kind in self.types.items())
        return OnlineValueError(
            f"feature view {self.view}, entity key",
            found=found,
            expected=f"{kinds}, never null",
            remedy="Correct the keys, or the types of the view's entities.",
        )


def _array(values: Sequence[Any] | npt.NDArray[Any], kind: ValueType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=False)
    if kind not in _FIELDS:
        raise pa.ArrowInvalid(f"keys of type {kind.name}")
    target = _FIELDS[kind][1]
    if len(array) and pa.types.is_integer(target) != pa.types.is_integer(array.type):
        raise pa.ArrowInvalid(f"{array.type} values")
    return array.cast(target)


def _sized(array: pa.Array) -> list[pa.Array]:
    """A key column's values as bytes, and before them their sizes as 4 bytes each."""
    if pa.types.is_integer(array.type):
        width = array.type.bit_width // 8
        raw = np.ascontiguousarray(array.to_numpy()).view(np.uint8)
        size = pa.scalar(struct.pack("<I", width), pa.large_binary())
        return [size, _cut(raw, width)]
    values = array.cast(pa.large_binary())
    sizes = pc.binary_length(values).to_numpy().astype("<u4")
    return [_cut(sizes.view(np.uint8), 4), values]


def _cut(raw: npt.NDArray[np.uint8], width: int) -> pa.Array:
    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(raw) // width, [None, pa.py_buffer(raw)]
    )
    return fixed.cast(pa.large_binary())


def _listed(keys: Keys) -> list[Any]:
    return keys.tolist() if isinstance(keys, np.ndarray) else keys


def _plain(value: Value) -> Any:
    field = value.WhichOneof("val")
    return None if field is None else getattr(value, field)


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made
