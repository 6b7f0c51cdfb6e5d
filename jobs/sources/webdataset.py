"""WebDataset tars, as img2dataset writes them: KEY.jpg, KEY.json and KEY.txt, adjacent, in order of completion.

A sample is a run of consecutive members with one key: the member's path up to the first dot after its last slash. A tar
is streamed; row numbers count its samples in stored order.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs import schema
from jobs.config import SourceConfig
from jobs.errors import Reason, Reject, SourceError, Stage
from jobs.sources import BLOCK_BYTES, BLOCK_ROWS, Damaged, Layout, ReadUnit, Shard, choose_name
from jobs.sources.parquet import DAMAGE_ERRORS
from jobs.sources.row_filter import RowFilter
from jobs.sources.selection import Selection
from jobs.sources.tars import Sample, read_samples
from jobs.storage import Entry, Storage

PEEK = 64  # samples read to find the json fields and their types
_JSON_KINDS = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string,
)  # fmt: skip
_WHERE = "where"  # key in a row for the values of `where`, whose fields may be named like the row's columns
_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def choose_layout(
    storage: Storage, shards: Sequence[Shard], sidecars: Mapping[str, Entry], config: SourceConfig
) -> Layout:
    """The layout, from the first samples of the first readable tar and from its Parquet sidecar. Raises SourceError."""
    for shard in shards:
        samples = _peek(storage, shard)
        if samples:
            break
    else:
        raise SourceError(f"{config.path}: none of the {len(shards)} tars has a readable sample")
    suffixes = sorted({suffix for sample in samples for suffix in sample.members})
    images = schema.IMAGE_SUFFIXES if config.image_column == "auto" else (config.image_column,)
    if not set(images) & set(suffixes):
        raise SourceError(
            f"{shard.entry.path}: no member with image bytes among the first {len(samples)} samples",
            f"their suffixes: {', '.join(suffixes)}; set source.image_column to one of them",
        )
    fields = _json_fields(samples) | _sidecar_fields(storage, sidecars.get(shard.name))
    text = choose_name(config.text_column, reversed(schema.TEXT_NAMES), [*suffixes, *fields])
    if text is None and config.text_column != "auto":
        raise SourceError(f"{shard.entry.path}: no member or json field {config.text_column!r} (source.text_column)")
    for name in config.keep:
        if name not in fields:
            known = f"the json's fields: {', '.join(fields)}" if fields else "the tar has no json"
            raise SourceError(f"{shard.entry.path}: no json field {name!r} to keep (source.keep)", known)
    kept = tuple(pa.field(name, fields[name]) for name in config.keep)
    selection = Selection.from_config(config, fields, shard.entry.path)
    return Layout("webdataset", images, (text,) if text else (), "__key__", pa.string(), kept, selection=selection)


def read(storage: Storage, layout: Layout, unit: ReadUnit) -> Iterator[pa.Table]:
    """Yield the shard's samples, then its end marker, which describes the damage if the shard is damaged."""
    buffer = RowBuffer(layout, unit)
    damage = None
    try:
        for sample in itertools.islice(read_samples(storage, unit.shard.entry), unit.shard.max_rows):
            buffer.add(_to_row(sample, layout))
            if buffer.full:
                yield buffer.take()
    except Damaged as exc:
        damage = str(exc)
    yield buffer.take()
    yield from buffer.end(damage)


class RowBuffer:
    """Collects the rows of a tar into tables of bounded size, and filters them."""

    def __init__(self, layout: Layout, unit: ReadUnit) -> None:
        self._layout, self._shard = layout, unit.shard.name
        self._filter = RowFilter(layout, unit)
        self._first, self._bytes = 0, 0
        self._rows: list[dict[str, Any]] = []

    @property
    def full(self) -> bool:
        """Whether the buffered rows should be taken."""
        return self._bytes >= BLOCK_BYTES or len(self._rows) >= BLOCK_ROWS

    def add(self, row: dict[str, Any]) -> None:
        """Append the next row of the shard."""
        index = self._first + len(self._rows)
        self._rows.append({schema.SHARD: self._shard, schema.ROW: index, schema.SINCE: index, schema.END: False, **row})
        self._bytes += len(row.get(schema.IMAGE) or b"")

    def take(self) -> pa.Table:
        """Remove the buffered rows; return those to process."""
        rows, selection = self._rows, self._layout.selection
        columns = pa.Table.from_pylist([row.get(_WHERE, {}) for row in rows], schema=pa.schema(selection.fields))
        broken = np.array([row.get(schema.REASON) is not None for row in rows], bool)  # a reject has no values
        selected = selection.mask(self._shard, self._first, len(rows), columns, broken)
        table = self._filter.apply(self._first, selected, pa.Table.from_pylist(rows, schema=self._layout.schema))
        self._first, self._rows, self._bytes = self._first + len(rows), [], 0
        return table

    def end(self, damage: str | None) -> Iterator[pa.Table]:
        """Yield the end marker of the shard."""
        return self._filter.close(self._first, damage)


