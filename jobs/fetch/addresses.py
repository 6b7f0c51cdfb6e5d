"""Which addresses urls may lead to: public ones, and those of networks that the recipe names.

A url is untrusted input, and this process may reach what its author may not: the machine itself, the cluster's network,
the cloud's metadata service. So every address is judged where a socket for it is made, with the very numbers that the
socket is then connected to. SystemResolver, literal addresses and redirects all come through there, and nothing is looked up
between the check and the connection.
"""

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

Address = IPv4Address | IPv6Address

# Not what ipaddress calls global: it changes with Python's releases, and a metadata service has a public address.
_SPECIAL4 = {
    "0.0.0.0/8": "this host",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared by a provider's customers",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "a metadata service",
    "169.254.0.0/16": "link-local, where metadata services are",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "reserved",
    "192.52.193.0/24": "reserved",
    "192.88.99.0/24": "a relay to IPv6",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "reserved",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_SPECIAL6 = {
    "::1/128": "loopback",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
    "2001::/23": "reserved, or an IPv4 address in Teredo's form",
    "2001:db8::/32": "documentation",
    "2002::/16": "an IPv4 address in 6to4's form",
    "2620:4f:8000::/48": "reserved",
    "3fff::/20": "documentation",
}
_SPECIAL = {ip_network(network): what for network, what in {**_SPECIAL4, **_SPECIAL6}.items()}
_LOOKUPS = 64  # names looked up at once: a dead one takes ten seconds and more
_UNICAST6 = IPv6Network("2000::/3")  # all that is given out to the public
_NAT64 = IPv6Network("64:ff9b::/96")  # where a network without IPv4 reaches IPv4


class AddressRefused(OSError):
    """No connection is made to this address."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "the address is refused"
        )  # the same for each: aiohttp keeps the first of equal errors as it is
        self.message = message


class AddressPolicy:
    """Judges addresses, and makes the sockets that connect to them."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [ip_network(network) for network in allowed]

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """For aiohttp's connector, which connects it to exactly the address in `info`. Raises AddressRefused."""
        family, kind, protocol, _, place = info
        if why := self.refusal(str(place[0])):
            raise AddressRefused(f"{place[0]} is {why}")
        return socket.socket(family, kind, protocol)

    def refusal(self, text: str) -> str | None:
        """What is special about this address; None if it may be connected to."""
        try:
            address = ip_address(text)
        except ValueError:
            return "not an address"
        inner = _inner(address)
        if any(each in network for network in self._allowed for each in (address, inner)):
            return None
        if what := next((what for network, what in _SPECIAL.items() if inner in network), None):
            return what
        return "not a public address" if isinstance(inner, IPv6Address) and inner not in _UNICAST6 else None


def _inner(address: Address) -> Address:
    """The IPv4 address that is really connected to, for the two forms that reach public ones."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class SystemResolver(AbstractResolver):
    """The system's resolver, in threads of its own. A lookup that hangs keeps its thread; nobody waits for it longer
    than `seconds`, which begin when there is a thread.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._free = asyncio.Semaphore(_LOOKUPS)
        self._threads = ThreadPoolExecutor(_LOOKUPS, "lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        await self._free.acquire()
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        found.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._seconds):
                infos = await asyncio.shield(found)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer in {self._seconds:g} s") from None
        return [
            ResolveResult(hostname=host, host=str(place[0]), port=port, family=of, proto=proto, flags=0)
            for of, _, proto, _, place in infos
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, found: asyncio.Future[Any]) -> None:
        self._free.release()
        if not found.cancelled():
            found.exception()  # seen: whoever waited may be gone
