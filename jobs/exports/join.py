"""Adds the results of an output to the metadata of its corpus: Parquet shards with ids, or urls and texts.

Metadata keeps its files, rows, order and columns, and gains the columns of the results, null where a row has none.
It is read in batches; results are put on this machine's disk first (jobs.spool), so neither has to fit in memory.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.errors import ConfigError, OutputError, SourceError, StorageError
from jobs.exports.key_index import ABSENT, AMBIGUOUS, KeyIndex
from jobs.exports.target import ExportFolder, FileStats, ThrottledLog, describe
from jobs.log import say
from jobs.output import footer
from jobs.output.finished import FinishedOutput
from jobs.storage import Entry, Storage
from jobs.storage.paths import absolute, fixed_folder, join_path

ROWS = 16_384  # of metadata at once: 42 MB of both embeddings
_BUFFER = 8 << 20  # bytes of a metadata column read at once; its row groups may be a gigabyte
MATCHED, UNMATCHED, MANY = "matched", "unmatched", "ambiguous"


@dataclass(frozen=True)
class File:
    """One file of metadata, as its footer describes it."""

    entry: Entry
    rows: int
    columns: pa.Schema


@dataclass(frozen=True)
class JoinKey:
    """Which columns of the output's rows and of the metadata tell that two rows are one; `said` names them."""

    rows: list[str]
    metadata: list[str]
    said: str


@dataclass(frozen=True)
class Joined:
    """What became of the metadata's rows; `fresh` where this call completed it."""

    path: str
    by: str
    files: int
    counts: dict[str, int]
    fresh: bool

    def __str__(self) -> str:
        already = "" if self.fresh else "already complete: "
        total = sum(self.counts.values())
        lines = [f"{already}{total:,} rows of metadata in {self.files:,} files in {self.path}, joined by {self.by}"]
        why = {MATCHED: "have their result", UNMATCHED: "have none", MANY: "have several that differ, and got none"}
        return "\n".join(lines + [f"  {name:9} {self.counts[name]:>13,}  {said}" for name, said in why.items()])


def join(output: str, metadata: str, to: str, columns: Sequence[str] = ()) -> Joined:
    """Make what is missing of the joined files, prove their counts, and say what matched. Raises JobError."""
    finished = FinishedOutput.open(output)
    results = _chosen(finished, columns)
    files = _files(finished.storage, metadata)
    first = next(iter(files.values())).columns
    by = _by(finished, first, metadata)
    for file in files.values():
        _check(file, first, by, results)
    about = {"form": "join", "by": by.said, "columns": results, "metadata": _digest(files)}
    target = ExportFolder.of(finished, to, about, inputs=[metadata])
    said = target.finished()
    if said is not None:
        return Joined(to, by.said, said["files"], said["counts"], fresh=False)
    counts = target.there(files)
    missing = {name: file for name, file in files.items() if name not in counts}
    if missing:
        say("join", f"by {by.said}: {' and '.join(by.metadata)} of the metadata, {' and '.join(by.rows)} of the output")
        counts |= _write(finished, target, missing, by, results)
    held = target.held(files)
    for name, file in files.items():
        if not held.get(name, FileStats()).rows == sum(counts[name].values()) == file.rows:
            raise OutputError(
                f"{join_path(to, name)}: has not the rows of {file.entry.path}", "delete it and run again"
            )
    total = {name: sum(count[name] for count in counts.values()) for name in (MATCHED, UNMATCHED, MANY)}
    target.finish({"counts": total, "files": len(files), **describe(finished)})
    return Joined(to, by.said, len(files), total, fresh=True)


def _chosen(finished: FinishedOutput, columns: Sequence[str]) -> list[str]:
    if unknown := [name for name in columns if name not in finished.results]:
        raise ConfigError(f"--columns {unknown[0]}: no such result", f"the results: {', '.join(finished.results)}")
    return list(dict.fromkeys(columns)) or finished.results


def _files(storage: Storage, metadata: str) -> dict[str, File]:
    """The metadata's Parquet files by their names below the folder; markers and hidden files are skipped."""
    found: dict[str, Entry] = {}
    entries = storage.find(metadata)
    folder = absolute(metadata)
    base = folder if any(entry.path.startswith(f"{folder}/") for entry in entries) else fixed_folder(metadata)
    for entry in entries:
        inside = entry.path.startswith(f"{base}/")
        name = entry.path[len(base) + 1 :] if inside else entry.path.rpartition("/")[2]
        if name.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in name.split("/")):
            found[name] = entry
    if not found:
        raise SourceError(f"{metadata}: no Parquet files there", "name COYO's metadata: a folder, a file or a glob")
    footers = footer.read_footers(storage, found.values(), _damaged)
    return {
        name: File(found[name], parquet.num_rows, parquet.schema.to_arrow_schema())
        for name, parquet in zip(found, footers, strict=True)
    }


def _damaged(entry: Entry, exc: Exception) -> SourceError:
    return SourceError(f"{entry.path}: cannot be read as Parquet: {exc}", "fetch it again")


def _digest(files: Mapping[str, File]) -> str:
    sizes = {name: file.entry.size for name, file in files.items()}
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]


