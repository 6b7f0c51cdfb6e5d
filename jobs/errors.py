"""Every error that a user can see, and every reason for rejecting a row.

JobError                    a job cannot start or continue; names what, where and the next step
├── ConfigError             the recipe is wrong (exit code 2)
├── SourceError             the input is missing, empty or ambiguous, or lacks a column
├── StorageError            a path cannot be read or written: credentials, bucket, endpoint, network, disk
├── CheckpointError         a model is not found, or does not load completely
├── ClusterError            Ray or a requested resource is not available
├── Interrupted             a person or a scheduler stopped the run; it ended in order (exit code 130)
└── OutputError             the output belongs to another job or run, or its rows are inconsistent
    └── ShardsSetAside      some shards could not be read; all other rows are committed (exit code 3)

Reject                      one row has no result; carries a Reason, and never leaves its stage
"""

from enum import StrEnum
from typing import Any


class JobError(Exception):
    """A job cannot start or continue. `hint` is the next step, shown on its own line. `log_fields` are extra fields
    for the JSON log, for example the shard."""

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
    """A stage of the pipeline."""

    SOURCE = "source"
    FETCH = "fetch"
    DECODE = "decode"
    ANNOTATE = "annotate"
    SINK = "sink"


class Reason(StrEnum):
    """Why an input row has no result. A closed list: `rejects/` contains no other value."""

    NO_IMAGE = "no_image"  # The row has no image bytes and no url, or its sample has no image member.
    BAD_METADATA = "bad_metadata"  # A kept column, a text or the sample's json cannot be read as its type.
    SHARD_DAMAGED = "shard_damaged"  # The shard is truncated or corrupt at this row.
    EMPTY = "empty"  # The image has zero bytes.
    NOT_AN_IMAGE = "not_an_image"  # The bytes are not an image but HTML, JSON, PDF or unknown data.
    UNSUPPORTED_FORMAT = "unsupported_format"  # The image has a format that Pillow does not read (HEIC, JPEG XL, SVG).
    TRUNCATED = "truncated"  # The image data ends early.
    CORRUPT = "corrupt"  # The bytes start like an image, but cannot be decoded.
    TOO_LARGE = "too_large"  # The image exceeds fetch.max_bytes or decode.max_pixels, or is a decompression bomb.
    DECODE_CRASHED = "decode_crashed"  # The decoder process crashed on this image in every attempt.
    DECODE_TIMEOUT = "decode_timeout"  # Decoding took longer than limits.decode_seconds.
    NON_FINITE = "non_finite"  # A model returned NaN or infinity for this row.
    BAD_URL = "bad_url"  # The url is not http or https, contains credentials, or is malformed.
    BLOCKED_ADDRESS = "blocked_address"  # The url leads to a non-public address outside fetch.allow_networks.
    DNS = "dns"  # The host name cannot be resolved.
    CONNECT = "connect"  # The connection failed, or was lost before the last byte.
    TIMEOUT = "timeout"  # The connection or the response took longer than the timeouts of fetch.
    THROTTLED = "throttled"  # The host limits the request rate (429), or asks for a longer pause than a url may wait.
    HTTP_404 = "http_404"  # The file is gone: 404 or 410.
    HTTP_4XX = "http_4xx"  # The server refused the request: 401, 403 or another 4xx.
    HTTP_5XX = "http_5xx"  # The server failed: 5xx.
    BAD_ANSWER = "bad_answer"  # The response violates HTTP, redirects too often, or has an unrequested encoding.
    ROBOTS = "robots"  # X-Robots-Tag forbids the use of the image (fetch.robots_header).


# Reasons that a retry may fix: a process or a network failed, not the image.
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
    """One row has no result, for `reason`; `message` has the details."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
