"""Which addresses an import may reach: nothing of this host, of the link or of the cluster (SSRF)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Prefixes that carry an IPv4 address inside of an IPv6 one: what counts is the address that packets end up at.
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052


@dataclass(frozen=True)
class AddressPolicy:
    """`forbidden` comes on top of what is always refused; `allowed` is the administrator's exception from all of it."""

    forbidden: Sequence[Network] = ()
    allowed: Sequence[Network] = ()

    def objection(self, text: str) -> str | None:
        """Why an address (as `inet_ntop` writes it) must not be reached, or None if it may."""
        try:
            address = ip_address(text)
        except ValueError:
            return "it is not an address"
        # A zone (fe80::1%eth0) names an interface of this host; without it the address is judged the same.
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            address = IPv6Address(int(address))
        return next((why for carried in _all_of(address) if (why := self._objection(carried))), None)

    def _objection(self, address: Address) -> str | None:
        if any(address in network for network in self.allowed):
            return None
        for name, applies in (
            ("loopback", address.is_loopback),
            ("unspecified", address.is_unspecified or address in ip_network("0.0.0.0/8")),
            ("link-local", address.is_link_local),
            ("multicast", address.is_multicast),
            ("site-local", isinstance(address, IPv6Address) and address.is_site_local),
            ("reserved", address.is_reserved),
        ):
            if applies:
                return f"it is {name}"
        network = next((network for network in self.forbidden if address in network), None)
        return f"it is in {network}, which is not open to imports" if network is not None else None


def _all_of(address: Address) -> list[Address]:
    """The address and the IPv4 addresses that it stands for."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        # The kernel sends such packets over IPv4: only the inner address counts.
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    carried = [address.sixtofour] if address.sixtofour is not None else []
    return [address, *carried, *(address.teredo or ())]
