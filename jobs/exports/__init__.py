"""A finished output in the forms that other tools take: one file here for each, and what they share.

    export("hf", "s3://bucket/out", "s3://bucket/hf", 32_768)

The rows of the output, in their order, are cut into parts. A part becomes one Parquet file, and for some forms arrays
beside it with the same rows in the same order. Parts are made one after another, so memory is that of one.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import OutputError
from jobs.exports.clip_retrieval import ClipRetrieval
from jobs.exports.coyo_labeled import CoyoLabeled
from jobs.exports.form import FileRange, Form
from jobs.exports.hf import HuggingFace
from jobs.exports.target import ExportFolder, FileStats, ThrottledLog, describe
from jobs.log import say
from jobs.output import footer
from jobs.output.finished import FinishedOutput
from jobs.storage.paths import join_path

FORMS: dict[str, Callable[[FinishedOutput], Form]] = {
    "coyo-labeled": CoyoLabeled,
    "clip-retrieval": ClipRetrieval,
    "hf": HuggingFace,
}


@dataclass(frozen=True)
class Exported:
    """A complete export; `fresh` where this call completed it."""

    form: str
    path: str
    rows: int
    files: int
    left_out: dict[str, int]
    fresh: bool

    def __str__(self) -> str:
        already = "" if self.fresh else "already complete: "
        lines = [f"{already}{self.rows:,} rows in {self.files:,} files in {self.path}, as {self.form}"]
        return "\n".join(lines + [f"  left out {count:>9,}  {why}" for why, count in self.left_out.items()])


def export(form: str, output: str, to: str, rows_per_file: int) -> Exported:
    """Make what is missing of the export, prove its counts, and say what it holds. Raises OutputError."""
    finished = FinishedOutput.open(output)
    made = FORMS[form](finished)
    target = ExportFolder.of(finished, to, {"form": form, "rows_per_file": rows_per_file})
    said = target.finished()
    if said is not None:
        return _exported(form, to, said, fresh=False)
    for note in made.notes:
        say("export", note)
    parts = _parts(finished.count, rows_per_file)
    names = [name for part in parts for name in made.names(part)]
    there = target.there(names, beside=made.beside)
    left_out = _write(finished, made, target, parts, {name: about["left_out"] for name, about in there.items()})
    held = target.held(names)
    for part, left in zip(parts, left_out, strict=True):
        _prove(target, part.stop - part.start - left.total(), made.names(part), held)
    total: Counter[str] = sum(left_out, Counter())
    rows = finished.count - total.total()
    if rows == 0:
        raise OutputError(f"{output}: no row can be exported as {form}: {', '.join(total)}", "choose another form")
    sizes = {
        "stored": sum(file.stored for file in held.values()),
        "unpacked": sum(file.unpacked for file in held.values()),
    }
    said = {"rows": rows, "left_out": total, "files": len(held), "bytes": sizes, **describe(finished)}
    for name, written in made.beside.items():
        target.put(name, written(said))
    target.finish(said)
    return _exported(form, to, said, fresh=True)


def _parts(count: int, size: int) -> list[FileRange]:
    starts = range(0, count, size)
    return [FileRange(i, len(starts), start, min(start + size, count)) for i, start in enumerate(starts)]


def _write(
    finished: FinishedOutput,
    made: Form,
    target: ExportFolder,
    parts: Sequence[FileRange],
    there: dict[str, dict[str, int]],
) -> list[Counter[str]]:
    """Write the parts that are not there; what was left out of each part."""
    left_out = []
    pace = ThrottledLog("export")
    for part in parts:
        known = there.get(made.names(part)[-1])
        left_out.append(Counter(known if known is not None else _write_part(finished, made, target, part)))
        pace.say(f"{part.stop:,} of {finished.count:,} rows")
    return left_out


def _write_part(finished: FinishedOutput, made: Form, target: ExportFolder, part: FileRange) -> Mapping[str, int]:
    """Write the part's files, the one that says so last; what was left out of them."""
    *arrays, table = made.names(part)
    files = made.files(finished.read(part.start, part.stop, made.columns))
    if files.table.num_rows:
        for name, data in zip(arrays, files.arrays, strict=True):
            target.put(name, data)
        metadata = {**(files.table.schema.metadata or {}), **target.metadata(left_out=files.left_out)}
        target.put(table, footer.parquet_bytes(files.table, metadata))
    return files.left_out


def _prove(target: ExportFolder, rows: int, names: Sequence[str], held: dict[str, FileStats]) -> None:
    """Each file of a part holds its rows, as the files themselves say; a part without rows has no files."""
    for name in names:
        if held.get(name, FileStats()).rows != rows or (name in held) != bool(rows):
            found = f"{held[name].rows} rows" if name in held else "not there"
            raise OutputError(
                f"{join_path(target.path, name)}: {found}, must be {rows} rows", "delete it and run again"
            )


def _exported(form: str, to: str, said: dict[str, Any], *, fresh: bool) -> Exported:
    return Exported(form, to, said["rows"], said["files"], said["left_out"], fresh)
