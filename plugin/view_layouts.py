"""Which row layout a Feast feature view has: its feature types as slots."""

from __future__ import annotations

from feast.base_feature_view import BaseFeatureView
from feast.field import Field
from feast.value_type import ValueType

from provender.plugin.embedding_view import is_embedding_view, spec_of
from provender.plugin.packing import RowLayout, Slot
from provender.plugin.spec import VECTOR_COLUMN

NUMBERS = {
    ValueType.BOOL: ("bool_val", "?"),
    ValueType.INT32: ("int32_val", "<i4"),
    ValueType.INT64: ("int64_val", "<i8"),
    ValueType.FLOAT: ("float_val", "<f4"),
    ValueType.DOUBLE: ("double_val", "<f8"),
    ValueType.UNIX_TIMESTAMP: ("unix_timestamp_val", "<i8"),
}
LISTS = {
    ValueType.BOOL_LIST: ("bool_list_val", "?"),
    ValueType.INT32_LIST: ("int32_list_val", "<i4"),
    ValueType.INT64_LIST: ("int64_list_val", "<i8"),
    ValueType.FLOAT_LIST: ("float_list_val", "<f4"),
    ValueType.DOUBLE_LIST: ("double_list_val", "<f8"),
    ValueType.UNIX_TIMESTAMP_LIST: ("unix_timestamp_list_val", "<i8"),
}
TEXTS = {
    ValueType.STRING: "string_val",
    ValueType.JSON: "json_val",
    ValueType.UUID: "uuid_val",
    ValueType.TIME_UUID: "time_uuid_val",
    ValueType.DECIMAL: "decimal_val",
}
#: Feast keeps all of these in one field.
BYTES = (ValueType.BYTES, ValueType.PDF_BYTES, ValueType.IMAGE_BYTES)


def layout_of(view: BaseFeatureView) -> RowLayout:
    """The layout in which rows of a view are written.

    An embedding view's one slot is a vector that is never null, in the dtype its spec says.
    Elsewhere numbers and vectors of a declared length are fixed, the rest is variable.
    """
    if is_embedding_view(view):
        spec = spec_of(view)
        vector = Slot(VECTOR_COLUMN, "float_list_val", "vector", spec.dtype, spec.dim, True)
        return RowLayout((vector,))
    return RowLayout(tuple(_slot(field) for field in view.features))


def proto_slot(slot: Slot) -> Slot:
    """A slot for the same feature that keeps any protobuf value whole."""
    return Slot(slot.name, "", "proto")


def numbers_slot(slot: Slot) -> Slot:
    """A slot for the same vector feature that keeps vectors of any length."""
    return Slot(slot.name, slot.field, "numbers", "<f4")


def _slot(field: Field) -> Slot:
    kind = field.dtype.to_value_type()
    if kind in NUMBERS:
        return Slot(field.name, NUMBERS[kind][0], "number", NUMBERS[kind][1])
    if kind == ValueType.FLOAT_LIST and field.vector_length:
        return Slot(field.name, "float_list_val", "vector", "float32", field.vector_length)
    if kind in LISTS:
        return Slot(field.name, LISTS[kind][0], "numbers", LISTS[kind][1])
    if kind in TEXTS:
        return Slot(field.name, TEXTS[kind], "text")
    if kind in BYTES:
        return Slot(field.name, "bytes_val", "bytes")
    return Slot(field.name, "", "proto")