def _by(finished: FinishedOutput, columns: pa.Schema, metadata: str) -> JoinKey:
    """Ids if both have them, else urls, with the texts if both have those. Raises SourceError."""
    ids = [(name, name) for name in finished.config.source.keep if name in schema.KEY_NAMES]
    ids += [(schema.KEY, name) for name in _keys(finished.key_column)]
    some = finished.read(0, min(finished.count, ROWS), list({ours for ours, _ in ids}))
    if pair := _first([pair for pair in ids if some.column(pair[0]).null_count == 0], finished.schema, columns):
        return JoinKey([pair[0]], [pair[1]], "id")
    urls = _first([(one, other) for one in schema.URL_NAMES for other in schema.URL_NAMES], finished.schema, columns)
    if urls is None:
        raise SourceError(
            f"{metadata}: nothing to join by: its columns are {', '.join(columns.names)}, those of the output "
            f"{', '.join(finished.schema.names)}",
            "both need the id or the url: source.keep copies columns to the output",
        )
    names = (finished.config.source.text_column, *schema.TEXT_NAMES)
    texts = _first([(finished.texts or "", name) for name in names], finished.schema, columns)
    if texts is None:
        say("join", "the texts are not in both, so rows are told apart by their urls alone (source.keep keeps texts)")
        return JoinKey([urls[0]], [urls[1]], "url")
    return JoinKey([urls[0], texts[0]], [urls[1], texts[1]], "url and text")


def _keys(named: str | None) -> tuple[str, ...]:
    """What the metadata may call the output's key: as the source did, which may have had an `id` beside its `key`."""
    if named is None:
        return schema.KEY_NAMES
    return (named, schema.KEY_NAMES[0]) if named == "__key__" else (named,)  # as img2dataset calls it


def _first(pairs: Sequence[tuple[str, str]], rows: pa.Schema, columns: pa.Schema) -> tuple[str, str] | None:
    """The first pair of columns that are in both and of one kind."""
    for ours, theirs in pairs:
        both = ours in rows.names and theirs in columns.names
        if both and schema.kind(rows.field(ours).type) == schema.kind(columns.field(theirs).type):
            return ours, theirs
    return None


def _check(file: File, first: pa.Schema, by: JoinKey, results: Sequence[str]) -> None:
    for name in by.metadata:
        wanted = schema.kind(first.field(name).type)
        if name not in file.columns.names or schema.kind(file.columns.field(name).type) != wanted:
            raise SourceError(
                f"{file.entry.path}: no column {name!r} of {wanted}, which the first file has", "join it by itself"
            )
    if taken := [name for name in results if name in file.columns.names]:
        raise SourceError(f"{file.entry.path}: has a column {taken[0]!r} already", "--columns names the results to add")


def _write(
    finished: FinishedOutput, target: ExportFolder, files: Mapping[str, File], by: JoinKey, results: list[str]
) -> dict[str, dict[str, int]]:
    """Write these files; what became of the rows of each."""
    counts = {}
    pace = ThrottledLog("join")
    with tempfile.TemporaryDirectory(prefix="coyo-join-") as folder:
        try:
            spool = KeyIndex(Path(folder), _results(finished, [*by.rows, *results], pace), by.rows)
        except OSError as exc:
            hint = "TMPDIR names the folder for the results; they need room there as they are in memory"
            raise StorageError(f"{folder}: {exc}", hint) from exc
        for done, (name, file) in enumerate(files.items(), 1):
            counts[name] = _write_one(finished, target, name, file, by, spool)
            pace.say(f"{done:,} of {len(files):,} files written")
    return counts


def _results(finished: FinishedOutput, columns: list[str], pace: ThrottledLog) -> Iterator[pa.Table]:
    for index, table in enumerate(finished.tables(columns, ROWS)):
        pace.say(f"{index * ROWS:,} of {finished.count:,} results are on this machine's disk")
        yield table


def _write_one(
    finished: FinishedOutput, target: ExportFolder, name: str, file: File, by: JoinKey, spool: KeyIndex
) -> dict[str, int]:
    counts = dict.fromkeys((MATCHED, UNMATCHED, MANY), 0)
    columns = pa.schema([*file.columns, *spool.schema], {**(file.columns.metadata or {}), **_names(finished)})
    with (
        finished.storage.writing(join_path(target.path, name)) as stream,
        pq.ParquetWriter(stream, columns, **footer.parquet_options(columns)) as writer,
    ):
        for rows in _batches(finished.storage, file):
            found = spool.find(rows.select(by.metadata))
            counts[UNMATCHED] += int(np.count_nonzero(found == ABSENT))
            counts[MANY] += int(np.count_nonzero(found == AMBIGUOUS))
            counts[MATCHED] += int(np.count_nonzero(found >= 0))
            results = spool.take(found)
            writer.write_table(pa.Table.from_arrays([*rows.columns, *results.columns], schema=columns))
        writer.add_key_value_metadata(target.metadata(**counts))
    return counts


def _batches(storage: Storage, file: File) -> Iterator[pa.Table]:
    try:
        opened = pq.ParquetFile(storage.open(file.entry), pre_buffer=False, buffer_size=_BUFFER)
        for batch in opened.iter_batches(ROWS):
            yield pa.table(batch)
    except (OSError, pa.ArrowException) as exc:
        raise _damaged(file.entry, exc) from exc


def _names(finished: FinishedOutput) -> dict[bytes, bytes]:
    """What makes sense of the results' numbers: the models, and the names of classes."""
    wanted = {schema.MODELS.encode(), *(name.encode() for name in schema.CLASS_NAMES.values())}
    return {name: value for name, value in (finished.schema.metadata or {}).items() if name in wanted}
