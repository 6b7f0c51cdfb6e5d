"""Thousands of urls at once: each gets one result, limits hold, memory stays flat, nothing is left behind."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import count, islice
from typing import Any

import pytest

from jobs.config import FetchConfig
from jobs.errors import ConfigError
from jobs.fetch import Fetcher, memory
from tests.support.fetchers import MakeFetcher, fetched, only
from tests.support.hostile import IMAGE, Everywhere, Hostile
from tests.support.processes import until


def test_every_url_gets_its_own_bytes_once(fetcher: MakeFetcher, server: Hostile) -> None:
    urls: list[str | None] = [server.url(f"named/{i}", f"h{i % 300}.example") for i in range(3000)]
    urls[7] = None
    found = fetched(fetcher(requests=64), *urls)
    assert found == [b"/named/%d" % i if i != 7 else "no_image" for i in range(3000)]
    assert len(server.requests) == 2999


def test_no_urls_are_no_results(fetcher: MakeFetcher) -> None:
    assert list(fetcher().fetch([])) == []


@pytest.mark.parametrize("most", [1, 3])
def test_a_host_never_has_more_requests_than_its_limit(fetcher: MakeFetcher, server: Hostile, most: int) -> None:
    """Its redirects too, and whatever the port or the case of its letters."""
    urls = [server.url(f"crowd/{most}/{i}", "Host.example" if i % 2 else "host.example.") for i in range(20)]
    urls += [server.url(f"to/%2Fcrowd%2F{most}", "host.example") for _ in range(5)]
    assert fetched(fetcher(requests_per_host=most), *urls) == [IMAGE] * 25
    assert server.most == most


def test_all_hosts_together_have_no_more_requests_than_the_limit(fetcher: MakeFetcher, server: Hostile) -> None:
    urls = [server.url("crowd/25", f"h{i}.example") for i in range(200)]
    assert fetched(fetcher(requests=25), *urls) == [IMAGE] * 200
    assert server.most == 25


def test_redirects_from_host_to_host_do_not_wait_for_each_other_for_ever(fetcher: MakeFetcher, server: Hostile) -> None:
    """A redirect that kept its turn while waiting for the other host would deadlock."""
    to = [server.url("hold/0.01", f"{name}.example").replace("/", "%2F").replace(":", "%3A") for name in "ab"]
    urls = [server.url(f"to/{to[i % 2]}", "ba"[i % 2] + ".example") for i in range(60)]
    assert fetched(fetcher(requests=2, requests_per_host=1), *urls) == [IMAGE] * 60


def test_a_slow_host_holds_up_no_other(fetcher: MakeFetcher, server: Hostile) -> None:
    """Its urls wait without blocking others; results come in order of completion."""
    urls = [
        server.url(f"silence/{i}", "slow.example") if i % 2 else server.url("image", f"h{i}.example")
        for i in range(200)
    ]
    results = fetcher(requests=25, requests_per_host=1).fetch(urls)
    assert dict(islice(results, 100)) == dict.fromkeys(range(0, 200, 2), IMAGE)
    results.close()  # type: ignore[attr-defined]


def test_connections_are_kept_for_the_hosts_that_are_asked_again(fetcher: MakeFetcher, server: Hostile) -> None:
    fetched(fetcher(requests_per_host=4), *[server.url("image", "often.example")] * 200)
    assert server.connections <= 8
    rare = [server.url("image", f"rare{i}.example") for i in range(50)]
    fetched(fetcher(), *rare)
    assert sum(request.headers.get("connection") == "close" for request in server.requests[200:]) == 50


def test_a_name_is_looked_up_once_for_many_urls(fetcher: MakeFetcher, server: Hostile) -> None:
    resolver = Everywhere()
    fetched(fetcher(resolver), *[server.url("image", f"h{i % 3}.example") for i in range(300)])
    assert set(resolver.lookups.values()) == {1}


def test_a_caller_that_is_slow_slows_the_requests_down(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "BACKLOG", 1_000_000)
    results = fetcher(requests=10, requests_per_host=10).fetch(server.url("big/100000") for _ in range(1000))
    next(results)
    time.sleep(1)
    assert len(server.requests) <= 60  # ten of them are the backlog; of the others, some were under way
    assert len(list(results)) == 999


def test_urls_are_taken_as_they_are_needed(fetcher: MakeFetcher, server: Hostile) -> None:
    taken = count()
    urls = (server.url(f"hold/0.05/{next(taken)}") for _ in range(100_000))
    results = fetcher(requests=4).fetch(urls)
    next(results)
    assert next(taken) <= 100


def test_whoever_stops_early_leaves_nothing_behind(fetcher: MakeFetcher, server: Hostile) -> None:
    before = set(threading.enumerate())
    going_on = fetcher(requests=20)
    results = going_on.fetch([server.url("image"), *(server.url("drip", f"h{i}.example") for i in range(10))])
    next(results)
    until(lambda: server.now == 10)
    results.close()  # type: ignore[attr-defined]
    until(lambda: server.now == 0 and server.lost == 10)
    assert only(going_on, server.url("image")) == IMAGE
    going_on.close()
    going_on.close()
    assert "fetch" not in {thread.name for thread in set(threading.enumerate()) - before}


def test_several_threads_share_the_limits(fetcher: MakeFetcher, server: Hostile) -> None:
    shared, found = fetcher(requests=10, requests_per_host=10), Counter[Any]()

    def fetch() -> None:
        found.update(dict(shared.fetch([server.url("crowd/10")] * 50)).values())

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {IMAGE: 200}
    assert server.most == 10


def test_a_mistake_of_ours_reaches_the_caller(fetcher: MakeFetcher, server: Hostile) -> None:
    """Not a hang, not a reject."""

    class Wrong(Everywhere):
        async def resolve(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetched(fetcher(Wrong()), *[server.url("image", f"h{i}.example") for i in range(10)])


def test_more_requests_than_files_may_be_open_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [256, 4096]
    monkeypatch.setattr("resource.getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: limits.__setitem__(0, wanted[0]))
    Fetcher(FetchConfig(requests=1000)).close()
    assert limits == [2512, 4096]
    with pytest.raises(ConfigError, match=r"fetch\.requests"):
        Fetcher(FetchConfig(requests=5000))


RSS = """
import json, resource, sys
from collections import Counter
from jobs.config import FetchConfig
from jobs.errors import Reject
from jobs.fetch import Fetcher, memory
from tests.support.hostile import Everywhere

port, rows = int(sys.argv[1]), int(sys.argv[2])
memory.LARGE, memory.BACKLOG = 8 << 20, 4 << 20
paths = ["big/50000"] * 37 + ["big/900000", "endless", "bomb"]
urls = (f"http://h{i % 1000}.example:{port}/{paths[i % 40]}" for i in range(rows))
limits = {"connect_seconds": 600, "read_seconds": 600, "total_seconds": 600}
config = FetchConfig(max_bytes=1_000_000, allow_networks=("127.0.0.0/8",), requests=50, **limits)
with Fetcher(config, Everywhere()) as fetcher:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter(result.reason if isinstance(result, Reject) else len(result) for _, result in fetcher.fetch(urls))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([grown * 1024, found]))
"""


def test_memory_stays_flat_whatever_is_sent(server: Hostile) -> None:
    """Thousands of urls, among them endless bodies, bombs and large files: 206 MB of them are good."""
    rows = 3000
    command = [sys.executable, "-c", RSS, str(server.port), str(rows)]
    grown, found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found == {"50000": rows * 37 // 40, "900000": rows // 40, "too_large": rows // 20}
    assert grown < 100 << 20
