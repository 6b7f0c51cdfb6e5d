"""Join the results of an output to the metadata of its corpus: Parquet files with ids, or with urls and texts.

The joined files have the metadata's names, rows, order and columns, and the result columns, null in rows without a
result. Neither side has to fit in memory: metadata is read in batches, results are indexed on disk (see key_index).
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
from jobs.exports import key_index
from jobs.exports.key_index import KeyIndex
from jobs.exports.target import ExportFolder, FileStats, ThrottledLog, describe
from jobs.log import say
from jobs.output import footer
from jobs.output.finished import FinishedOutput
from jobs.storage import Entry, Storage
from jobs.storage.paths import absolute, base_folder, join_path

ROWS = 16_384  # rows per batch: with both embeddings, 42 MB
_BUFFER = 8 << 20  # bytes per read of a metadata column: one of its row groups may be a gigabyte
MATCHED, UNMATCHED, AMBIGUOUS = "matched", "unmatched", "ambiguous"


@dataclass(frozen=True)
class MetadataFile:
    """One Parquet file of metadata, as its footer describes it."""

    entry: Entry
    rows: int
    columns: pa.Schema


@dataclass(frozen=True)
class JoinKey:
    """The columns that identify a row, in the output and in the metadata, in the same order.

    `description` is "id", "url" or "url and text".
    """

    output_columns: list[str]
    metadata_columns: list[str]
    description: str


@dataclass(frozen=True)
class JoinSummary:
    """A complete join: the rows of the metadata by outcome; `created` is True if this call completed it."""

    path: str
    by: str
    files: int
    counts: dict[str, int]
    created: bool

    def __str__(self) -> str:
        already = "" if self.created else "already complete: "
        total = sum(self.counts.values())
        lines = [f"{already}{total:,} rows of metadata in {self.files:,} files in {self.path}, joined by {self.by}"]
        outcomes = {
            MATCHED: "have a result",
            UNMATCHED: "have no result",
            AMBIGUOUS: "have several different results, and get none",
        }
        return "\n".join(lines + [f"  {name:9} {self.counts[name]:>13,}  {text}" for name, text in outcomes.items()])


def join(output: str, metadata: str, to: str, columns: Sequence[str] = ()) -> JoinSummary:
    """Write the joined files that are still missing, check all row counts, and write `_export.json`.

    `metadata` is a folder, a file or a glob; `columns` are the result columns to add, all of them by default. Raises
    ConfigError, SourceError, OutputError, StorageError.
    """
    finished = FinishedOutput.open(output)
    results = _result_columns(finished, columns)
    files = _list_files(finished.storage, metadata)
    first = next(iter(files.values())).columns
    key = _choose_key(finished, first, metadata)
    for file in files.values():
        _check_columns(file, first, key, results)
    by = key.description
    about = {"form": "join", "by": by, "columns": results, "metadata": _digest(files)}
    folder = ExportFolder.for_output(finished, to, about, inputs=[metadata])
    contents = folder.read_contents()
    if contents is not None:
        return JoinSummary(to, by, contents["files"], contents["counts"], created=False)
    counts = folder.complete_files(files)
    missing = {name: file for name, file in files.items() if name not in counts}
    if missing:
        theirs, ours = " and ".join(key.metadata_columns), " and ".join(key.output_columns)
        say("join", f"by {by}: {theirs} of the metadata, {ours} of the output")
        counts |= _write(finished, folder, missing, key, results)
    stats = folder.file_stats(files)
    for name, file in files.items():
        if not stats.get(name, FileStats()).rows == sum(counts[name].values()) == file.rows:
            raise OutputError(
                f"{join_path(to, name)}: does not have the rows of {file.entry.path}", "delete it and run again"
            )
    total = {name: sum(count[name] for count in counts.values()) for name in (MATCHED, UNMATCHED, AMBIGUOUS)}
    folder.write_contents({"counts": total, "files": len(files), **describe(finished)})
    return JoinSummary(to, by, len(files), total, created=True)


def _result_columns(finished: FinishedOutput, columns: Sequence[str]) -> list[str]:
    if unknown := [name for name in columns if name not in finished.result_columns]:
        raise ConfigError(
            f"--columns {unknown[0]}: no such result", f"the results: {', '.join(finished.result_columns)}"
        )
    return list(dict.fromkeys(columns)) or finished.result_columns


def _list_files(storage: Storage, metadata: str) -> dict[str, MetadataFile]:
    """The metadata's Parquet files, by path below the folder; without markers and hidden files."""
    entries_by_name: dict[str, Entry] = {}
    entries = storage.find(metadata)
    folder = absolute(metadata)
    base = folder if any(entry.path.startswith(f"{folder}/") for entry in entries) else base_folder(metadata)
    for entry in entries:
        inside = entry.path.startswith(f"{base}/")
        name = entry.path[len(base) + 1 :] if inside else entry.path.rpartition("/")[2]
        if name.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in name.split("/")):
            entries_by_name[name] = entry
    if not entries_by_name:
        raise SourceError(f"{metadata}: no Parquet files found", "name COYO's metadata: a folder, a file or a glob")
    footers = footer.read_footers(storage, entries_by_name.values(), _damaged)
    return {
        name: MetadataFile(entries_by_name[name], parquet.num_rows, parquet.schema.to_arrow_schema())
        for name, parquet in zip(entries_by_name, footers, strict=True)
    }


