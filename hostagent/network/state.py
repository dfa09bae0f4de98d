"""The kernel's and dnsmasq's state, as it should be and as it is read: the two sides of the planner's comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.network.nft_table import Table


@dataclass(frozen=True)
class Vxlan:
    vni: int
    local: str
    port: int
    learning: bool = False


@dataclass(frozen=True)
class BridgePort:
    learning: bool
    """Source addresses become forwarding entries."""
    unicast_flood: bool
    """Gets frames to addresses that the bridge does not know."""
    multicast_flood: bool = True
    neigh_suppress: bool = False
    """ARP and ND for known neighbours is answered by the bridge and not sent out here."""


@dataclass(frozen=True)
class Link:
    name: str
    kind: str
    """The kernel's word: bridge, vxlan, veth, tun; "" for a NIC of hardware."""
    mtu: int
    up: bool = True
    master: str | None = None
    mac: str | None = None
    """Where it matters."""
    vxlan: Vxlan | None = None
    port: BridgePort | None = None
    snooping: bool = False
    """Of a bridge: multicast snooping, which would drop multicast where there is no querier."""
    held: bool = False
    """Of a tap that was read: a process has it open."""
    addresses: tuple[str, ...] = ()
    """Of a device that was read in the host's namespace."""


@dataclass(frozen=True, order=True)
class ForwardingDatabaseEntry:
    device: str
    mac: str
    destination: str | None = None
    """A VTEP: the VXLAN device's own entry. None: the bridge's entry, static and sticky."""


@dataclass(frozen=True, order=True)
class Neighbour:
    device: str
    ip: str
    mac: str


@dataclass(frozen=True, order=True)
class Route:
    destination: str
    device: str
    local: bool = False
    """In the table `local`: the addresses count as the namespace's own."""


@dataclass(frozen=True)
class DhcpFiles:
    """What one dnsmasq is run with."""

    directory: str
    arguments: str
    """The configuration file: a change of it needs a restart. Its name carries its hash, so the process shows what
    it was started with."""
    hosts: str
    options: str
    leases: str
    """Path of the lease file."""


@dataclass(frozen=True)
class DhcpProcess:
    """A dnsmasq that was found."""

    pid: int
    configuration: str
    """Name of its configuration file."""
    loaded: str
    """Hash of the hosts and options that it has read; "" when unknown."""


@dataclass(frozen=True)
class Child:
    """A network's child namespace."""

    namespace: str
    device: Link | None
    addresses: frozenset[str] = frozenset()
    """With prefix length."""
    routes: frozenset[Route] = frozenset()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    dhcp: DhcpFiles | None = None
    """Wanted."""
    process: DhcpProcess | None = None
    """Found."""


@dataclass(frozen=True)
class NodeState:
    namespace: bool = False
    """Whether the namespace `kumulus` exists."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    bridge_table: Table | None = None
    inet_table: Table | None = None
    underlay_table: Table | None = None
    links: Mapping[str, Link] = field(default_factory=dict)
    """In `kumulus`, without `lo`."""
    forwarding: frozenset[ForwardingDatabaseEntry] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    children: Mapping[str, Child] = field(default_factory=dict)
    """By namespace name."""
    host_links: Mapping[str, Link] = field(default_factory=dict)
    """In the host's namespace."""
    stray_namespaces: frozenset[str] = frozenset()
    """Names of child namespaces of which there is but the empty file, left by a crash."""
    stray_directories: frozenset[str] = frozenset()
    """DHCP directories that were found; of a desired network only when it has DHCP."""
