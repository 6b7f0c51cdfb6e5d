"""Retry transient errors (throttling, lost connections, short reads) with exponential backoff and full jitter.

Permanent errors, such as refused credentials or a missing object, are raised at once.
"""

from collections.abc import Callable
from typing import TypeVar

import aiohttp
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as S3ConnectionError
from fsspec.exceptions import FSTimeoutError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

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
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=_FIRST_DELAY, max=_MAX_DELAY),
        reraise=True,
    )
    return retrying(call)


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
