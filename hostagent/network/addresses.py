"""Arithmetic on addresses, as canonical strings."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def check_mac(text: str) -> str:
    """The MAC in lower case. Raises ValueError for what is no unicast MAC."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{text!r} is not a unicast MAC address")
    return mac


def version(text: str) -> int:
    """4 or 6, of an address or a prefix."""
    return 6 if ":" in text else 4


@functools.lru_cache(maxsize=1 << 14)
def canonical_prefix(text: str) -> str:
    """An address or prefix as `collapse` writes it. Raises ValueError."""
    return bare(ipaddress.ip_network(text, strict=False))


def collapse(prefixes: Iterable[str]) -> list[str]:
    """The least set of prefixes that covers the same addresses, sorted; a single address without its length."""
    return list(_collapsed(tuple(prefixes)))


# Groups of hundreds of members stay the same from one reconcile to the next.
@functools.lru_cache(maxsize=256)
def _collapsed(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    networks = [ipaddress.ip_network(each, strict=False) for each in prefixes]
    four = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    return (*(bare(each) for each in four), *(bare(each) for each in six))


def bare(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def split(prefixes: Iterable[str]) -> dict[int, list[str]]:
    """By version."""
    result: dict[int, list[str]] = {4: [], 6: []}
    for each in prefixes:
        result[version(each)].append(each)
    return result


def link_local(mac: str) -> str:
    """The IPv6 link-local address with the interface identifier of the MAC (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 2
    identifier = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))
