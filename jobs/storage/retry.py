"""Retry transient errors (throttling, lost connections, short reads) with exponential backoff and full jitter.

Permanent errors, such as refused credentials or a missing object, are raised at once.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import aiohttp
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as S3ConnectionError
from fsspec.exceptions import FSTimeoutError

ATTEMPTS = 4  # each includes the client's own retries, about 30 s: a store may be away for two minutes
_FIRST_DELAY, _MAX_DELAY = 0.25, 16.0  # seconds
_TRANSIENT_CODES = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted"})
_TRANSIENT_CODES |= {"Throttling", "ThrottlingException", "RequestThrottled", "500", "502", "503", "504"}
_CONNECTION_ERRORS = (HTTPClientError, S3ConnectionError, aiohttp.ClientError, TimeoutError, FSTimeoutError)

Result = TypeVar("Result")


class ShortRead(OSError):
    """The store sent fewer bytes than requested."""


def with_retries(call: Callable[[], Result]) -> Result:
    """Call until it succeeds, at most ATTEMPTS times. Raises permanent errors at once, a transient one at the end."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (OSError, ClientError, *_CONNECTION_ERRORS) as exc:
            if attempt == ATTEMPTS - 1 or not is_transient(exc):
                raise
            time.sleep(random.uniform(0, min(_MAX_DELAY, _FIRST_DELAY * 2**attempt)))
    raise AssertionError("unreachable")


def is_transient(exc: BaseException) -> bool:
    """Whether a retry may succeed."""
    if isinstance(exc, (ShortRead, *_CONNECTION_ERRORS)):
        return True
    return error_code(exc) in _TRANSIENT_CODES


def error_code(exc: BaseException) -> str:
    """S3's error code, such as SlowDown or PreconditionFailed, or "". s3fs has it in the cause of an OSError."""
    for error in (exc, exc.__cause__):
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
    return ""
