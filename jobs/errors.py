"""Every error a user can meet, and every reason a row can be rejected for.

JobError                    a job cannot start or go on; says what, where and what to do next
├── ConfigError             the recipe is wrong (exit code 2)
├── SourceError             the input is missing, empty, ambiguous or lacks a column
├── StorageError            a path cannot be reached: credentials, bucket, endpoint
├── CheckpointError         a model cannot be found, or does not load completely
├── ClusterError            Ray or a resource that was asked for is not there
├── Interrupted             a person or a scheduler stopped the run, in order (exit code 130)
└── OutputError             the output belongs to another job or run, or its rows do not add up
    └── ShardsSetAside            what could be read is committed; some shards could not be read (exit code 3)

Reject                      one row has no result; carries a Reason. Never leaves its stage
"""

from enum import StrEnum
from typing import Any


class JobError(Exception):
    """A job cannot start or go on. `hint` is what to do next, shown on its own line; `about` is what a log for machines
    says besides, such as the shard."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint
        self.log_fields: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(JobError):
    pass


class SourceError(JobError):
    pass


class StorageError(JobError):
    pass


class CheckpointError(JobError):
    pass


class ClusterError(JobError):
    pass


class OutputError(JobError):
    pass


class ShardsSetAside(OutputError):
    pass


class Interrupted(JobError):
    pass


class Stage(StrEnum):
    """Where in the pipeline something happened."""

    SOURCE = "source"
    FETCH = "fetch"
    DECODE = "decode"
    ANNOTATE = "annotate"
    SINK = "sink"


class Reason(StrEnum):
    """Why an input row has no result. A closed list: `rejects/` holds no other value."""

    NO_IMAGE = "no_image"  # the source has no bytes for this row: null, or no image member in the sample
    BAD_METADATA = "bad_metadata"  # a kept column or the sample's json cannot be read as its type
    SHARD_DAMAGED = "shard_damaged"  # the shard is cut or corrupt where this row lies
    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not_an_image"  # HTML, JSON, PDF, random bytes, ...
    UNSUPPORTED_FORMAT = "unsupported_format"  # an image, of a format Pillow does not read (HEIC, JPEG XL, SVG)
    TRUNCATED = "truncated"  # the image's data ends early
    CORRUPT = "corrupt"  # starts like an image and cannot be decoded
    TOO_LARGE = "too_large"  # more bytes than fetch.max_bytes, pixels than decode.max_pixels, or a decompression bomb
    DECODE_CRASHED = "decode_crashed"  # the decoder died on this image, each time it was tried
    DECODE_TIMEOUT = "decode_timeout"  # decoding took longer than limits.decode_seconds
    NON_FINITE = "non_finite"  # a model gave NaN or infinity for this row
    BAD_URL = "bad_url"  # not http or https, with credentials, or of a form that no browser writes
    BLOCKED_ADDRESS = "blocked_address"  # leads to an address that is not public, and not in fetch.allow_networks
    DNS = "dns"  # the host's name has no address
    CONNECT = "connect"  # the host cannot be connected to, or the connection was lost before the last byte
    TIMEOUT = "timeout"  # connecting, or the answer, took longer than fetch allows
    THROTTLED = "throttled"  # the host asks for fewer requests (429), or for more rest than a url waits for
    HTTP_404 = "http_404"  # gone: 404 or 410
    HTTP_4XX = "http_4xx"  # refused: 401, 403, ...
    HTTP_5XX = "http_5xx"  # the server failed
    BAD_ANSWER = "bad_answer"  # breaks HTTP, redirects without end, or an encoding that was not asked for
    ROBOTS = "robots"  # X-Robots-Tag forbids it (fetch.robots_header)


# Reasons that another try may heal: what failed was a process or a network, not the picture.
TRANSIENT_REASONS = (
    Reason.DECODE_CRASHED,
    Reason.DECODE_TIMEOUT,
    Reason.DNS,
    Reason.CONNECT,
    Reason.TIMEOUT,
    Reason.THROTTLED,
    Reason.HTTP_5XX,
)


class Reject(Exception):
    """This row has no result."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
