"""A url as it stands in a corpus, or in a redirect, becomes one that may be asked for, or is a bad_url.

Where it leads is judged when it is connected to, in addresses.py.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from yarl import URL

from jobs.errors import Reason, Reject

_LONGEST = 8192  # characters; servers refuse longer ones
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PLAIN = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)  # RFC 3986: nothing to quote
_NAME = re.compile(r"(?=.{1,254}$)[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
_AUTHORITY = re.compile(r"([^@\[\]:]+|\[[^@\[\]]+\])(:[0-9]*)?")


def parse(text: str | None) -> URL:
    """Raises Reject: no_image without a url, bad_url."""
    stripped = (text or "").strip(" \t\r\n")
    if not stripped:
        raise Reject(Reason.NO_IMAGE, "no url")
    return _checked(stripped)


def resolve_redirect(url: URL, location: str) -> URL:
    """Where a redirect leads. Raises Reject: bad_url."""
    try:
        return _checked(location.strip(" \t"), url)
    except Reject as exc:
        raise Reject(exc.reason, f"redirects to {exc.message}") from None


def _checked(text: str, base: URL | None = None) -> URL:
    """A url of plain characters is asked for exactly as it is written: some are signed."""
    if len(text) > _LONGEST:
        raise _bad(text, f"is longer than {_LONGEST} characters")
    if _CONTROL.search(text):
        raise _bad(text, "has control characters")
    try:
        url = URL(text, encoded=bool(_PLAIN.fullmatch(text)))
        url = base.join(url) if base else url
        why = _why_not(url)
    except ValueError as exc:
        raise _bad(text, f"is not a url: {exc}") from None
    if why:
        raise _bad(text, why)
    return url


def _why_not(url: URL) -> str | None:
    """Raises ValueError for a port that is none."""
    if url.scheme not in ("http", "https"):
        return "is not http or https"
    if url.raw_user is not None or url.raw_password is not None:
        return "has credentials in it"
    parts = _AUTHORITY.fullmatch(url.raw_authority)
    if not parts or not _is_host(parts[1]):
        return "has no host, or one of an odd form"
    return None if url.port else "has port 0"


def _is_host(host: str) -> bool:
    """A name, or an address in its usual form: what only looks like a number, 0x7f.1 or 2130706433, is neither."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1]).scope_id is None
        last = host.removesuffix(".").rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x"):
            return bool(IPv4Address(host))
    except AddressValueError:
        return False
    return bool(_NAME.fullmatch(host))


def _bad(text: str, why: str) -> Reject:
    """The message shows the url, without what could be a password."""
    return Reject(Reason.BAD_URL, f"{re.sub('//[^/]*@', '//...@', text)[:200]!r} {why}")
