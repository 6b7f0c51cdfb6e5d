"""How right the demo's output is, read from the job's own Parquet files: the scenes know what they show."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import schema
from jobs.demo.corpus import Row


@dataclass(frozen=True)
class Score:
    """Fractions of the good rows. `chance` is recall@1 of a guess."""

    rows: int
    label_accuracy: float
    text_to_image: float
    image_to_text: float
    chance: float


def score(output: str, truth: dict[int, Row]) -> Score:
    """`truth` by id. Retrieval is over distinct captions: the first row of each."""
    table = pq.read_table(f"{output}/rows")
    names = json.loads(table.schema.metadata[schema.LABEL_NAMES.encode()])
    known = [truth[key] for key in table.column(schema.KEY).to_pylist()]
    right = [
        names[top[0]] == row.label for top, row in zip(table.column(schema.LABELS).to_pylist(), known, strict=True)
    ]
    first = np.array(sorted({row.text: i for i, row in reversed(list(enumerate(known)))}.values()))
    images, texts = (_matrix(table.column(name))[first] for name in (schema.IMAGE_EMBEDDING, schema.TEXT_EMBEDDING))
    cosine, own = texts @ images.T, np.arange(len(first))
    return Score(
        rows=table.num_rows,
        label_accuracy=float(np.mean(right)),
        text_to_image=float(np.mean(cosine.argmax(1) == own)),
        image_to_text=float(np.mean(cosine.argmax(0) == own)),
        chance=1 / len(first),
    )


def _matrix(column: pa.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.float32]]":
    array = column.combine_chunks()
    flat: np.ndarray[Any, np.dtype[np.float32]] = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(array), -1)
