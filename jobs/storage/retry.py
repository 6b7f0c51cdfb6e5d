"""Tries again what a moment may heal: throttling, lost connections, short answers. With backoff and full jitter.

What will not heal by itself, such as refused credentials or a missing object, is raised at once.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import aiohttp
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as S3ConnectionError
from fsspec.exceptions import FSTimeoutError

ATTEMPTS = 4  # each with the client's own retries, half a minute of them: a store may be gone for two
_FIRST, _LONGEST = 0.25, 16.0  # seconds
_CODES = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted"})
_CODES |= {"Throttling", "ThrottlingException", "RequestThrottled", "500", "502", "503", "504"}
_LOST = (HTTPClientError, S3ConnectionError, aiohttp.ClientError, TimeoutError, FSTimeoutError)

Result = TypeVar("Result")


class ShortRead(OSError):
    """Fewer bytes came than were asked for."""


def with_retries(call: Callable[[], Result]) -> Result:
    """The call's result; the last error once ATTEMPTS have failed."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (OSError, ClientError, *_LOST) as exc:
            if attempt == ATTEMPTS - 1 or not transient(exc):
                raise
            time.sleep(random.uniform(0, min(_LONGEST, _FIRST * 2**attempt)))
    raise AssertionError("unreachable")


def transient(exc: BaseException) -> bool:
    """Whether trying again may help. s3fs hides the answer's code in the cause of an OSError."""
    if isinstance(exc, (ShortRead, *_LOST)):
        return True
    return error_code(exc) in _CODES


def error_code(exc: BaseException) -> str:
    """S3's error code, such as SlowDown or PreconditionFailed; empty for what is not S3's."""
    for error in (exc, exc.__cause__):
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
    return ""
