"""List the input once, and decide its format, shards and layout before any model loads."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from jobs.config import FetchConfig, SourceConfig
from jobs.errors import SourceError, StorageError
from jobs.sources import Layout, ReadUnit, Shard, Source, parquet, streamed, urls, webdataset
from jobs.sources.selection import describe_selection
from jobs.storage import Entry, Storage
from jobs.storage.paths import absolute, base_folder

_SUFFIXES = {"parquet": (".parquet",), "urls": (".parquet",), "webdataset": (".tar", ".tar.gz", ".tgz")}


def discover(storage: Storage, config: SourceConfig) -> Source:
    """List the source and decide how to read it. Raises SourceError if it is empty or lacks a column."""
    if config.dataset is not None:
        return streamed.discover(config)
    config = _pin_paths(storage, config)
    listed = _list_shards(storage, config)
    tars = _with_suffix(listed, "webdataset")
    stems = {_stem(shard.name): shard.name for shard in tars}
    tables = _with_suffix(listed, "parquet")
    sidecars = {stems[_stem(table.name)]: table.entry for table in tables if _stem(table.name) in stems}
    tables = [table for table in tables if _stem(table.name) not in stems]
    form = _choose_format(config, tars, tables, listed)
    shards = tars if form == "webdataset" else tables
    if form == "webdataset":
        layout = webdataset.choose_layout(storage, shards, sidecars, config)
    else:
        layout = parquet.choose_layout(storage, shards, config)
    if config.limit is not None:
        shards = _apply_limit(storage, layout, shards, config.limit)
    decided = config.model_copy(update={"format": layout.format})
    return Source(layout, tuple(shards), _describe(layout, shards, len(sidecars), config), decided)


def read(storage: Storage, layout: Layout, unit: ReadUnit, fetch: FetchConfig | None = None) -> Iterator[pa.Table]:
    """Yield the unit's raw rows as tables with the layout's schema. Without `fetch`, urls are not downloaded."""
    if layout.format == "urls" and fetch is not None:
        return urls.fetch_images(parquet.read(storage, layout, unit), fetch)
    if layout.dataset is not None:
        return streamed.read(layout, unit)
    reader = {"parquet": parquet.read, "urls": parquet.read, "webdataset": webdataset.read}[layout.format]
    return reader(storage, layout, unit)


def _apply_limit(storage: Storage, layout: Layout, shards: Sequence[Shard], limit: int) -> list[Shard]:
    """The shards with the first `limit` selected rows; the last one ends with the last of these rows."""
    kept: list[Shard] = []
    selected_rows = {"webdataset": webdataset.selected_rows}.get(layout.format, parquet.selected_rows)
    for shard in shards:
        for row in selected_rows(storage, layout, shard):
            limit -= 1
            if limit == 0:
                return [*kept, replace(shard, max_rows=row + 1)]
        kept.append(shard)
    return kept


def _pin_paths(storage: Storage, config: SourceConfig) -> SourceConfig:
    try:
        pinned = tuple(storage.pin(path) for path in config.paths)
    except StorageError as exc:
        raise SourceError(f"source.path: {exc.message}", exc.hint) from exc
    return config.model_copy(update={"path": pinned[0] if isinstance(config.path, str) else pinned})


def _list_shards(storage: Storage, config: SourceConfig) -> list[Shard]:
    """Every visible object below the paths, once, sorted by name."""
    several = not isinstance(config.path, str)
    shards: dict[str, Shard] = {}
    for path in config.paths:
        try:
            entries = storage.find(path)
        except StorageError as exc:
            raise SourceError(f"source.path: {exc.message}", exc.hint) from exc
        if not entries:
            raise SourceError(f"source.path: no files at {path}", "check the names of the bucket and the folder")
        literal = absolute(path)  # an existing folder may have pattern characters in its name
        base = literal if entries[0].path.startswith(f"{literal}/") else base_folder(path)
        for entry in entries:
            name = entry.path if several else _name(entry, base)
            if not _hidden(_name(entry, base)):
                shards[_check_utf8(name)] = Shard(name, entry)
    return sorted(shards.values(), key=lambda shard: shard.name)


def _check_utf8(name: str) -> str:
    """Return the name. Raises SourceError if it is not UTF-8 and so cannot be stored in the output."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise SourceError(f"{os.fsencode(name)!r}: the file name is not UTF-8", "rename the file") from exc
    return name


def _name(entry: Entry, base: str) -> str:
    inside = entry.path.startswith(base.rstrip("/") + "/")
    return entry.path[len(base.rstrip("/")) + 1 :] if inside else os.path.basename(entry.path)


def _hidden(name: str) -> bool:
    """Whether this is a marker, temporary or statistics file: `_SUCCESS`, `_tmp/...`, `.part`, `00000_stats.json`."""
    return any(part.startswith(("_", ".")) for part in name.split("/")) or name.endswith("_stats.json")


def _with_suffix(listed: Sequence[Shard], form: str) -> list[Shard]:
    return [shard for shard in listed if shard.name.lower().endswith(_SUFFIXES[form])]


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _choose_format(config: SourceConfig, tars: list[Shard], tables: list[Shard], listed: list[Shard]) -> str:
    candidates = {"parquet": tables, "urls": tables, "webdataset": tars}
    if config.format != "auto":
        if not candidates[config.format]:
            endings = " or ".join(_SUFFIXES[config.format])
            raise SourceError(f"source.path: no {endings} files at {config.path}", _describe_files(listed))
        return config.format
    if tars and tables:
        raise SourceError(
            f"source.path: {config.path} holds {len(tars)} tars and {len(tables)} Parquet files",
            "set source.format to parquet, urls or webdataset, or select one kind: *.tar",
        )
    if not tars and not tables:
        raise SourceError(f"source.path: no .parquet or .tar files at {config.path}", _describe_files(listed))
    return "webdataset" if tars else "parquet"


def _describe_files(listed: list[Shard]) -> str:
    kinds = Counter(os.path.splitext(shard.name)[1] or "(no ending)" for shard in listed)
    return "found " + (", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)) or "only markers") + " there"


def _describe(layout: Layout, shards: Sequence[Shard], sidecars: int, config: SourceConfig) -> str:
    size = sum(shard.entry.size for shard in shards) / 1e9
    column = ".".join(filter(None, (layout.image_names[0], layout.image_field)))
    image = {"webdataset": "the image members", "urls": f"the urls in {column}"}.get(layout.format, column)
    parts = [f"{len(shards)} {layout.format} shard{'s' * (len(shards) != 1)}, {size:.3g} GB, images from {image}"]
    parts.append(f"text from {' or '.join(layout.text_names)}" if layout.text_names else "no text")
    parts.append(f"ids from {layout.key}" if layout.key else "no ids")
    parts += describe_selection(config)
    if sidecars:
        parts.append(f"{sidecars} sidecars skipped")
    return ", ".join(parts)