def selected_rows(storage: Storage, layout: Layout, shard: Shard) -> Iterator[int]:
    """Yield the numbers of the selected rows, in order. The tar is streamed only as far as the caller iterates."""
    for table in read(storage, layout, ReadUnit(shard)):
        rows = table.filter(pc.invert(table.column(schema.END)))
        yield from rows.column(schema.ROW).to_pylist()


def _to_row(sample: Sample, layout: Layout) -> dict[str, Any]:
    row: dict[str, Any] = {schema.KEY: sample.key}
    if sample.damage:
        return row | schema.reject(Stage.SOURCE, Reason.SHARD_DAMAGED, sample.damage)
    try:
        fields = layout.selection.fields
        record = _json(sample) if layout.kept or fields or layout.text_names else {}
        row |= {column.name: _convert(record, column) for column in layout.kept}
        row[_WHERE] = {column.name: _convert(record, column) for column in fields}
        row[schema.TEXT] = _text(sample, record, layout)
    except Reject as exc:
        return row | schema.reject(Stage.SOURCE, exc.reason, exc.message)
    image = next((sample.members[suffix] for suffix in layout.image_names if suffix in sample.members), None)
    if image is None:
        message = f"no image member; the sample has {', '.join(sample.members) or 'nothing'}"
        return row | schema.reject(Stage.SOURCE, Reason.NO_IMAGE, message)
    return row | {schema.IMAGE: image}


def _json(sample: Sample) -> dict[str, Any]:
    data = sample.members.get(schema.JSON_SUFFIX)
    if data is None:
        return {}
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as exc:  # RecursionError: deeply nested brackets
        raise Reject(Reason.BAD_METADATA, f"{sample.key}.{schema.JSON_SUFFIX} is not valid json: {exc}") from exc
    if not isinstance(record, dict):
        raise Reject(
            Reason.BAD_METADATA, f"{sample.key}.{schema.JSON_SUFFIX} is a {type(record).__name__}, not an object"
        )
    return record


def _text(sample: Sample, record: dict[str, Any], layout: Layout) -> str | None:
    for name in layout.text_names:
        try:
            if name in sample.members:
                return sample.members[name].decode()
            if isinstance(text := record.get(name), str):
                text.encode()  # a lone surrogate, "\\ud83d", is valid json but not UTF-8
                return text
        except UnicodeError as exc:
            raise Reject(Reason.BAD_METADATA, f"{sample.key}.{name} is not UTF-8: {exc}") from exc
    return None


def _convert(record: dict[str, Any], column: pa.Field) -> Any:
    value = record.get(column.name)
    try:
        if _is_text(column.type) and not isinstance(value, str | None):  # a field that was null in the first samples
            value = json.dumps(value, ensure_ascii=False)
        if pa.types.is_integer(column.type) and isinstance(value, float) and not value.is_integer():
            raise pa.ArrowInvalid(f"{value} is not a whole number")  # pyarrow would truncate it
        return pa.scalar(value, column.type).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError, RecursionError) as exc:
        raise Reject(Reason.BAD_METADATA, f"{column.name} is not {column.type}: {exc!s:.200}") from exc


def _peek(storage: Storage, shard: Shard) -> list[Sample]:
    peeked: list[Sample] = []
    with suppress(Damaged):  # reported when the shard is read
        for sample in itertools.islice(read_samples(storage, shard.entry), PEEK):
            peeked.append(sample)
    return [sample for sample in peeked if sample.damage is None]


def _json_fields(samples: Sequence[Sample]) -> dict[str, pa.DataType]:
    """Arrow types of the json fields: int64, float64, bool or string. Objects, lists, and fields that are null in all
    samples, become strings of json."""
    fields: dict[str, pa.DataType] = {}
    for sample in samples:
        try:
            record = _json(sample)
        except Reject:
            continue  # the row is rejected when it is read
        for name, value in record.items():
            kind = pa.null() if value is None else _TYPES.get(type(value), pa.string())
            previous = fields.get(name, pa.null())
            if {previous, kind} == {pa.int64(), pa.float64()}:
                fields[name] = pa.float64()
            elif pa.types.is_null(previous):
                fields[name] = kind
    return {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in fields.items()}


def _sidecar_fields(storage: Storage, sidecar: Entry | None) -> dict[str, pa.DataType]:
    """The types of img2dataset's Parquet sidecar, more exact than json's, for fields that json can express."""
    if sidecar is None:
        return {}
    try:
        columns = pq.read_schema(storage.open(sidecar))
    except DAMAGE_ERRORS:
        return {}
    return {column.name: column.type for column in columns if any(is_kind(column.type) for is_kind in _JSON_KINDS)}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
