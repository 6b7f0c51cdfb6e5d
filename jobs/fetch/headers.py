"""The User-Agent that we send, and the X-Robots-Tag and Retry-After that servers send."""

import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from multidict import CIMultiDictProxy

from jobs import __version__

Headers = CIMultiDictProxy[str]

PRODUCT = "coyo-jobs"
_FORBIDDEN = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})  # none: noindex, nofollow
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[a-z*][\w.*/-]*", re.ASCII)
_MAX_RETRY_AFTER = 3600.0  # seconds; a longer Retry-After is cut to this


def user_agent(contact: str | None) -> str:
    """Name and version of this program, and the recipe's contact."""
    return f"{PRODUCT}/{__version__}" + (f" (+{contact})" if contact else "")


def forbidding_directive(headers: Headers) -> str | None:
    """The first directive of X-Robots-Tag that forbids us the use of the image, or None."""
    for value in headers.getall("X-Robots-Tag", ()):
        for agent, directive in _directives(value):
            if agent in ("*", PRODUCT) and directive in _FORBIDDEN:
                return directive
    return None


def _directives(value: str) -> Iterable[tuple[str, str]]:
    """Yield (user agent, directive) in lower case. An agent applies to all directives up to the next agent."""
    agent = "*"
    for part in value.lower().split(","):
        name, colon, rest = (word.strip() for word in part.partition(":"))
        if colon and name not in _VALUED and _AGENT.fullmatch(name):
            agent, name = name, rest
        yield agent.partition("/")[0], name


def retry_after_seconds(headers: Headers) -> float | None:
    """Retry-After as seconds from now, from a number or a date; None if absent or malformed."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
