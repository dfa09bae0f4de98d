"""What the data plane of one node is asked to be: the planner's input.

The agent makes these from work objects and slices. Addresses are strings, checked and made canonical by `check.py`;
collections are tuples, so that equal input compares equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_VXLAN_PORT = 14789
"""UDP. Not 4789 or 8472, which a CNI of the cluster may use on the same hosts."""


class NetworkType(StrEnum):
    VXLAN = "VXLAN"
    FLAT = "Flat"


class Direction(StrEnum):
    INGRESS = "Ingress"
    EGRESS = "Egress"


class EtherType(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"


@dataclass(frozen=True)
class HostRoute:
    destination: str
    next_hop: str


@dataclass(frozen=True)
class Subnet:
    uid: str
    cidr: str
    gateway: str | None = None
    dhcp: bool = True
    dhcp_server_ip: str | None = None
    dhcp_server_mac: str | None = None
    dns_servers: tuple[str, ...] = ()
    host_routes: tuple[HostRoute, ...] = ()


@dataclass(frozen=True)
class Network:
    uid: str
    type: NetworkType
    mtu: int
    """Of the guests' frames, in bytes without the Ethernet header; VXLAN needs 50 (IPv4) or 70 (IPv6) more on the
    underlay."""
    segmentation_id: int | None = None
    physical_network: str | None = None
    dns_domain: str | None = None
    subnets: tuple[Subnet, ...] = ()


@dataclass(frozen=True)
class AddressPair:
    """An address, or a prefix, that several ports may hold: VRRP and the like. Without a MAC: from the port's own."""

    ip: str
    mac: str | None = None


@dataclass(frozen=True)
class FixedIP:
    subnet_uid: str
    ip: str


@dataclass(frozen=True)
class Port:
    uid: str
    network_uid: str
    instance_uid: str
    mac: str
    fixed_ips: tuple[FixedIP, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    port_security: bool = True
    security_groups: tuple[str, ...] = ()
    hostname: str | None = None


@dataclass(frozen=True)
class Rule:
    """A rule of a security group as its slice says it: not yet checked, since one bad rule must not stop the others."""

    direction: str
    ether_type: str | None = None
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group: str | None = None


@dataclass(frozen=True)
class SecurityGroup:
    """A group of which the slice with the rules (shard 0) is known."""

    uid: str
    rules: tuple[Rule, ...] = ()
    members: tuple[str, ...] = ()
    """Addresses and prefixes."""


@dataclass(frozen=True)
class ForwardingEntry:
    """Where a port of a VXLAN network is: on the node whose tunnel end point is `vtep`."""

    mac: str
    vtep: str
    ips: tuple[str, ...] = ()
    """Fixed addresses, which are answered by proxy; never those of allowed address pairs."""


@dataclass(frozen=True)
class NetworkEntries:
    network_uid: str
    entries: tuple[ForwardingEntry, ...] = ()


@dataclass(frozen=True)
class DesiredNode:
    """The whole data plane of one node. What does not stand here is removed."""

    underlay_ip: str
    vxlan_port: int = DEFAULT_VXLAN_PORT
    physical_networks: dict[str, str] = field(default_factory=dict)
    """Physical network's name to the NIC of this node that is connected to it."""
    networks: tuple[Network, ...] = ()
    ports: tuple[Port, ...] = ()
    groups: tuple[SecurityGroup, ...] = ()
    entries: tuple[NetworkEntries, ...] = ()
