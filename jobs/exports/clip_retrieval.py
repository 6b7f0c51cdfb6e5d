"""Export to clip-retrieval's folders, for `clip-retrieval index` and `back`, autofaiss and embedding-reader.

    img_emb/img_emb_NN.npy          float16 [rows, dim]
    text_emb/text_emb_NN.npy        the same rows in the same order
    metadata/metadata_NN.parquet    the same rows: image_path, caption, and every column that is no embedding

Readers sort the files by name and number the rows through all of them. So numbers are padded to one length, and a part
without rows has no files. Arrays cannot hold nulls: rows without a text embedding are left out, and counted.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import schema
from jobs.errors import OutputError
from jobs.exports.form import FileContents, FileRange
from jobs.output.finished import FinishedOutput

NO_TEXT = "no text embedding: the text is null or empty"


class ClipRetrieval:
    """`img_emb/`, `text_emb/` and `metadata/`; raises OutputError for an output without image embeddings."""

    extra_files: Mapping[str, Any] = {}

    def __init__(self, finished: FinishedOutput) -> None:
        if schema.IMAGE_EMBEDDING not in finished.schema.names:
            raise OutputError(
                f"{finished.config.output.path}: no column {schema.IMAGE_EMBEDDING}",
                "it is computed by models.align, which this job does not have",
            )
        vectors = [
            name for name in finished.schema.names if pa.types.is_fixed_size_list(finished.schema.field(name).type)
        ]
        self._plain = [name for name in finished.schema.names if name not in vectors]
        self._texts = schema.TEXT_EMBEDDING in vectors
        self._caption = schema.CAPTION if schema.CAPTION in finished.schema.names else finished.text_column
        used = [schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING] if self._texts else [schema.IMAGE_EMBEDDING]
        self.columns = [*self._plain, *used]

    @property
    def notes(self) -> list[str]:
        notes = []
        if not self._texts:
            notes.append("no text_emb/: the job does not have models.align.text")
        if not self._caption:
            notes.append("no captions in the metadata: the job did not keep its texts (source.keep)")
        return notes

    def file_names(self, part: FileRange) -> list[str]:
        number = f"{part.number:0{len(str(part.total))}d}"
        texts = [f"text_emb/text_emb_{number}.npy"] if self._texts else []
        return [f"img_emb/img_emb_{number}.npy", *texts, f"metadata/metadata_{number}.parquet"]

    def convert(self, rows: pa.Table) -> FileContents:
        kept = rows.filter(pc.is_valid(rows.column(schema.TEXT_EMBEDDING))) if self._texts else rows
        left_out = {NO_TEXT: rows.num_rows - kept.num_rows} if kept.num_rows < rows.num_rows else {}
        arrays = (_npy(kept.column(name)) for name in self.columns if name not in self._plain)
        return FileContents(self._metadata(kept.select(self._plain)), arrays, left_out)

    def _metadata(self, rows: pa.Table) -> pa.Table:
        """Add the two columns that clip-retrieval shows, unless the source has columns of these names."""
        if self._caption and schema.CAPTION not in rows.column_names:
            rows = rows.add_column(0, schema.CAPTION, rows.column(self._caption))
        if schema.IMAGE_PATH not in rows.column_names:
            rows = rows.add_column(0, schema.IMAGE_PATH, _image_path(rows))
        return rows


def _image_path(rows: pa.Table) -> pa.ChunkedArray:
    """The row's key, as clip-retrieval does for tars; shard/row if the key is null or binary."""
    address = pc.binary_join_element_wise(rows.column(schema.SHARD), rows.column(schema.ROW).cast(pa.string()), "/")
    key = rows.column(schema.KEY)
    return address if pa.types.is_binary(key.type) else pc.coalesce(key.cast(pa.string()), address)


def _npy(column: pa.ChunkedArray) -> memoryview:
    """Encode float16 [rows, dim] as .npy; chunk by chunk, because one array of all chunks would be a copy."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": (len(column), column.type.list_size)}
    np.lib.format.write_array_header_1_0(buffer, header)
    for chunk in column.chunks:
        buffer.write(memoryview(chunk.flatten().to_numpy(zero_copy_only=False).astype("<f2", copy=False)))
    return buffer.getbuffer()
