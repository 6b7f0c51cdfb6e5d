"""What a head of a Ray cluster answers, or does not, as a HeadError with a hint."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import requests
from ray.exceptions import AuthenticationError, RpcError


class HeadError(Exception):
    """A head cannot do what was asked; `hint` is what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


class Unreachable(HeadError):
    """No answer: it may come back."""


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Foreign errors into HeadError, in this one place."""
    try:
        yield
    except (AuthenticationError, aiohttp.WSServerHandshakeError) as exc:
        if isinstance(exc, aiohttp.WSServerHandshakeError) and exc.status not in (401, 403):  # a proxy without its head
            raise absent(address) from exc
        raise HeadError(
            f"{address} does not let us in: {str(exc).splitlines()[0]}",
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token; ray get-auth-token prints it there",
        ) from exc
    except (ConnectionError, requests.RequestException, aiohttp.ClientError, TimeoutError, KeyError, RpcError) as exc:
        tls = [each for each in (exc, exc.__context__) if isinstance(each, requests.exceptions.SSLError)]
        raise (_untrusted(address, str(tls[0])) if tls else absent(address)) from exc
    except (FileNotFoundError, ssl.SSLError) as exc:
        raise HeadError(str(exc), "--verify is true, false, or a file of certificates") from exc
    except RuntimeError as exc:
        raise _refused(address, str(exc)) from exc


def absent(address: str) -> Unreachable:
    hint = "name Ray's dashboard, such as http://HEAD:8265; is it started, and can its port be reached from here?"
    return Unreachable(f"no Ray job server answers at {address}", hint)


def _untrusted(address: str, text: str) -> HeadError:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return HeadError(f"{address}: its certificate is not trusted here", "--verify FILE names what to trust")
    return HeadError(f"{address}: nothing there speaks TLS", "is it an http:// address?")


def _refused(address: str, text: str) -> HeadError:
    """What a head answers comes as the last line of a traceback of its own."""
    lines = [line for line in text.splitlines() if line.strip(". ")]
    said = re.sub(r"^(\w+\.)*\w+Error: |^Request failed with status code \d+: ", "", lines[-1]) if lines else text
    if "Version check returned 404" in said or "was parsed from address" in said:  # another scheme than http
        return absent(address)
    if "does not exist" in said:
        return HeadError(f"{address}: {said}", "list shows what the cluster remembers")
    if "already exists" in said:
        return HeadError(f"{address}: {said.split('. ')[0]}", "leave --id out, or give another")
    passing = "WebSocket" in said or re.match("Request failed with status code 5", text)  # also of a proxy before it
    return (Unreachable if passing else HeadError)(f"{address}: {said}")
