"""A footer says what an object holds, and how the object is stored."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from jobs.output.footer import decode_provenance, encode_provenance, parquet_bytes
from jobs.row_ranges import Coverage, to_ranges

ROWS = st.sets(st.integers(0, 59))
COVERAGES = st.builds(
    Coverage,
    ROWS.map(lambda rows: to_ranges(np.array(sorted(rows), np.int32))),
    st.sampled_from([None, 0, 60]),
    st.sampled_from([None, 'cut "here"']),
    st.integers(0, 9),
)


@given(st.dictionaries(st.text(), COVERAGES, max_size=4))
def test_a_footer_gives_back_what_was_written(shards: dict[str, Coverage]) -> None:
    assert decode_provenance(encode_provenance(shards, job="j", reasons="{}")) == (
        shards,
        {"job": "j", "reasons": "{}"},
    )


def test_vectors_are_stored_without_dictionaries_and_what_repeats_with_them() -> None:
    """Half the time of a write went into dictionaries of 16-bit floats, which made the object bigger."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float16)), 2)
    table = pa.table({"shard": ["a"] * 4, "labels": [[1, 2]] * 4, "image_embedding": vectors})
    stored = pq.read_metadata(pa.BufferReader(parquet_bytes(table, {}))).row_group(0)
    columns = [stored.column(index) for index in range(stored.num_columns)]
    assert [column.has_dictionary_page for column in columns] == [True, True, False]
