"""What every network has on every node that carries it: a DHCP server and the way to the metadata service."""

from __future__ import annotations

from hostagent.network import names
from hostagent.network.model import Network, Subnet


def dhcp_subnets(network: Network) -> tuple[Subnet, ...]:
    """The subnets whose guests this node answers, by UID. IPv4 alone, so far."""
    served = (each for each in network.subnets if each.dhcp and each.dhcp_server_ip and ":" not in each.cidr)
    return tuple(sorted(served, key=lambda each: each.uid))


def has_dhcp(network: Network) -> bool:
    return bool(dhcp_subnets(network))


def server_mac(network: Network) -> str:
    """The MAC of `dhcp0`: the first that a subnet brings, else one made from the network's UID. The same on every
    node."""
    found = sorted((each.uid, each.dhcp_server_mac) for each in network.subnets if each.dhcp_server_mac)
    if found and found[0][1]:
        return found[0][1]
    digits = names.short_id(network.uid)[:10]
    return "02:" + ":".join(digits[at : at + 2] for at in range(0, 10, 2))
