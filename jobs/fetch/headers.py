"""What we say of ourselves, and what servers say to machines like us."""

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
_LONGEST_REST = 3600.0  # seconds that a Retry-After is remembered for


def user_agent(contact: str | None) -> str:
    return f"{PRODUCT}/{__version__}" + (f" (+{contact})" if contact else "")


def forbidding_directive(headers: Headers) -> str | None:
    """The first directive of X-Robots-Tag that keeps an image from us."""
    for value in headers.getall("X-Robots-Tag", ()):
        for agent, directive in _directives(value):
            if agent in ("*", PRODUCT) and directive in _FORBIDDEN:
                return directive
    return None


def _directives(value: str) -> Iterable[tuple[str, str]]:
    """(user agent, directive), in lower case. `otherbot: noindex, noai` is otherbot's, up to the next name."""
    agent = "*"
    for part in value.lower().split(","):
        name, colon, rest = (word.strip() for word in part.partition(":"))
        if colon and name not in _VALUED and _AGENT.fullmatch(name):
            agent, name = name, rest
        yield agent.partition("/")[0], name


def retry_after_seconds(headers: Headers) -> float | None:
    """Seconds, from seconds or a date; None if there is nothing that can be read."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_REST)
