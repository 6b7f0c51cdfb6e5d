"""Export to a folder for `datasets.load_dataset`: Parquet files with features and class names, and a data set card."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.card import card
from jobs.exports.form import FileContents, FileRange
from jobs.output.finished import FinishedOutput

CARD = "README.md"
_FEATURES = b"huggingface"  # the footer key from which `datasets` reads features
_DTYPES = {
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
    "date32[day]": "date32",
    "date64[ms]": "date64",
}


class HuggingFace:
    """`data/train-NNNNN-of-NNNNN.parquet` with every column of rows/; class ids are ClassLabel features.

    Raises OutputError for a column type that `datasets` does not support.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, finished: FinishedOutput) -> None:
        self.columns = finished.schema.names
        self._kept = finished.config.source.keep
        self._names = {name: finished.class_names(name) for name in self.columns}
        self._schema = pa.schema([(field.name, self._type(field)) for field in finished.schema])
        features = {field.name: json_feature(field.type, self._names[field.name]) for field in self._schema}
        self._metadata = {**(finished.schema.metadata or {}), _FEATURES: json.dumps({"info": {"features": features}})}
        self._metadata.pop(schema.PROVENANCE.encode(), None)  # it describes the first object of the output
        self.extra_files = {CARD: self._card}

    def file_names(self, part: FileRange) -> list[str]:
        return [f"data/train-{part.number:05d}-of-{part.total:05d}.parquet"]

    def convert(self, rows: pa.Table) -> FileContents:
        return FileContents(rows.cast(self._schema).replace_schema_metadata(self._metadata))

    def _card(self, contents: Mapping[str, Any]) -> bytes:
        features = [{"name": field.name, **yaml_feature(field.type, self._names[field.name])} for field in self._schema]
        return card(self._schema, self._kept, features, contents).encode()

    def _type(self, field: pa.Field) -> pa.DataType:
        """The type in which `datasets` stores the column: int64 for ClassLabel, no dictionaries."""
        if self._names[field.name]:
            return pa.list_(pa.int64())
        return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def json_feature(arrow_type: pa.DataType, names: list[str]) -> dict[str, Any]:
    """The feature in `datasets`' JSON form, for the Parquet footer; `names` are the class names of a list of ids.

    Raises OutputError.
    """
    if pa.types.is_struct(arrow_type):
        return {field.name: json_feature(field.type, []) for field in arrow_type.fields}
    if pa.types.is_large_list(arrow_type):
        return {"_type": "LargeList", "feature": json_feature(arrow_type.value_type, [])}
    if not _is_list(arrow_type):
        return {"_type": "Value", "dtype": _dtype(arrow_type)}
    inner = {"_type": "ClassLabel", "names": names} if names else json_feature(arrow_type.value_type, [])
    return {"_type": "List", "feature": inner, **_length(arrow_type)}


def yaml_feature(arrow_type: pa.DataType, names: list[str]) -> dict[str, Any]:
    """The same feature in `datasets`' YAML form, for the data set card."""
    if pa.types.is_struct(arrow_type):
        return {"struct": [{"name": field.name, **yaml_feature(field.type, [])} for field in arrow_type.fields]}
    if not (_is_list(arrow_type) or pa.types.is_large_list(arrow_type)):
        return {"dtype": _dtype(arrow_type)}
    if names:
        return {"list": {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}}}
    inner = yaml_feature(arrow_type.value_type, [])
    item = inner.get("dtype") or inner.get("struct") or inner
    return {"large_list" if pa.types.is_large_list(arrow_type) else "list": item, **_length(arrow_type)}


def _is_list(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_list(arrow_type) or pa.types.is_fixed_size_list(arrow_type))


def _length(arrow_type: pa.DataType) -> dict[str, int]:
    return {"length": arrow_type.list_size} if pa.types.is_fixed_size_list(arrow_type) else {}


def _dtype(arrow_type: pa.DataType) -> str:
    """The name in `datasets` of a type that is not nested: Arrow's name, with a few exceptions. Raises OutputError."""
    unsupported = (pa.types.is_nested, pa.types.is_fixed_size_binary, pa.types.is_dictionary)
    if any(is_type(arrow_type) for is_type in unsupported):
        raise OutputError(f"a column is {arrow_type}: `datasets` has no feature for it", "remove it from source.keep")
    return _DTYPES.get(str(arrow_type), str(arrow_type))
