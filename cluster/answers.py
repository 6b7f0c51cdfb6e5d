"""Translate errors of Ray's job client into HeadError, with a hint."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import requests
from ray.exceptions import AuthenticationError, RpcError


class HeadError(Exception):
    """A request to the head of a Ray cluster failed. `hint` is what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


class HeadUnreachable(HeadError):
    """The head did not answer. It may come back."""


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Raise errors of Ray, aiohttp, requests and ssl as HeadError."""
    try:
        yield
    except (AuthenticationError, aiohttp.WSServerHandshakeError) as exc:
        if isinstance(exc, aiohttp.WSServerHandshakeError) and exc.status not in (401, 403):
            raise no_job_server(address) from exc  # a proxy whose head is gone
        raise HeadError(
            f"{address} refuses access: {str(exc).splitlines()[0]}",
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token (ray get-auth-token on the head)",
        ) from exc
    except (ConnectionError, requests.RequestException, aiohttp.ClientError, TimeoutError, KeyError, RpcError) as exc:
        tls = [error for error in (exc, exc.__context__) if isinstance(error, requests.exceptions.SSLError)]
        raise (_untrusted(address, str(tls[0])) if tls else no_job_server(address)) from exc
    except (FileNotFoundError, ssl.SSLError) as exc:
        raise HeadError(str(exc), "--verify takes true, false, or a file of CA certificates") from exc
    except RuntimeError as exc:
        raise _refused(address, str(exc)) from exc


def no_job_server(address: str) -> HeadUnreachable:
    hint = "give the address of Ray's dashboard, http://HEAD:8265; is it running, and is its port reachable from here?"
    return HeadUnreachable(f"no Ray job server answers at {address}", hint)


def _untrusted(address: str, text: str) -> HeadError:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return HeadError(f"{address}: its certificate is not trusted", "pass its CA certificate with --verify FILE")
    return HeadError(f"{address}: the server does not speak TLS", "is it an http:// address?")


def _refused(address: str, text: str) -> HeadError:
    """Translate an error answer. The head sends a traceback; its last line is the message."""
    lines = [line for line in text.splitlines() if line.strip(". ")]
    message = re.sub(r"^(\w+\.)*\w+Error: |^Request failed with status code \d+: ", "", lines[-1]) if lines else text
    if "Version check returned 404" in message or "was parsed from address" in message:  # not an http server of Ray
        return no_job_server(address)
    if "does not exist" in message:
        return HeadError(f"{address}: {message}", "coyo-jobs list shows the submissions of the cluster")
    if "already exists" in message:
        return HeadError(f"{address}: {message.split('. ')[0]}", "choose another --id, or omit it")
    transient = "WebSocket" in message or re.match("Request failed with status code 5", text)  # also from a proxy
    return (HeadUnreachable if transient else HeadError)(f"{address}: {message}")
