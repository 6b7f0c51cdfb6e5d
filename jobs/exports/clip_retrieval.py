"""clip-retrieval's folders, as `clip-retrieval index` and `back`, autofaiss and embedding-reader take them.

    img_emb/img_emb_NN.npy          float16 [rows, dim]
    text_emb/text_emb_NN.npy        the same rows in the same order
    metadata/metadata_NN.parquet    the same rows: image_path, caption, and all columns that are no embeddings

Readers sort the files by name and count on through all of them, so numbers are padded to one length, and a part
without rows has no files. A text embedding that is null has no place there: its row is left out, and counted.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.form import FileRange, Files
from jobs.output.finished import FinishedOutput

NO_TEXT = "no text embedding: the text is null or empty"


class ClipRetrieval:
    beside: Mapping[str, Any] = {}

    def __init__(self, finished: FinishedOutput) -> None:
        if schema.IMAGE_EMBEDDING not in finished.schema.names:
            raise OutputError(
                f"{finished.config.output.path}: no column {schema.IMAGE_EMBEDDING}",
                "it comes from models.align, which this job ran without",
            )
        vectors = [
            name for name in finished.schema.names if pa.types.is_fixed_size_list(finished.schema.field(name).type)
        ]
        self._plain = [name for name in finished.schema.names if name not in vectors]
        self._texts = schema.TEXT_EMBEDDING in vectors
        self._caption = schema.CAPTION if schema.CAPTION in finished.schema.names else finished.texts
        used = [schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING] if self._texts else [schema.IMAGE_EMBEDDING]
        self.columns = [*self._plain, *used]

    @property
    def notes(self) -> list[str]:
        notes = []
        if not self._texts:
            notes.append("no text_emb/: the job ran without models.align.text")
        if not self._caption:
            notes.append("no captions in the metadata: the job did not keep its texts (source.keep)")
        return notes

    def names(self, part: FileRange) -> list[str]:
        number = f"{part.number:0{len(str(part.of))}d}"
        texts = [f"text_emb/text_emb_{number}.npy"] if self._texts else []
        return [f"img_emb/img_emb_{number}.npy", *texts, f"metadata/metadata_{number}.parquet"]

    def files(self, rows: pa.Table) -> Files:
        kept = rows.filter(pc.is_valid(rows.column(schema.TEXT_EMBEDDING))) if self._texts else rows
        left_out = {NO_TEXT: rows.num_rows - kept.num_rows} if kept.num_rows < rows.num_rows else {}
        arrays = (_npy(kept.column(name)) for name in self.columns if name not in self._plain)
        return Files(self._metadata(kept.select(self._plain)), arrays, left_out)

    def _metadata(self, rows: pa.Table) -> pa.Table:
        """With the two columns that clip-retrieval shows; what the source called so stays."""
        if self._caption and schema.CAPTION not in rows.column_names:
            rows = rows.add_column(0, schema.CAPTION, rows.column(self._caption))
        if schema.IMAGE_PATH not in rows.column_names:
            rows = rows.add_column(0, schema.IMAGE_PATH, _image_path(rows))
        return rows


def _image_path(rows: pa.Table) -> pa.ChunkedArray:
    """The row's key, as clip-retrieval has it for tars; shard/row where there is none that is text."""
    address = pc.binary_join_element_wise(rows.column(schema.SHARD), rows.column(schema.ROW).cast(pa.string()), "/")
    key = rows.column(schema.KEY)
    return address if pa.types.is_binary(key.type) else pc.coalesce(key.cast(pa.string()), address)


def _npy(column: pa.ChunkedArray) -> memoryview:
    """float16 [rows, dim] as numpy saves it; written chunk by chunk, for one array of them all would be a copy."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(column), column.type.list_size)}
    np.lib.format.write_array_header_1_0(buffer, header)
    for chunk in column.chunks:
        buffer.write(memoryview(chunk.flatten().to_numpy(zero_copy_only=False).astype("<f2", copy=False)))
    return buffer.getbuffer()
