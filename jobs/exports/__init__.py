"""Export a finished output to the formats of other tools; each format has its module here.

    export("hf", "s3://bucket/out", "s3://bucket/hf", 32_768)

The rows of the output, in order, are cut into parts. A part becomes one Parquet file; some formats add arrays with the
same rows in the same order. Parts are written one after another, so memory use is that of one part.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import OutputError
from jobs.exports.clip_retrieval import ClipRetrieval
from jobs.exports.coyo_labeled import CoyoLabeled
from jobs.exports.form import ExportFormat, FileRange
from jobs.exports.hf import HuggingFace
from jobs.exports.target import ExportFolder, FileStats, ThrottledLog, describe
from jobs.log import say
from jobs.output import footer
from jobs.output.finished import FinishedOutput
from jobs.storage.paths import join_path

FORMATS: dict[str, Callable[[FinishedOutput], ExportFormat]] = {
    "coyo-labeled": CoyoLabeled,
    "clip-retrieval": ClipRetrieval,
    "hf": HuggingFace,
}


@dataclass(frozen=True)
class ExportSummary:
    """A complete export; `created` is True if this call completed it."""

    form: str
    path: str
    rows: int
    files: int
    left_out: dict[str, int]
    created: bool

    def __str__(self) -> str:
        already = "" if self.created else "already complete: "
        lines = [f"{already}{self.rows:,} rows in {self.files:,} files in {self.path}, as {self.form}"]
        return "\n".join(lines + [f"  left out {count:>9,}  {why}" for why, count in self.left_out.items()])


def export(form: str, output: str, to: str, rows_per_file: int) -> ExportSummary:
    """Write the files that the export still lacks, check all row counts, and write `_export.json`.

    `form` is a key of FORMATS; `output` is the output's folder or recipe; `to` is the export's folder. Raises
    OutputError.
    """
    finished = FinishedOutput.open(output)
    fmt = FORMATS[form](finished)
    folder = ExportFolder.for_output(finished, to, {"form": form, "rows_per_file": rows_per_file})
    contents = folder.read_contents()
    if contents is not None:
        return _summary(form, to, contents, created=False)
    for note in fmt.notes:
        say("export", note)
    parts = _parts(finished.num_rows, rows_per_file)
    names = [name for part in parts for name in fmt.file_names(part)]
    complete = folder.complete_files(names, extra=fmt.extra_files)
    left_out = _write(finished, fmt, folder, parts, {name: made["left_out"] for name, made in complete.items()})
    stats = folder.file_stats(names)
    for part, left in zip(parts, left_out, strict=True):
        _check_rows(folder, part.stop - part.start - left.total(), fmt.file_names(part), stats)
    total: Counter[str] = sum(left_out, Counter())
    rows = finished.num_rows - total.total()
    if rows == 0:
        raise OutputError(f"{output}: no row can be exported as {form}: {', '.join(total)}", "choose another format")
    sizes = {
        "stored": sum(file.stored for file in stats.values()),
        "unpacked": sum(file.unpacked for file in stats.values()),
    }
    contents = {"rows": rows, "left_out": total, "files": len(stats), "bytes": sizes, **describe(finished)}
    for name, to_bytes in fmt.extra_files.items():
        folder.put(name, to_bytes(contents))
    folder.write_contents(contents)
    return _summary(form, to, contents, created=True)


def _parts(count: int, size: int) -> list[FileRange]:
    starts = range(0, count, size)
    return [FileRange(i, len(starts), start, min(start + size, count)) for i, start in enumerate(starts)]


def _write(
    finished: FinishedOutput,
    fmt: ExportFormat,
    folder: ExportFolder,
    parts: Sequence[FileRange],
    complete: dict[str, dict[str, int]],
) -> list[Counter[str]]:
    """Write the parts whose Parquet file is not `complete`; return the rows left out of each part, by reason."""
    left_out = []
    progress = ThrottledLog("export")
    for part in parts:
        known = complete.get(fmt.file_names(part)[-1])
        left_out.append(Counter(known if known is not None else _write_part(finished, fmt, folder, part)))
        progress.say(f"{part.stop:,} of {finished.num_rows:,} rows")
    return left_out


def _write_part(
    finished: FinishedOutput, fmt: ExportFormat, folder: ExportFolder, part: FileRange
) -> Mapping[str, int]:
    """Write the part's files, its Parquet file last; return the rows left out, by reason."""
    *arrays, table = fmt.file_names(part)
    files = fmt.convert(finished.read(part.start, part.stop, fmt.columns))
    if files.table.num_rows:
        for name, data in zip(arrays, files.arrays, strict=True):
            folder.put(name, data)
        metadata = {**(files.table.schema.metadata or {}), **folder.footer_metadata(left_out=files.left_out)}
        folder.put(table, footer.parquet_bytes(files.table, metadata))
    return files.left_out


def _check_rows(folder: ExportFolder, rows: int, names: Sequence[str], stats: dict[str, FileStats]) -> None:
    """Check that each stored file of a part holds `rows` rows, or that a part without rows has no files."""
    for name in names:
        if stats.get(name, FileStats()).rows != rows or (name in stats) != bool(rows):
            stored = f"{stats[name].rows} rows" if name in stats else "missing"
            raise OutputError(
                f"{join_path(folder.path, name)}: {stored}, must be {rows} rows", "delete it and run again"
            )


def _summary(form: str, to: str, contents: dict[str, Any], *, created: bool) -> ExportSummary:
    return ExportSummary(form, to, contents["rows"], contents["files"], contents["left_out"], created)
