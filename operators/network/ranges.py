"""Arithmetic on addresses: pools, what is left without pools, searching for a free address. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, order=True)
class Range:
    """Addresses as numbers, both ends included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def overlaps(self, other: Range) -> bool:
        return self.first <= other.last and other.first <= self.last


def usable(cidr: IPNetwork) -> Range:
    """What hosts may have: of IPv4 all but the network's own address and the broadcast (RFC 1122, 3.2.1.3), of IPv6
    all but the subnet-router anycast address (RFC 4291, 2.6.1)."""
    first, last = int(cidr.network_address) + 1, int(cidr.broadcast_address)
    return Range(first, last - 1 if cidr.version == 4 else last)


def without(whole: Range, hole: int | None) -> tuple[Range, ...]:
    """`whole` without one number."""
    if hole is None or hole not in whole:
        return (whole,)
    parts = (Range(whole.first, hole - 1), Range(hole + 1, whole.last))
    return tuple(part for part in parts if part.size > 0)


def address(number: int, version: int) -> IPAddress:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def parse(text: str) -> IPAddress:
    return ip_address(text)


def spread(seed: str, size: int) -> int:
    """A number below `size` that differs from seed to seed: where a search begins, so that many that begin at once do
    not all want the same."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16]) % size


def from_offset(pools: Sequence[Range], offset: int) -> Iterator[int]:
    """All numbers of `pools`, beginning at the one numbered `offset`, and round."""
    for begin, end in ((offset, None), (0, offset)):
        position = 0
        for pool in pools:
            low = max(begin - position, 0)
            high = pool.size if end is None else min(end - position, pool.size)
            yield from range(pool.first + low, pool.first + max(high, low))
            position += pool.size


def find_free(pools: Sequence[Range], taken: Callable[[int], bool], taken_count: int, seed: str | None) -> int | None:
    """A number of `pools` that is not taken: the lowest without a seed, else the first from where the seed points.

    taken_count: how many are taken in all, in the pools or outside; lets an exhausted pool be seen without a search
    where it can. None when there is none.
    """
    total = sum(pool.size for pool in pools)
    if total == 0:
        return None
    offset = 0 if seed is None else spread(seed, total)
    # Among taken_count + 1 numbers one must be free; a /64 is never walked through.
    limit = min(total, taken_count + 1)
    for tries, number in enumerate(from_offset(pools, offset)):
        if tries == limit:
            break
        if not taken(number):
            return number
    return None


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The address that a guest with this MAC makes itself by SLAAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(int(prefix.network_address) | int.from_bytes(interface))


def generated_mac(uid: str, attempt: int) -> str:
    """A MAC with OpenStack's prefix fa:16:3e; another one for each attempt."""
    low = hashlib.sha256(f"{uid}/mac/{attempt}".encode()).digest()
    return "fa:16:3e:" + ":".join(f"{octet:02x}" for octet in low[:3])
