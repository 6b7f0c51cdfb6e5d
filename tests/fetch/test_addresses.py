"""Untrusted urls reach only the public web, however the address is written or resolved."""

import socket
import threading
from itertools import islice
from typing import Any

import pytest

from jobs.config import FetchConfig
from jobs.fetch import Fetcher, addresses
from jobs.fetch.addresses import AddressPolicy, AddressRefused
from tests.support.fetchers import MakeFetcher, fetched, only
from tests.support.hostile import IMAGE, Everywhere, Hostile

SPECIAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.128.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255"]
PUBLIC += ["2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_is_refused(address: str) -> None:
    assert AddressPolicy().refusal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    assert AddressPolicy().refusal(address) is None


@pytest.mark.parametrize("text", ["localhost", "0x7f.1", "2130706433", "127.1", "fe80::1%lo", "", "8.8.8.8 "])
def test_what_is_not_written_as_an_address_is_refused(text: str) -> None:
    """A socket would resolve it after the check."""
    assert AddressPolicy().refusal(text)


def test_a_network_that_the_recipe_names_is_allowed_in_every_form() -> None:
    named = AddressPolicy(["10.1.0.0/16", "fd00::/8"])
    for allowed in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"):
        assert named.refusal(allowed) is None, allowed
    for refused in ("10.2.0.1", "::ffff:10.2.0.1", "127.0.0.1", "fc00::1", "2002:a01:203::"):
        assert named.refusal(refused), refused


def test_no_socket_is_made_for_a_special_address() -> None:
    with pytest.raises(AddressRefused) as caught:
        AddressPolicy().open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))
    assert caught.value.message == "169.254.169.254 is link-local, where metadata services are"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[::ffff:7f00:1]", "0.0.0.0"]
)
def test_a_literal_address_is_checked_like_a_name(fetcher: MakeFetcher, server: Hostile, host: str) -> None:
    assert only(fetcher(allow_networks=()), server.url("image", host)) == "blocked_address"
    assert server.connections == 0


@pytest.mark.parametrize(("networks", "result"), [((), "blocked_address"), (("127.0.0.0/8",), IMAGE)])
def test_the_machines_own_name_is_blocked(server: Hostile, networks: tuple[str, ...], result: bytes | str) -> None:
    """With the system's resolver."""
    with Fetcher(FetchConfig(allow_networks=networks)) as fetcher:
        assert only(fetcher, server.url("image", "localhost")) == result
    assert server.connections == len(networks)


def test_a_lookup_that_hangs_is_not_waited_for_and_does_not_delay_the_others(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread is occupied until it returns; the timeout of the others starts when they get a thread."""
    returns = threading.Event()

    def some_hang(host: str, port: int, *_: Any, **__: Any) -> Any:
        if host.startswith("hangs"):
            returns.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", some_hang)
    monkeypatch.setattr(addresses, "_LOOKUPS", 2)
    urls = [server.url("image", f"{name}{i}.example") for name in ("hangs", "good") for i in range(2)]
    with Fetcher(FetchConfig(connect_seconds=3.0, retries=0, allow_networks=("127.0.0.0/8",))) as fetcher:
        results = fetcher.fetch(urls)
        lost = dict(islice(results, 2))
        returns.set()
        assert {index: str(result) for index, result in lost.items()} == dict.fromkeys(
            (0, 1), "(<Reason.DNS: 'dns'>, 'no answer in 3 s')"
        )
        assert dict(results) == {2: IMAGE, 3: IMAGE}


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:127.0.0.2]:PORT/image",
        "http://[::1]:PORT/image",
        "http://127.0.0.2:PORT/image",
        "http://inside.example:PORT/image",
    ],
)
def test_every_redirect_is_checked(fetcher: MakeFetcher, server: Hostile, target: str) -> None:
    """127.0.0.1 stands for the public web here, where the first answer comes from."""
    resolver = Everywhere(["127.0.0.2"])
    target = target.replace("PORT", str(server.port)).replace("/", "%2F").replace(":", "%3A")
    assert only(fetcher(resolver, allow_networks=("127.0.0.1/32",)), server.url(f"to/{target}")) == "blocked_address"
    assert server.asked_at == {"127.0.0.1"}
    assert server.connections == 1


def test_a_name_is_looked_up_once_for_the_check_and_the_connection(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that changes: the first answer is public (127.0.0.1 here), each later one is inside (127.0.0.2)."""
    resolver = Everywhere(["127.0.0.1"], ["127.0.0.2"])
    looked_up: list[Any] = []

    def watched(*args: Any, **rest: Any) -> Any:
        looked_up.append(args)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    rebinding = fetcher(resolver, allow_networks=("127.0.0.1/32",))
    assert only(rebinding, server.url("image", "rebind.example")) == IMAGE
    assert resolver.lookups == {"rebind.example": 1}
    assert server.asked_at == {"127.0.0.1"}
    assert looked_up == []


def test_an_address_is_checked_again_for_every_connection(fetcher: MakeFetcher, server: Hostile) -> None:
    """A retry after a failure may find another address behind the name; aiohttp forgets a name that fails."""
    resolver = Everywhere(["127.0.0.2"])
    inside = fetcher(resolver, allow_networks=("127.0.0.1/32",), retries=2)
    assert fetched(inside, *[server.url(f"image/{i}", "inside.example") for i in range(20)]) == ["blocked_address"] * 20
    assert server.connections == 0


def test_a_resolver_that_gives_a_name_gets_no_second_look_up(fetcher: MakeFetcher, server: Hostile) -> None:
    assert only(fetcher(Everywhere(["localhost"])), server.url("image", "a.example")) == "blocked_address"


def test_of_several_addresses_the_special_ones_are_left_out(fetcher: MakeFetcher, server: Hostile) -> None:
    some = Everywhere(["10.0.0.1", "127.0.0.2", "127.0.0.1", "::1"])
    assert only(fetcher(some, allow_networks=("127.0.0.1/32",)), server.url("image", "a.example")) == IMAGE
    assert server.asked_at == {"127.0.0.1"}
    none = Everywhere(["10.0.0.1", "127.0.0.2", "::1"])
    assert only(fetcher(none, allow_networks=()), server.url("image", "a.example")) == "blocked_address"


def test_no_proxy_of_the_environment_is_used(
    fetcher: MakeFetcher, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect without the check."""
    with Hostile() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("").rstrip("/"))
        assert only(fetcher(), server.url("image")) == IMAGE
        assert proxy.connections == 0
