"""Measure how accurate the demo's output is, from the job's own Parquet files and the scenes' true labels."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.demo.corpus import Row


@dataclass(frozen=True)
class Accuracy:
    """Fractions of the good rows: top-1 accuracy of the labels, recall@1 in both directions, and recall@1 by chance."""

    rows: int
    label_accuracy: float
    text_to_image: float
    image_to_text: float
    chance: float


def measure_accuracy(output: str, truth: dict[int, Row]) -> Accuracy:
    """Compare the output with `truth`, by id. Retrieval uses the first row of each distinct caption."""
    table = pq.read_table(f"{output}/rows")
    names = json.loads(table.schema.metadata[schema.LABEL_NAMES.encode()])
    expected = [truth[key] for key in table.column(schema.KEY).to_pylist()]
    correct = [
        names[top[0]] == row.label for top, row in zip(table.column(schema.LABELS).to_pylist(), expected, strict=True)
    ]
    first = np.array(sorted({row.text: i for i, row in reversed(list(enumerate(expected)))}.values()))
    images, texts = (_matrix(table.column(name))[first] for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING))
    cosines, own = texts @ images.T, np.arange(len(first))
    return Accuracy(
        rows=table.num_rows,
        label_accuracy=float(np.mean(correct)),
        text_to_image=float(np.mean(cosines.argmax(1) == own)),
        image_to_text=float(np.mean(cosines.argmax(0) == own)),
        chance=1 / len(first),
    )


def _matrix(column: pa.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Fixed-size lists -> float32 [rows, dim]."""
    array = column.combine_chunks()
    flat: np.ndarray[Any, np.dtype[np.float32]] = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(array), -1)
