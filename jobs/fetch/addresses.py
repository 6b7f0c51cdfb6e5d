"""Which addresses urls may lead to: public ones, and those in networks that the recipe allows.

A url is untrusted input, and this process can reach what the url's author cannot: the machine itself, the cluster's
network, the cloud's metadata service. So each address is checked where its socket is created, and the socket connects
to exactly that address. Host names, literal addresses and redirects all pass this check, and no DNS lookup happens
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

# Not ipaddress.is_global: it changes between Python releases, and one metadata service has a public address.
_SPECIAL4 = {
    "0.0.0.0/8": "this host",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared address space of a provider",
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
_SPECIAL = {ip_network(network): description for network, description in {**_SPECIAL4, **_SPECIAL6}.items()}
_LOOKUPS = 64  # concurrent DNS lookups; one of a dead name takes 10 seconds or more
_UNICAST6 = IPv6Network("2000::/3")  # all public unicast addresses
_NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 addresses as seen from IPv6-only networks


class AddressRefused(OSError):
    """The policy forbids a connection to this address."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "the address is refused"
        )  # the same for each: aiohttp keeps the first of equal errors as it is
        self.message = message


class AddressPolicy:
    """Checks addresses, and creates sockets for the allowed ones."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [ip_network(network) for network in allowed]

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """Create a socket for aiohttp's connector, which connects it to this very address. Raises AddressRefused."""
        family, kind, protocol, _, address = info
        if description := self.refusal(str(address[0])):
            raise AddressRefused(f"{address[0]} is {description}")
        return socket.socket(family, kind, protocol)

    def refusal(self, text: str) -> str | None:
        """Why this address is refused, as a description such as "loopback"; None if it is allowed."""
        try:
            address = ip_address(text)
        except ValueError:
            return "not an address"
        target = _embedded(address)
        if any(candidate in network for network in self._allowed for candidate in (address, target)):
            return None
        if description := next((text for network, text in _SPECIAL.items() if target in network), None):
            return description
        return "not a public address" if isinstance(target, IPv6Address) and target not in _UNICAST6 else None


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped or NAT64 address, which is where a connection leads."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class SystemResolver(AbstractResolver):
    """The system's resolver in a thread pool, with a timeout of `seconds` per lookup, counted from its start. A lookup
    that hangs keeps its thread.
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
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        lookup.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._seconds):
                infos = await asyncio.shield(lookup)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer in {self._seconds:g} s") from None
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=0)
            for kind, _, proto, _, address in infos
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self, lookup: asyncio.Future[Any]) -> None:
        self._free.release()
        if not lookup.cancelled():
            lookup.exception()  # mark as retrieved: the caller may have timed out
