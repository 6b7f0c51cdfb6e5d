"""One listing of the input decides its format, its shards and its layout, before any model loads."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from jobs.config import FetchConfig, SourceConfig
from jobs.errors import SourceError, StorageError
from jobs.sources import Layout, Shard, Source, Unit, parquet, streamed, urls, webdataset
from jobs.sources.selection import chosen
from jobs.storage import Entry, Storage
from jobs.storage.paths import absolute, fixed_folder

_SUFFIXES = {"parquet": (".parquet",), "urls": (".parquet",), "webdataset": (".tar", ".tar.gz", ".tgz")}


def discover(storage: Storage, config: SourceConfig) -> Source:
    """List, decide, describe. Raises SourceError when there is nothing to read or a column is not there."""
    if config.dataset is not None:
        return streamed.describe(config)
    config = _pinned(storage, config)
    listed = _listed(storage, config)
    tars = _ending(listed, "webdataset")
    stems = {_stem(shard.name): shard.name for shard in tars}
    tables = _ending(listed, "parquet")
    sidecars = {stems[_stem(table.name)]: table.entry for table in tables if _stem(table.name) in stems}
    tables = [table for table in tables if _stem(table.name) not in stems]
    form = _format(config, tars, tables, listed)
    shards = tars if form == "webdataset" else tables
    if form == "webdataset":
        layout = webdataset.describe(storage, shards, sidecars, config)
    else:
        layout = parquet.describe(storage, shards, config)
    if config.limit is not None:
        shards = _first(storage, layout, shards, config.limit)
    decided = config.model_copy(update={"format": layout.format})
    return Source(layout, tuple(shards), _say(layout, shards, len(sidecars), config), decided)


def read(storage: Storage, layout: Layout, unit: Unit, fetch: FetchConfig | None = None) -> Iterator[pa.Table]:
    """Raw rows of one unit, in the schema of the layout. Without `fetch`, urls stay urls."""
    if layout.format == "urls" and fetch is not None:
        return urls.fetched(parquet.read(storage, layout, unit), fetch)
    if layout.dataset is not None:
        return streamed.read(layout, unit)
    reader = {"parquet": parquet.read, "urls": parquet.read, "webdataset": webdataset.read}[layout.format]
    return reader(storage, layout, unit)


def _first(storage: Storage, layout: Layout, shards: Sequence[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` selected rows; the last one counts as ending with the last of them."""
    first: list[Shard] = []
    rows = {"webdataset": webdataset.selected}.get(layout.format, parquet.selected)
    for shard in shards:
        for row in rows(storage, layout, shard):
            limit -= 1
            if limit == 0:
                return [*first, replace(shard, until=row + 1)]
        first.append(shard)
    return first


def _pinned(storage: Storage, config: SourceConfig) -> SourceConfig:
    try:
        pinned = tuple(storage.pinned(path) for path in config.paths)
    except StorageError as exc:
        raise SourceError(f"source.path: {exc.message}", exc.hint) from exc
    return config.model_copy(update={"path": pinned[0] if isinstance(config.path, str) else pinned})


def _listed(storage: Storage, config: SourceConfig) -> list[Shard]:
    """Every object below the paths that could be a shard, once, sorted by name."""
    several = not isinstance(config.path, str)
    found: dict[str, Shard] = {}
    for path in config.paths:
        try:
            entries = storage.find(path)
        except StorageError as exc:
            raise SourceError(f"source.path: {exc.message}", exc.hint) from exc
        if not entries:
            raise SourceError(f"source.path: nothing at {path}", "check the bucket and the folder's name")
        literal = absolute(path)  # a folder may be called like a pattern
        base = literal if entries[0].path.startswith(f"{literal}/") else fixed_folder(path)
        for entry in entries:
            name = entry.path if several else _name(entry, base)
            if not _hidden(_name(entry, base)):
                found[_text(name)] = Shard(name, entry)
    return sorted(found.values(), key=lambda shard: shard.name)


def _text(name: str) -> str:
    """The same. Raises SourceError for one that no output can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise SourceError(f"{os.fsencode(name)!r}: its name is not UTF-8", "rename it") from exc
    return name


def _name(entry: Entry, base: str) -> str:
    inside = entry.path.startswith(base.rstrip("/") + "/")
    return entry.path[len(base.rstrip("/")) + 1 :] if inside else os.path.basename(entry.path)


def _hidden(name: str) -> bool:
    """Markers, temporary folders and statistics: `_SUCCESS`, `_tmp/...`, `.part`, `00000_stats.json`."""
    return any(part.startswith(("_", ".")) for part in name.split("/")) or name.endswith("_stats.json")


def _ending(listed: Sequence[Shard], form: str) -> list[Shard]:
    return [shard for shard in listed if shard.name.lower().endswith(_SUFFIXES[form])]


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _format(config: SourceConfig, tars: list[Shard], tables: list[Shard], listed: list[Shard]) -> str:
    wanted = {"parquet": tables, "urls": tables, "webdataset": tars}
    if config.format != "auto":
        if not wanted[config.format]:
            endings = " or ".join(_SUFFIXES[config.format])
            raise SourceError(f"source.path: no {endings} files at {config.path}", _seen(listed))
        return config.format
    if tars and tables:
        raise SourceError(
            f"source.path: {config.path} holds {len(tars)} tars and {len(tables)} Parquet files",
            "set source.format to parquet, urls or webdataset, or name one kind: *.tar",
        )
    if not tars and not tables:
        raise SourceError(f"source.path: no .parquet or .tar files at {config.path}", _seen(listed))
    return "webdataset" if tars else "parquet"


def _seen(listed: list[Shard]) -> str:
    kinds = Counter(os.path.splitext(shard.name)[1] or "(no ending)" for shard in listed)
    return "found " + (", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)) or "only markers") + " there"


def _say(layout: Layout, shards: Sequence[Shard], sidecars: int, config: SourceConfig) -> str:
    size = sum(shard.entry.size for shard in shards) / 1e9
    column = ".".join(filter(None, (layout.images[0], layout.leaf)))
    image = {"webdataset": "the image members", "urls": f"the urls in {column}"}.get(layout.format, column)
    parts = [f"{len(shards)} {layout.format} shard{'s' * (len(shards) != 1)}, {size:.3g} GB, images from {image}"]
    parts.append(f"text from {' or '.join(layout.texts)}" if layout.texts else "no text")
    parts.append(f"ids from {layout.key}" if layout.key else "no ids")
    parts += chosen(config)
    if sidecars:
        parts.append(f"{sidecars} sidecars skipped")
    return ", ".join(parts)
