"""Data sets as the `datasets` library streams them: from the hub, from folders of any kind it knows, or saved by it.

A shard is one of the pieces the library itself would hand to a reader; it is streamed, and its images stay encoded.
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
from jobs.sources import BLOCK_ROWS, Layout, Shard, Source, Unit
from jobs.sources.batches import raw_of, taken_of
from jobs.sources.columns import layout_of
from jobs.sources.row_filter import RowFilter
from jobs.sources.selection import chosen
from jobs.storage import Entry, hub

_SAVED = "dataset_info.json"  # what save_to_disk leaves beside its files
_SHARD = re.compile(r".*-(\d+)-of-(\d+)")


def describe(config: SourceConfig) -> Source:
    """Raises SourceError when the library cannot open it, or a column is not there."""
    assert config.dataset is not None
    if config.format not in ("auto", "dataset"):
        raise SourceError(f"source.format is {config.format}, but source.dataset names a data set", "leave it auto")
    wanted = _pinned(config.dataset)
    opened = _opened(wanted)
    if opened.features is None:
        opened = opened._resolve_features()  # from its first rows, where nothing declares them
    layout = layout_of(_encoded(opened).features.arrow_schema, wanted.name, config)
    layout = replace(layout, format="dataset", dataset=wanted)
    count = opened.num_shards
    shards = [Shard(f"{wanted.split}-{i:05}-of-{count:05}", Entry(wanted.name, 0)) for i in range(count)]
    if config.limit is not None:
        shards = _first(layout, shards, config.limit)
    said = f"{wanted.name}, split {wanted.split}, {count} shard{'s' * (count != 1)}, images from {layout.images[0]}"
    text = f"text from {layout.texts[0]}" if layout.texts else "no text"
    decided = config.model_copy(update={"dataset": wanted, "format": "dataset"})
    return Source(layout, tuple(shards), ", ".join([said, text, *chosen(config)]), decided)


def read(layout: Layout, unit: Unit) -> Iterator[pa.Table]:
    """The shard's rows, then its end. Raises StorageError when its files cannot be read."""
    at, row_filter = 0, RowFilter(layout, unit)
    for batch in _batches(layout, unit.shard):
        taken = taken_of(pa.Table.from_batches([batch]), layout, unit.shard, at)
        yield row_filter.apply(at, taken, raw_of(_with_bytes(batch, layout, taken), layout, unit.shard, at))
        at += batch.num_rows
    yield row_filter.end(at, at)


def _first(layout: Layout, shards: list[Shard], limit: int) -> list[Shard]:
    first: list[Shard] = []
    for shard in shards:
        at = 0
        for batch in _batches(layout, shard):
            places = np.flatnonzero(taken_of(pa.Table.from_batches([batch]), layout, shard, at))
            if places.size >= limit:
                return [*first, replace(shard, until=at + int(places[limit - 1]) + 1)]
            limit, at = limit - places.size, at + batch.num_rows
        first.append(shard)
    return first


def _batches(layout: Layout, shard: Shard) -> Iterator[pa.RecordBatch]:
    match = _SHARD.fullmatch(shard.name)
    assert match, shard.name
    assert layout.dataset is not None
    left = shard.until
    try:
        piece = _encoded(_opened(layout.dataset)).shard(num_shards=int(match[2]), index=int(match[1]))
        for table in piece.with_format("arrow").iter(batch_size=BLOCK_ROWS):
            (batch,) = table.slice(0, left).combine_chunks().to_batches() or (None,)
            if batch is None:
                return
            left = None if left is None else left - batch.num_rows
            yield batch
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise StorageError(f"{layout.dataset.name}, shard {shard.name}: {exc!s:.200}", "can datasets read it?") from exc


def _with_bytes(batch: pa.RecordBatch, layout: Layout, taken: Any) -> pa.RecordBatch:
    """Images that are only named, as in a folder of files, read; of rows that are not taken left out."""
    column = batch.column(layout.images[0])
    if not layout.leaf or column.type.get_field_index("path") < 0:
        return batch
    images = column.to_pylist()
    if all(image is None or image["bytes"] is not None for image in images):
        return batch
    assert layout.dataset is not None
    read = [
        {**image, "bytes": _file(image["path"], layout.dataset)}
        if wanted and image and image["bytes"] is None
        else image
        for image, wanted in zip(images, taken, strict=True)
    ]
    at = batch.schema.get_field_index(layout.images[0])
    return batch.set_column(at, batch.schema.field(at), pa.array(read, column.type))


def _file(path: str | None, dataset: DatasetConfig) -> bytes | None:
    """A file of the data set; None, and so a reject, for one that is not there, or lies anywhere else: what a row names
    is a stranger's input, and may be any file of this machine or any host of its network."""
    if path is None or not _inside(path.rpartition("::")[2], dataset):
        return None
    try:
        with fsspec.open(path) as file:
            return bytes(file.read())
    except (OSError, ValueError):
        return None


def _inside(place: str, dataset: DatasetConfig) -> bool:
    if place.startswith(hub.SCHEME):
        return place.startswith(f"{hub.SCHEME}datasets/{dataset.name}@{dataset.revision}/")
    if "://" in place.removeprefix("file://"):
        return False
    folder = os.path.realpath(dataset.name)
    return os.path.realpath(place.removeprefix("file://")).startswith(folder + os.sep)


def _encoded(opened: Any) -> Any:
    """The same, whose images are not decoded by the library."""
    from datasets import Image

    names = [name for name, kind in (opened.features or {}).items() if isinstance(kind, Image)]
    for name in names:
        opened = opened.cast_column(name, Image(decode=False))
    return opened


def _pinned(wanted: DatasetConfig) -> DatasetConfig:
    if os.path.isdir(os.path.expanduser(wanted.name)):
        return wanted.model_copy(update={"name": os.path.abspath(os.path.expanduser(wanted.name))})
    try:
        at = hub.pinned(f"{hub.SCHEME}datasets/{wanted.name}{f'@{wanted.revision}' if wanted.revision else ''}")
    except StorageError as exc:
        raise SourceError(f"source.dataset: {exc.message}", exc.hint) from exc
    return wanted.model_copy(update={"revision": at.rpartition("@")[2]})


def _opened(wanted: DatasetConfig) -> Any:
    """An IterableDataset. Raises SourceError."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if os.path.isdir(wanted.name) and _is_saved(wanted.name):
            return _saved(datasets.load_from_disk(wanted.name), wanted)
        return datasets.load_dataset(
            wanted.name, wanted.config, split=wanted.split, revision=wanted.revision, streaming=True
        )
    except (OSError, ValueError, LookupError, RuntimeError, pa.ArrowException) as exc:
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        hint = "datasets.load_dataset(name, config, split=split, streaming=True) must open it"
        raise SourceError(f"source.dataset: {wanted.name}, split {wanted.split}: {said:.300}", hint) from exc


def _is_saved(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in (_SAVED, "dataset_dict.json"))


def _saved(found: Any, wanted: DatasetConfig) -> Any:
    if isinstance(found, dict):
        if wanted.split not in found:
            raise LookupError(f"no such split, only {', '.join(found)}")
        found = found[wanted.split]
    files = {file["filename"] for file in found.cache_files}
    return found.to_iterable_dataset(num_shards=max(1, len(files)))
