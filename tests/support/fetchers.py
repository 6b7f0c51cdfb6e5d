"""Read what a fetcher yields."""

from collections.abc import Callable

from jobs.errors import Reject
from jobs.fetch import Fetcher

MakeFetcher = Callable[..., Fetcher]


def fetched(fetcher: Fetcher, *urls: str | None) -> list[bytes | str]:
    """The bytes or the reason of each url, in the order of the urls."""
    found = dict(fetcher.fetch(urls))
    assert sorted(found) == list(range(len(urls)))
    return [result.reason.value if isinstance(result, Reject) else result for _, result in sorted(found.items())]


def only(fetcher: Fetcher, url: str) -> bytes | str:
    return fetched(fetcher, url)[0]
