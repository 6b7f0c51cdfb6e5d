"""Data sets of the `datasets` library: from the hub, from local folders, or saved with save_to_disk.

A shard is one shard of the library's IterableDataset. It is streamed, and its images stay encoded.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from jobs.config import DatasetConfig, SourceConfig
from jobs.errors import SourceError, StorageError
from jobs.sources import BLOCK_ROWS, Layout, ReadUnit, Shard, Source
from jobs.sources.batches import selected_mask, to_raw
from jobs.sources.columns import layout_from_columns
from jobs.sources.row_filter import RowFilter
from jobs.sources.selection import describe_selection
from jobs.storage import Entry, hub

_SAVED = "dataset_info.json"  # written by save_to_disk
_SHARD = re.compile(r".*-(\d+)-of-(\d+)")


def discover(config: SourceConfig) -> Source:
    """List the shards and choose the layout. Raises SourceError if the data set cannot be opened or lacks a column."""
    assert config.dataset is not None
    if config.format not in ("auto", "dataset"):
        raise SourceError(f"source.format is {config.format}, but source.dataset is set", "set source.format: auto")
    dataset = _pin(config.dataset)
    opened = _open(dataset)
    if opened.features is None:
        opened = opened._resolve_features()  # infer them from the first rows
    layout = layout_from_columns(_keep_encoded(opened).features.arrow_schema, dataset.name, config)
    layout = replace(layout, format="dataset", dataset=dataset)
    count = opened.num_shards
    shards = [Shard(f"{dataset.split}-{i:05}-of-{count:05}", Entry(dataset.name, 0)) for i in range(count)]
    if config.limit is not None:
        shards = _apply_limit(layout, shards, config.limit)
    shard_count = f"{count} shard{'s' * (count != 1)}"
    images = f"images from {layout.image_names[0]}"
    text = f"text from {layout.text_names[0]}" if layout.text_names else "no text"
    parts = [dataset.name, f"split {dataset.split}", shard_count, images, text, *describe_selection(config)]
    decided = config.model_copy(update={"dataset": dataset, "format": "dataset"})
    return Source(layout, tuple(shards), ", ".join(parts), decided)


def read(layout: Layout, unit: ReadUnit) -> Iterator[pa.Table]:
    """Yield the shard's rows, then its end marker. Raises StorageError if its files cannot be read."""
    at, row_filter = 0, RowFilter(layout, unit)
    for batch in _batches(layout, unit.shard):
        selected = selected_mask(pa.Table.from_batches([batch]), layout, unit.shard, at)
        yield row_filter.apply(at, selected, to_raw(_with_bytes(batch, layout, selected), layout, unit.shard, at))
        at += batch.num_rows
    yield row_filter.end(at, at)


def _apply_limit(layout: Layout, shards: list[Shard], limit: int) -> list[Shard]:
    kept: list[Shard] = []
    for shard in shards:
        at = 0
        for batch in _batches(layout, shard):
            rows = np.flatnonzero(selected_mask(pa.Table.from_batches([batch]), layout, shard, at))
            if rows.size >= limit:
                return [*kept, replace(shard, max_rows=at + int(rows[limit - 1]) + 1)]
            limit, at = limit - rows.size, at + batch.num_rows
        kept.append(shard)
    return kept


def _batches(layout: Layout, shard: Shard) -> Iterator[pa.RecordBatch]:
    match = _SHARD.fullmatch(shard.name)
    assert match, shard.name
    assert layout.dataset is not None
    remaining = shard.max_rows
    try:
        stream = _keep_encoded(_open(layout.dataset)).shard(num_shards=int(match[2]), index=int(match[1]))
        for table in stream.with_format("arrow").iter(batch_size=BLOCK_ROWS):
            (batch,) = table.slice(0, remaining).combine_chunks().to_batches() or (None,)
            if batch is None:
                return
            remaining = None if remaining is None else remaining - batch.num_rows
            yield batch
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise StorageError(
            f"{layout.dataset.name}, shard {shard.name}: {exc!s:.200}", "check that the datasets library can read it"
        ) from exc