def _damaged(entry: Entry, exc: Exception) -> SourceError:
    return SourceError(f"{entry.path}: cannot be read as Parquet: {exc}", "download it again")


def _digest(files: Mapping[str, MetadataFile]) -> str:
    """A digest of the metadata's file names and sizes."""
    sizes = {name: file.entry.size for name, file in files.items()}
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]


def _choose_key(finished: FinishedOutput, columns: pa.Schema, metadata: str) -> JoinKey:
    """Join by id if both sides have it, else by url, and by text too if both sides have it. Raises SourceError."""
    ids = [(name, name) for name in finished.config.source.keep if name in schema.KEY_NAMES]
    ids += [(schema.KEY, name) for name in _key_names(finished.key_column)]
    some = finished.read(0, min(finished.num_rows, ROWS), list({ours for ours, _ in ids}))
    if pair := _first_pair([pair for pair in ids if some.column(pair[0]).null_count == 0], finished.schema, columns):
        return JoinKey([pair[0]], [pair[1]], "id")
    pairs = [(one, other) for one in schema.URL_NAMES for other in schema.URL_NAMES]
    urls = _first_pair(pairs, finished.schema, columns)
    if urls is None:
        raise SourceError(
            f"{metadata}: nothing to join by: its columns are {', '.join(columns.names)}; "
            f"the output's are {', '.join(finished.schema.names)}",
            "both need an id or a url column: source.keep copies columns to the output",
        )
    names = (finished.config.source.text_column, *schema.TEXT_NAMES)
    texts = _first_pair([(finished.text_column or "", name) for name in names], finished.schema, columns)
    if texts is None:
        say("join", "no text column on both sides: rows are joined by url only (source.keep keeps texts)")
        return JoinKey([urls[0]], [urls[1]], "url")
    return JoinKey([urls[0], texts[0]], [urls[1], texts[1]], "url and text")


def _key_names(source_name: str | None) -> tuple[str, ...]:
    """Names that the output's key may have in the metadata.

    If the name in the source is known, only that one: a source may have an `id` that is not its `key`.
    """
    if source_name is None:
        return schema.KEY_NAMES
    if source_name == "__key__":
        return source_name, schema.KEY_NAMES[0]  # img2dataset's metadata calls it "key"
    return (source_name,)


def _first_pair(pairs: Sequence[tuple[str, str]], rows: pa.Schema, columns: pa.Schema) -> tuple[str, str] | None:
    """The first pair whose columns exist on both sides and have the same kind of type."""
    for ours, theirs in pairs:
        both = ours in rows.names and theirs in columns.names
        if both and schema.kind_of(rows.field(ours).type) == schema.kind_of(columns.field(theirs).type):
            return ours, theirs
    return None


