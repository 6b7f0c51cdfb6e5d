"""A folder that `datasets.load_dataset` opens: Parquet with features, class names, and a data set card."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.card import card
from jobs.exports.form import FileRange, Files
from jobs.output.finished import FinishedOutput

CARD = "README.md"
_FEATURES = b"huggingface"  # the footer key where `datasets` looks for features
_DTYPES = {
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
    "date32[day]": "date32",
    "date64[ms]": "date64",
}


class HuggingFace:
    """`data/train-NNNNN-of-NNNNN.parquet`: every column of rows/, with class ids in the type of ClassLabel."""

    notes: tuple[str, ...] = ()

    def __init__(self, finished: FinishedOutput) -> None:
        self.columns = finished.schema.names
        self._kept = finished.config.source.keep
        self._names = {name: finished.class_names(name) for name in self.columns}
        self._schema = pa.schema([(field.name, self._type(field)) for field in finished.schema])
        features = {field.name: feature(field.type, self._names[field.name]) for field in self._schema}
        self._metadata = {**(finished.schema.metadata or {}), _FEATURES: json.dumps({"info": {"features": features}})}
        self._metadata.pop(schema.PROVENANCE.encode(), None)  # that of the object whose schema this is
        self.beside = {CARD: self._card}

    def names(self, part: FileRange) -> list[str]:
        return [f"data/train-{part.number:05d}-of-{part.of:05d}.parquet"]

    def files(self, rows: pa.Table) -> Files:
        return Files(rows.cast(self._schema).replace_schema_metadata(self._metadata))

    def _card(self, said: Mapping[str, Any]) -> bytes:
        features = [{"name": field.name, **described(field.type, self._names[field.name])} for field in self._schema]
        return card(self._schema, self._kept, features, said).encode()

    def _type(self, field: pa.Field) -> pa.DataType:
        """As `datasets` stores it: ClassLabel in int64, no dictionaries."""
        if self._names[field.name]:
            return pa.list_(pa.int64())
        return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def feature(kind: pa.DataType, names: list[str]) -> dict[str, Any]:
    """As `datasets` keeps a feature in JSON; `names` are those of the class ids in a list."""
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type, []) for field in kind.fields}
    if pa.types.is_large_list(kind):
        return {"_type": "LargeList", "feature": feature(kind.value_type, [])}
    if not _is_list(kind):
        return {"_type": "Value", "dtype": _dtype(kind)}
    inner = {"_type": "ClassLabel", "names": names} if names else feature(kind.value_type, [])
    return {"_type": "List", "feature": inner, **_length(kind)}


def described(kind: pa.DataType, names: list[str]) -> dict[str, Any]:
    """The same as a data set card has it in YAML."""
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **described(field.type, [])} for field in kind.fields]}
    if not (_is_list(kind) or pa.types.is_large_list(kind)):
        return {"dtype": _dtype(kind)}
    if names:
        return {"list": {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}}}
    inner = described(kind.value_type, [])
    plain = inner.get("dtype") or inner.get("struct") or inner
    return {"large_list" if pa.types.is_large_list(kind) else "list": plain, **_length(kind)}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _length(kind: pa.DataType) -> dict[str, int]:
    return {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}


def _dtype(kind: pa.DataType) -> str:
    """The name that `datasets` has for a plain type, which is Arrow's but for a few. Raises OutputError."""
    if any(is_kind(kind) for is_kind in (pa.types.is_nested, pa.types.is_fixed_size_binary, pa.types.is_dictionary)):
        raise OutputError(f"a column is {kind}, which `datasets` has no feature for", "leave it out of source.keep")
    return _DTYPES.get(str(kind), str(kind))
