"""ReadAheadFile: what it requests ahead, and what happens when a request fails."""

import io

import pytest

from jobs.errors import StorageError
from jobs.storage.ranges import ReadAheadFile
from tests.support.processes import until


def test_a_stream_asks_for_the_next_bytes_before_they_are_needed() -> None:
    data = bytes(range(251)) * 40
    asked: list[tuple[int, int]] = []

    def read_range(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    with io.BufferedReader(ReadAheadFile(len(data), read_range, chunk=1000, depth=2)) as stream:
        assert stream.read(1) == data[:1]
        until(lambda: len(asked) == 3)  # the first, and two under way
        assert stream.read() == data[1:]
    assert sorted(asked) == [(start, min(start + 1000, len(data))) for start in range(0, len(data), 1000)]


def test_a_stream_that_is_not_read_to_its_end_asks_for_no_more() -> None:
    asked: list[int] = []

    def read_range(start: int, end: int) -> bytes:
        asked.append(start)
        return bytes(end - start)

    with io.BufferedReader(ReadAheadFile(100_000, read_range, chunk=100)) as stream:
        stream.read(50)
    assert len(asked) <= 3


def test_an_error_of_a_request_that_was_under_way_is_raised_where_its_bytes_are_read() -> None:
    def read_range(start: int, end: int) -> bytes:
        if start >= 200:
            raise StorageError("gone")
        return bytes(end - start)

    with io.BufferedReader(ReadAheadFile(1000, read_range, chunk=100), buffer_size=100) as stream:
        assert stream.read(150) == bytes(150)
        with pytest.raises(StorageError, match="gone"):
            stream.read(100)


def test_an_empty_object_is_an_empty_stream() -> None:
    with io.BufferedReader(ReadAheadFile(0, lambda *_: b"", chunk=100)) as stream:
        assert stream.read() == b""
