"""What a Subnet comes to: its gateway and pools, or what is wrong with them. Pure.

The apiserver has checked what CEL can express (forms, families, what lies in the CIDR); here is the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import pairwise

from crds.network import GatewayMode, Network, Subnet
from operators.network.ranges import IPAddress, IPNetwork, Range, address, parse, usable, without
from operators.network.reasons import Reason
from operators.verdict import Verdict, stalled, waiting

IPV6_MIN_MTU = 1280
"""RFC 8200, section 5."""


@dataclass(frozen=True)
class Layout:
    """A subnet in numbers. `pools` is what ports are given that ask for no address."""

    cidr: IPNetwork
    gateway: IPAddress | None
    pools: tuple[Range, ...]


def layout_of(subnet: Subnet, siblings: Iterable[Subnet], network: Network) -> Layout | Verdict:
    """The subnet in numbers, or what is wrong. `siblings` are the other subnets of its network."""
    spec = subnet.spec
    if spec.cidr is None:
        return stalled(
            Reason.SUBNET_POOL_NOT_SUPPORTED,
            "Subnets cannot be taken from a SubnetPool in this release: create the subnet with a cidr.",
        )
    cidr = ip_network(spec.cidr)
    for sibling in siblings:
        if sibling.spec.cidr and yields_to(subnet, sibling) and cidr.overlaps(ip_network(sibling.spec.cidr)):
            return stalled(
                Reason.OVERLAP,
                f"{cidr} overlaps Subnet {sibling.metadata.name} ({sibling.spec.cidr}) of the same network:"
                " create the subnet with another cidr.",
            )
    if cidr.version == 6 and network.status.mtu is not None and network.status.mtu < IPV6_MIN_MTU:
        return stalled(
            Reason.MTU_TOO_SMALL,
            f"IPv6 needs an MTU of {IPV6_MIN_MTU} (RFC 8200), and Network {network.metadata.name} has"
            f" {network.status.mtu}: raise its mtu.",
        )
    gateway = _gateway(subnet, cidr)
    if isinstance(gateway, Verdict):
        return gateway
    pools = _pools(subnet, cidr, gateway)
    if isinstance(pools, Verdict):
        return pools
    return Layout(cidr, gateway, pools)


def yields_to(subnet: Subnet, sibling: Subnet) -> bool:
    """Of two subnets that overlap the one that was accepted first stays; before that, the older one."""
    accepted = (sibling.status.cidr is not None, subnet.status.cidr is not None)
    if accepted[0] != accepted[1]:
        return accepted[0]
    return _age(sibling) < _age(subnet)


def _age(subnet: Subnet) -> tuple[datetime, str]:
    return (subnet.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC), subnet.metadata.uid)


def _gateway(subnet: Subnet, cidr: IPNetwork) -> IPAddress | None | Verdict:
    gateway = subnet.spec.gateway
    if gateway.mode is GatewayMode.NONE:
        return None
    if gateway.mode is GatewayMode.AUTO or gateway.ip is None:
        return address(usable(cidr).first, cidr.version)
    ip = parse(gateway.ip)
    if ip not in cidr or (cidr.version == 4 and int(ip) not in usable(cidr)):
        return stalled(
            Reason.GATEWAY_INVALID,
            f"Gateway {ip} is no host's address in {cidr}: choose one from {_span(usable(cidr), cidr.version)}.",
        )
    return ip


def _pools(subnet: Subnet, cidr: IPNetwork, gateway: IPAddress | None) -> tuple[Range, ...] | Verdict:
    hosts = usable(cidr)
    if not subnet.spec.allocation_pools:
        pools = without(hosts, int(gateway) if gateway is not None else None)
        return pools or stalled(
            Reason.NO_FREE_ADDRESS,
            f"{cidr} has no address left beside the gateway's: create the subnet with a larger cidr.",
        )
    pools = tuple(Range(int(parse(pool.start)), int(parse(pool.end))) for pool in subnet.spec.allocation_pools)
    for pool, told in zip(pools, subnet.spec.allocation_pools, strict=True):
        if pool.size <= 0:
            return stalled(Reason.POOL_INVALID, f"Pool {told.start}-{told.end}: start is behind end; swap them.")
        if pool.first not in hosts or pool.last not in hosts:
            return stalled(
                Reason.POOL_INVALID,
                f"Pool {told.start}-{told.end} holds addresses that no host of {cidr} may have:"
                f" stay within {_span(hosts, cidr.version)}.",
            )
        if gateway is not None and int(gateway) in pool:
            return stalled(
                Reason.GATEWAY_IN_POOL,
                f"Gateway {gateway} is in pool {told.start}-{told.end}: take it out of the pool,"
                " or set spec.gateway.mode to None.",
            )
    ordered = sorted(pools)
    for one, other in pairwise(ordered):
        if one.overlaps(other):
            return stalled(
                Reason.POOLS_OVERLAP,
                f"Pools {_span(one, cidr.version)} and {_span(other, cidr.version)} overlap: make one pool of the two.",
            )
    return tuple(ordered)


def _span(span: Range, version: int) -> str:
    return f"{address(span.first, version)}-{address(span.last, version)}"


def network_problem(network: Network | None, name: str, namespace: str) -> Verdict | None:
    """Why the subnet must wait for its network, if it must."""
    if network is None or network.metadata.deletion_timestamp is not None:
        return waiting(Reason.NETWORK_NOT_FOUND, f"Network {name} does not exist in namespace {namespace}: create it.")
    if network.status.type is None:
        return waiting(Reason.NETWORK_NOT_READY, f"Network {name} is not ready yet: see its conditions.")
    return None