def _check_columns(file: MetadataFile, first: pa.Schema, key: JoinKey, results: Sequence[str]) -> None:
    for name in key.metadata_columns:
        kind = schema.kind_of(first.field(name).type)
        if name not in file.columns.names or schema.kind_of(file.columns.field(name).type) != kind:
            raise SourceError(
                f"{file.entry.path}: no column {name!r} of {kind}, which the first file has", "join it separately"
            )
    if taken := [name for name in results if name in file.columns.names]:
        raise SourceError(f"{file.entry.path}: has a column {taken[0]!r} already", "--columns names the results to add")


def _write(
    finished: FinishedOutput, folder: ExportFolder, files: Mapping[str, MetadataFile], key: JoinKey, results: list[str]
) -> dict[str, dict[str, int]]:
    """Write the joined file for each of these files; return its rows by outcome."""
    counts = {}
    progress = ThrottledLog("join")
    with tempfile.TemporaryDirectory(prefix="coyo-join-") as temporary:
        try:
            tables = _results(finished, [*key.output_columns, *results], progress)
            index = KeyIndex(Path(temporary), tables, key.output_columns)
        except OSError as exc:
            hint = "results take as much disk space as they take memory; set TMPDIR to a folder with more space"
            raise StorageError(f"{temporary}: {exc}", hint) from exc
        for done, (name, file) in enumerate(files.items(), 1):
            counts[name] = _write_file(finished, folder, name, file, key, index)
            progress.say(f"{done:,} of {len(files):,} files written")
    return counts


def _results(finished: FinishedOutput, columns: list[str], progress: ThrottledLog) -> Iterator[pa.Table]:
    for number, table in enumerate(finished.iter_tables(columns, ROWS)):
        progress.say(f"{number * ROWS:,} of {finished.num_rows:,} results copied to this machine's disk")
        yield table


def _write_file(
    finished: FinishedOutput, folder: ExportFolder, name: str, file: MetadataFile, key: JoinKey, index: KeyIndex
) -> dict[str, int]:
    counts = dict.fromkeys((MATCHED, UNMATCHED, AMBIGUOUS), 0)
    columns = pa.schema([*file.columns, *index.schema], {**(file.columns.metadata or {}), **_model_metadata(finished)})
    with (
        finished.storage.open_for_writing(join_path(folder.path, name)) as stream,
        pq.ParquetWriter(stream, columns, **footer.parquet_options(columns)) as writer,
    ):
        for rows in _batches(finished.storage, file):
            positions = index.find(rows.select(key.metadata_columns))
            counts[UNMATCHED] += int(np.count_nonzero(positions == key_index.ABSENT))
            counts[AMBIGUOUS] += int(np.count_nonzero(positions == key_index.AMBIGUOUS))
            counts[MATCHED] += int(np.count_nonzero(positions >= 0))
            results = index.take(positions)
            writer.write_table(pa.Table.from_arrays([*rows.columns, *results.columns], schema=columns))
        writer.add_key_value_metadata(folder.footer_metadata(**counts))
    return counts


def _batches(storage: Storage, file: MetadataFile) -> Iterator[pa.Table]:
    try:
        opened = pq.ParquetFile(storage.open(file.entry), pre_buffer=False, buffer_size=_BUFFER)
        for batch in opened.iter_batches(ROWS):
            yield pa.table(batch)
    except (OSError, pa.ArrowException) as exc:
        raise _damaged(file.entry, exc) from exc


def _model_metadata(finished: FinishedOutput) -> dict[bytes, bytes]:
    """The footer entries that describe the results: the models and the class names."""
    keys = {schema.MODELS.encode(), *(name.encode() for name in schema.CLASS_NAMES.values())}
    return {name: value for name, value in (finished.schema.metadata or {}).items() if name in keys}
