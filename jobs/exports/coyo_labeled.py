"""Export to exactly COYO-Labeled-300M's columns: id, url, imagehash, labels, label_probs, width, height."""

import json

import pyarrow as pa

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.form import FileContents, FileRange
from jobs.output.finished import FinishedOutput
from jobs.output.layout import LABEL_NAMES


class CoyoLabeled:
    """`data/part-NNNNN.parquet`, and the class names of this job's model, which may differ from ImageNet-21K's.

    Raises OutputError for an output that lacks one of the columns.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, finished: FinishedOutput) -> None:
        sources = {field.name: _find_column(finished.schema, field, names) for field, names in schema.COYO_LABELED}
        if missing := [name for name, column in sources.items() if column is None]:
            raise OutputError(
                f"{finished.config.output.path}: no column for {', '.join(missing)}", _hint(finished, missing)
            )
        self.columns = [column for column in sources.values() if column is not None]
        class_names = json.dumps(finished.class_names(schema.LABELS), ensure_ascii=False, indent=0).encode()
        self.extra_files = {LABEL_NAMES: lambda _: class_names}

    def file_names(self, part: FileRange) -> list[str]:
        return [f"data/part-{part.number:05d}.parquet"]

    def convert(self, rows: pa.Table) -> FileContents:
        columns = pa.schema([field for field, _ in schema.COYO_LABELED])
        try:
            return FileContents(rows.select(self.columns).rename_columns(columns.names).cast(columns))
        except pa.ArrowInvalid as exc:
            message = f"a value does not fit COYO-Labeled-300M's types: {exc}"
            raise OutputError(message, "choose another format") from exc


def _find_column(rows: pa.Schema, field: pa.Field, names: tuple[str, ...]) -> str | None:
    """The output's first column with one of these names and a compatible type; None without one."""
    present = [name for name in names if name in rows.names]
    return next((name for name in present if schema.kind_of(rows.field(name).type) == schema.kind_of(field.type)), None)


def _hint(finished: FinishedOutput, missing: list[str]) -> str:
    if schema.LABELS in missing:
        return "labels are computed by models.vit, which this job does not have"
    kept = ", ".join(finished.config.source.keep) or "nothing"
    if missing == ["id"]:
        key_type = finished.schema.field(schema.KEY).type
        return f"the key here is {key_type}, not an integer: keep COYO's id with source.keep"
    return f"this job keeps {kept} (source.keep); run a job that also keeps COYO's columns, such as image_phash"
