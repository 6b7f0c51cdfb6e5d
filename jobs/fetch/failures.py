"""Why a request gave no image: what aiohttp raises and what servers answer, as Rejects. One place translates both."""

import errno
import socket
from http import HTTPStatus

import aiohttp

from jobs.errors import ClusterError, Reason, Reject
from jobs.fetch.addresses import AddressRefused
from jobs.fetch.headers import retry_after_seconds

RAISED = (aiohttp.ClientError, OSError, ValueError)  # TimeoutError is an OSError; ValueError: what cannot be parsed
_HOPELESS = (501, 505)  # of the 5xx: the server cannot, and will not be able to
_GONE = (404, 410)
_NO_FILES = (errno.EMFILE, errno.ENFILE)


class RequestFailed(Reject):
    """A request gave no image, this time.

    `again`: another try may help. `silent`: the host gave no complete answer. `rest`: seconds that it asks for.
    """

    def __init__(
        self, reason: Reason, message: str, *, again: bool = False, silent: bool = False, rest: float | None = None
    ) -> None:
        super().__init__(reason, message)
        self.again, self.silent, self.rest = again, silent, rest


def raised(exc: Exception) -> RequestFailed:
    """What one of RAISED means. Raises ClusterError for what is the fault of this machine."""
    if isinstance(exc, aiohttp.ClientSSLError):
        return RequestFailed(Reason.CONNECT, _plain(exc), silent=True)
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, AddressRefused):
        return RequestFailed(Reason.BLOCKED_ADDRESS, cause.message)
    if isinstance(cause, OSError) and cause.errno in _NO_FILES:
        raise ClusterError(f"fetch: {cause}", "lower fetch.requests, or raise the limit of open files (ulimit -n)")
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        again = exc.os_error.errno == socket.EAI_AGAIN
        return RequestFailed(Reason.DNS, _plain(exc.os_error), again=again, silent=True)
    if isinstance(exc, TimeoutError):
        return RequestFailed(Reason.TIMEOUT, str(exc) or "longer than fetch.total_seconds", again=True, silent=True)
    if isinstance(exc, aiohttp.ClientPayloadError):
        return RequestFailed(Reason.CONNECT, f"the answer is cut: {_plain(exc)}", again=True, silent=True)
    if isinstance(exc, aiohttp.ClientConnectionError | OSError):
        return RequestFailed(Reason.CONNECT, _plain(cause), again=True, silent=True)
    return RequestFailed(Reason.BAD_ANSWER, _plain(exc))


def answered(answer: aiohttp.ClientResponse) -> RequestFailed:
    """What an answer without an image means."""
    status, message = answer.status, _status(answer.status)
    if status in _GONE:
        return RequestFailed(Reason.HTTP_404, message)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RequestFailed(Reason.THROTTLED, message, again=True, rest=retry_after_seconds(answer.headers) or 0.0)
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return RequestFailed(Reason.TIMEOUT, message, again=True)
    if 400 <= status < 500:
        return RequestFailed(Reason.HTTP_4XX, message)
    if 500 <= status < 600:
        return RequestFailed(
            Reason.HTTP_5XX, message, again=status not in _HOPELESS, rest=retry_after_seconds(answer.headers)
        )
    return RequestFailed(Reason.BAD_ANSWER, f"{message} is no answer to this request")


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _plain(exc: BaseException) -> str:
    said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return said[:300] or type(exc).__name__
