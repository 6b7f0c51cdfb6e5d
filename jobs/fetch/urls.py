"""Parse and check the urls of a corpus and of redirects. addresses.py checks where they lead, when connecting."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from yarl import URL

from jobs.errors import Reason, Reject

_MAX_LENGTH = 8192  # characters; servers refuse longer ones
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_PLAIN = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)  # RFC 3986: nothing to quote
_NAME = re.compile(r"(?=.{1,254}$)[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
_AUTHORITY = re.compile(r"([^@\[\]:]+|\[[^@\[\]]+\])(:[0-9]*)?")


def parse(text: str | None) -> URL:
    """Parse a url. Raises Reject: no_image if there is none, bad_url if it is not allowed."""
    stripped = (text or "").strip(" \t\r\n")
    if not stripped:
        raise Reject(Reason.NO_IMAGE, "no url")
    return _checked(stripped)


def resolve_redirect(url: URL, location: str) -> URL:
    """Resolve the Location of a redirect. Raises Reject (bad_url)."""
    try:
        return _checked(location.strip(" \t"), url)
    except Reject as exc:
        raise Reject(exc.reason, f"redirects to {exc.message}") from None


def _checked(text: str, base: URL | None = None) -> URL:
    """Parse and check. A url of RFC 3986 characters is kept exactly as written, since it may be signed."""
    if len(text) > _MAX_LENGTH:
        raise _bad(text, f"is longer than {_MAX_LENGTH} characters")
    if _CONTROL.search(text):
        raise _bad(text, "has control characters")
    try:
        url = URL(text, encoded=bool(_PLAIN.fullmatch(text)))
        url = base.join(url) if base else url
        problem = _find_problem(url)
    except ValueError as exc:
        raise _bad(text, f"is not a url: {exc}") from None
    if problem:
        raise _bad(text, problem)
    return url


def _find_problem(url: URL) -> str | None:
    """What is wrong with the url, or None. Raises ValueError for an invalid port."""
    if url.scheme not in ("http", "https"):
        return "is not http or https"
    if url.raw_user is not None or url.raw_password is not None:
        return "contains credentials"
    parts = _AUTHORITY.fullmatch(url.raw_authority)
    if not parts or not _is_host(parts[1]):
        return "has no host, or a malformed one"
    return None if url.port else "has port 0"


def _is_host(host: str) -> bool:
    """Whether this is a host name or an address in standard form; 0x7f.1 and 2130706433 are neither."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1]).scope_id is None
        last = host.removesuffix(".").rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x"):
            return bool(IPv4Address(host))
    except AddressValueError:
        return False
    return bool(_NAME.fullmatch(host))


def _bad(text: str, problem: str) -> Reject:
    """A bad_url; its message has the url without a possible password."""
    return Reject(Reason.BAD_URL, f"{re.sub('//[^/]*@', '//...@', text)[:200]!r} {problem}")
