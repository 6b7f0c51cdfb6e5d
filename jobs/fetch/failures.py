"""Turn aiohttp's exceptions and unsuccessful responses into Rejects."""

import errno
import socket
from http import HTTPStatus

import aiohttp

from jobs.errors import ClusterError, Reason, Reject
from jobs.fetch.addresses import AddressRefused
from jobs.fetch.headers import retry_after_seconds

REQUEST_ERRORS = (aiohttp.ClientError, OSError, ValueError)  # includes TimeoutError; ValueError: unparsable
_PERMANENT_5XX = (501, 505)  # not implemented; HTTP version not supported
_GONE = (404, 410)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class RequestFailed(Reject):
    """One request failed.

    `retryable`: a retry may succeed. `unanswered`: the host sent no complete response. `retry_after`: seconds that the
    host asks to wait.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retryable: bool = False,
        unanswered: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, message)
        self.retryable, self.unanswered, self.retry_after = retryable, unanswered, retry_after


def from_exception(exc: Exception) -> RequestFailed:
    """The failure behind one of REQUEST_ERRORS. Raises ClusterError if this machine ran out of open files."""
    if isinstance(exc, aiohttp.ClientSSLError):
        return RequestFailed(Reason.CONNECT, _message(exc), unanswered=True)
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, AddressRefused):
        return RequestFailed(Reason.BLOCKED_ADDRESS, cause.message)
    if isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES:
        raise ClusterError(f"fetch: {cause}", "lower fetch.requests, or raise the limit of open files (ulimit -n)")
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        retryable = exc.os_error.errno == socket.EAI_AGAIN
        return RequestFailed(Reason.DNS, _message(exc.os_error), retryable=retryable, unanswered=True)
    if isinstance(exc, TimeoutError):
        return RequestFailed(
            Reason.TIMEOUT, str(exc) or "longer than fetch.total_seconds", retryable=True, unanswered=True
        )
    if isinstance(exc, aiohttp.ClientPayloadError):
        return RequestFailed(
            Reason.CONNECT, f"the response is incomplete: {_message(exc)}", retryable=True, unanswered=True
        )
    if isinstance(exc, aiohttp.ClientConnectionError | OSError):
        return RequestFailed(Reason.CONNECT, _message(cause), retryable=True, unanswered=True)
    return RequestFailed(Reason.BAD_ANSWER, _message(exc))


def from_response(response: aiohttp.ClientResponse) -> RequestFailed:
    """The failure that a response without an image reports."""
    status, message = response.status, _status(response.status)
    if status in _GONE:
        return RequestFailed(Reason.HTTP_404, message)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RequestFailed(
            Reason.THROTTLED, message, retryable=True, retry_after=retry_after_seconds(response.headers) or 0.0
        )
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return RequestFailed(Reason.TIMEOUT, message, retryable=True)
    if 400 <= status < 500:
        return RequestFailed(Reason.HTTP_4XX, message)
    if 500 <= status < 600:
        return RequestFailed(
            Reason.HTTP_5XX,
            message,
            retryable=status not in _PERMANENT_5XX,
            retry_after=retry_after_seconds(response.headers),
        )
    return RequestFailed(Reason.BAD_ANSWER, f"unexpected status {message}")


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _message(exc: BaseException) -> str:
    message = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return message[:300] or type(exc).__name__
