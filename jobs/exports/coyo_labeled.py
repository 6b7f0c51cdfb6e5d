"""COYO-Labeled-300M's columns, exactly: id, url, imagehash, labels, label_probs, width, height."""

import json

import pyarrow as pa

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.form import FileRange, Files
from jobs.output.finished import FinishedOutput
from jobs.output.layout import LABEL_NAMES


class CoyoLabeled:
    """`data/part-NNNNN.parquet`, and the names of the classes, which are the job's and not ImageNet-21K's."""

    notes: tuple[str, ...] = ()

    def __init__(self, finished: FinishedOutput) -> None:
        found = {field.name: _source(finished.schema, field, names) for field, names in schema.COYO_LABELED}
        if missing := [name for name, column in found.items() if column is None]:
            raise OutputError(
                f"{finished.config.output.path}: no column for {', '.join(missing)}", _hint(finished, missing)
            )
        self.columns = [column for column in found.values() if column is not None]
        names = json.dumps(finished.class_names(schema.LABELS), ensure_ascii=False, indent=0).encode()
        self.beside = {LABEL_NAMES: lambda _: names}

    def names(self, part: FileRange) -> list[str]:
        return [f"data/part-{part.number:05d}.parquet"]

    def files(self, rows: pa.Table) -> Files:
        wanted = pa.schema([field for field, _ in schema.COYO_LABELED])
        try:
            return Files(rows.select(self.columns).rename_columns(wanted.names).cast(wanted))
        except pa.ArrowInvalid as exc:
            raise OutputError(f"a value does not fit COYO-Labeled-300M's types: {exc}", "choose another form") from exc


def _source(rows: pa.Schema, field: pa.Field, names: tuple[str, ...]) -> str | None:
    """The first column of the output that can be this one."""
    present = [name for name in names if name in rows.names]
    return next((name for name in present if schema.kind(rows.field(name).type) == schema.kind(field.type)), None)


def _hint(finished: FinishedOutput, missing: list[str]) -> str:
    if schema.LABELS in missing:
        return "labels come from models.vit, which this job ran without"
    kept = ", ".join(finished.config.source.keep) or "nothing"
    if missing == ["id"]:
        return f"the key here is {finished.schema.field(schema.KEY).type}, no number: keep COYO's id with source.keep"
    return f"source.keep has {kept}: run a job that keeps COYO's columns for these too, such as image_phash"