def _with_bytes(batch: pa.RecordBatch, layout: Layout, selected: Any) -> pa.RecordBatch:
    """Read the image files that selected rows only name, as rows of an image folder do."""
    column = batch.column(layout.image_names[0])
    if not layout.image_field or column.type.get_field_index("path") < 0:
        return batch
    images = column.to_pylist()
    if all(image is None or image["bytes"] is not None for image in images):
        return batch
    assert layout.dataset is not None
    read = [
        {**image, "bytes": _read_file(image["path"], layout.dataset)}
        if is_selected and image and image["bytes"] is None
        else image
        for image, is_selected in zip(images, selected, strict=True)
    ]
    at = batch.schema.get_field_index(layout.image_names[0])
    return batch.set_column(at, batch.schema.field(at), pa.array(read, column.type))


def _read_file(path: str | None, dataset: DatasetConfig) -> bytes | None:
    """Read a file of the data set. None, which becomes a reject, if it is missing or outside the data set: the path is
    untrusted input, which could name any file of this machine or any host in its network."""
    if path is None or not _is_inside(path.rpartition("::")[2], dataset):
        return None
    try:
        with fsspec.open(path) as file:
            return bytes(file.read())
    except (OSError, ValueError):
        return None


def _is_inside(path: str, dataset: DatasetConfig) -> bool:
    """Whether the path is in the data set's folder, or in its repository at the pinned commit."""
    if path.startswith(hub.SCHEME):
        return path.startswith(f"{hub.SCHEME}datasets/{dataset.name}@{dataset.revision}/")
    if "://" in path.removeprefix("file://"):
        return False
    folder = os.path.realpath(dataset.name)
    return os.path.realpath(path.removeprefix("file://")).startswith(folder + os.sep)


def _keep_encoded(opened: Any) -> Any:
    """The data set with encoded images: the library must not decode them."""
    from datasets import Image

    names = [name for name, kind in (opened.features or {}).items() if isinstance(kind, Image)]
    for name in names:
        opened = opened.cast_column(name, Image(decode=False))
    return opened


def _pin(dataset: DatasetConfig) -> DatasetConfig:
    """An absolute folder, or the commit of a data set on the hub. Raises SourceError."""
    if os.path.isdir(os.path.expanduser(dataset.name)):
        return dataset.model_copy(update={"name": os.path.abspath(os.path.expanduser(dataset.name))})
    try:
        path = hub.pin_to_commit(
            f"{hub.SCHEME}datasets/{dataset.name}{f'@{dataset.revision}' if dataset.revision else ''}"
        )
    except StorageError as exc:
        raise SourceError(f"source.dataset: {exc.message}", exc.hint) from exc
    return dataset.model_copy(update={"revision": path.rpartition("@")[2]})


def _open(dataset: DatasetConfig) -> Any:
    """Open the data set as an IterableDataset. Raises SourceError."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if os.path.isdir(dataset.name) and _is_saved(dataset.name):
            return _open_saved(datasets.load_from_disk(dataset.name), dataset)
        return datasets.load_dataset(
            dataset.name, dataset.config, split=dataset.split, revision=dataset.revision, streaming=True
        )
    except (OSError, ValueError, LookupError, RuntimeError, pa.ArrowException) as exc:
        message = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        hint = "datasets.load_dataset(name, config, split=split, streaming=True) must be able to open it"
        raise SourceError(f"source.dataset: {dataset.name}, split {dataset.split}: {message:.300}", hint) from exc


def _is_saved(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in (_SAVED, "dataset_dict.json"))


def _open_saved(found: Any, dataset: DatasetConfig) -> Any:
    if isinstance(found, dict):
        if dataset.split not in found:
            raise LookupError(f"no such split; it has {', '.join(found)}")
        found = found[dataset.split]
    files = {file["filename"] for file in found.cache_files}
    return found.to_iterable_dataset(num_shards=max(1, len(files)))
