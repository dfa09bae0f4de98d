"""Devices, forwarding entries and child namespaces that a desired node needs. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.network import names, ruleset
from hostagent.network.dhcp import dhcp_files
from hostagent.network.model import DesiredNode, ForwardingEntry, Network, NetworkType, Port
from hostagent.network.services import dhcp_subnets, server_mac
from hostagent.network.state import BridgePort, Child, ForwardingDatabaseEntry, Link, Neighbour, Route, Vxlan
from hostagent.network.tables import uplink

ALL_VTEPS = "00:00:00:00:00:00"
"""The VXLAN device's entry for broadcast, multicast and unknown addresses."""

PARENT_SYSCTLS = {
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
    "net/bridge/bridge-nf-call-arptables": "0",
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    # Devices get no address and listen to nobody, but a bridge needs IPv6 to know neighbours for its guests.
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/default/accept_ra": "0",
}
CHILD_SYSCTLS = {
    f"net/ipv6/conf/{names.DHCP_DEVICE}/disable_ipv6": "1",
    "net/ipv4/ip_forward": "0",
    # Requests for metadata arrive for addresses that only `lo` has, from whatever address the guest has.
    "net/ipv4/conf/all/rp_filter": "0",
    f"net/ipv4/conf/{names.DHCP_DEVICE}/rp_filter": "0",
    "net/ipv4/conf/all/arp_ignore": "1",
}


@dataclass(frozen=True)
class PlannedNetwork:
    """Everything of one network on this node but the rules."""

    uid: str
    devices: tuple[Link, ...]
    """To be there: bridge, uplink, veth, in the order of creation."""
    taps: Mapping[str, Link]
    """What a tap looks like once compute attached it."""
    child: Child
    forwarding: frozenset[ForwardingDatabaseEntry] = frozenset()
    """Those of taps hold only when the tap is there."""
    neighbours: frozenset[Neighbour] = frozenset()
    nic: str | None = None
    """Of a flat network: the NIC to be taken from the host's namespace."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """Tap to port UID."""


def planned_networks(desired: DesiredNode, run_dir: Path, state_dir: Path, namespace: str) -> list[PlannedNetwork]:
    entries = {each.network_uid: each.entries for each in desired.entries}
    return [
        _network(desired, network, entries.get(network.uid, ()), run_dir, state_dir, namespace)
        for network in desired.networks
    ]


def _network(
    desired: DesiredNode,
    network: Network,
    entries: Iterable[ForwardingEntry],
    run_dir: Path,
    state_dir: Path,
    namespace: str,
) -> PlannedNetwork:
    bridge = names.bridge(network.uid)
    server = names.dhcp_peer(network.uid)
    ports = [port for port in desired.ports if port.network_uid == network.uid]
    remote = [each for each in entries if each.vtep != desired.underlay_ip]
    up = uplink(network, desired.physical_networks)
    devices = [Link(bridge, "bridge", network.mtu, mac=bridge_mac(network.uid))]
    forwarding = {ForwardingDatabaseEntry(server, server_mac(network))}
    neighbours: set[Neighbour] = set()
    nic = None
    if network.type is NetworkType.VXLAN and up:
        devices.append(
            Link(
                up,
                "vxlan",
                network.mtu,
                master=bridge,
                vxlan=Vxlan(network.segmentation_id or 0, desired.underlay_ip, desired.vxlan_port),
                port=BridgePort(learning=False, unicast_flood=True, neigh_suppress=may_suppress(ports)),
            )
        )
        local = {port.mac for port in ports}
        forwarding |= _overlay(up, [each for each in remote if each.mac not in local])
        neighbours = _neighbours(bridge, remote, ports)
    elif up:
        nic = up
        devices.append(
            Link(up, "", network.mtu, master=bridge, port=BridgePort(learning=True, unicast_flood=True)),
        )
    devices.append(
        Link(
            server,
            "veth",
            network.mtu,
            master=bridge,
            port=BridgePort(learning=False, unicast_flood=False, multicast_flood=False),
        )
    )
    for port in ports:
        forwarding |= {ForwardingDatabaseEntry(names.tap(port.uid), mac) for mac in _static_macs(port)}
    return PlannedNetwork(
        uid=network.uid,
        devices=tuple(devices),
        taps={names.tap(port.uid): _tap(port, network, bridge) for port in ports},
        child=_child(network, ports, run_dir, state_dir, namespace),
        forwarding=frozenset(forwarding),
        neighbours=frozenset(neighbours),
        nic=nic,
        ports={names.tap(port.uid): port.uid for port in ports},
    )


def bridge_mac(network_uid: str) -> str:
    """A fixed one: with the least of its ports' it would change, and the bridge would forget its neighbours."""
    digits = names.short_id(network_uid)[:10]
    return "06:" + ":".join(digits[at : at + 2] for at in range(0, 10, 2))


def may_suppress(ports: Iterable[Port]) -> bool:
    """Whether gratuitous ARP may be kept on the node, which the bridge does with all of it once it suppresses.

    A port that may hold an address that moves (VRRP) announces it by gratuitous ARP: then the others must hear it.
    """
    return all(port.port_security and not port.allowed_address_pairs for port in ports)


def _overlay(device: str, remote: Iterable[ForwardingEntry]) -> set[ForwardingDatabaseEntry]:
    result = set()
    homes: dict[str, str] = {}
    for entry in remote:
        result.add(ForwardingDatabaseEntry(device, ALL_VTEPS, entry.vtep))
        # A port that migrates has two entries, but a VXLAN device takes one end point per unicast address.
        homes[entry.mac] = min(entry.vtep, homes.get(entry.mac, entry.vtep))
    for mac, vtep in homes.items():
        result |= {ForwardingDatabaseEntry(device, mac, vtep), ForwardingDatabaseEntry(device, mac)}
    return result


def _neighbours(bridge: str, remote: Iterable[ForwardingEntry], ports: Iterable[Port]) -> set[Neighbour]:
    """Known addresses of other nodes' ports, save those that a port here may take over."""
    shared = [ipaddress.ip_network(pair.ip) for port in ports for pair in port.allowed_address_pairs]
    holders: dict[str, set[str]] = {}
    for entry in remote:
        for ip in entry.ips:
            holders.setdefault(ip, set()).add(entry.mac)
    result = set()
    for ip, macs in holders.items():
        address = ipaddress.ip_address(ip)
        if len(macs) == 1 and not any(address in prefix for prefix in shared if prefix.version == address.version):
            result.add(Neighbour(bridge, ip, next(iter(macs))))
    return result


def _static_macs(port: Port) -> list[str]:
    """Addresses that only this port can have. With others allowed, the bridge has to learn where they are."""
    return [port.mac] if port.port_security else []


def _tap(port: Port, network: Network, bridge: str) -> Link:
    moving = not port.port_security or any(pair.mac not in (None, port.mac) for pair in port.allowed_address_pairs)
    return Link(
        names.tap(port.uid),
        "tun",
        network.mtu,
        master=bridge,
        # Nothing unknown is to be had behind a guarded port, so it need not see frames to unknown addresses.
        port=BridgePort(learning=moving, unicast_flood=not port.port_security),
    )


def _child(network: Network, ports: Iterable[Port], run_dir: Path, state_dir: Path, namespace: str) -> Child:
    served = {subnet.uid: subnet for subnet in dhcp_subnets(network)}
    addresses = {f"{ruleset.METADATA_ADDRESS}/32"}
    routes = {Route(ruleset.METADATA_RANGE, "lo", local=True)}
    for subnet in network.subnets:
        cidr = ipaddress.ip_network(subnet.cidr)
        if cidr.version != 4:
            continue
        if subnet.uid in served:
            addresses.add(f"{subnet.dhcp_server_ip}/{cidr.prefixlen}")
        else:
            routes.add(Route(str(cidr), names.DHCP_DEVICE))
    return Child(
        namespace=names.child_namespace(network.uid, namespace),
        device=Link(names.DHCP_DEVICE, "veth", network.mtu, mac=server_mac(network)),
        addresses=frozenset(addresses),
        routes=frozenset(routes),
        sysctls=CHILD_SYSCTLS,
        dhcp=dhcp_files(network, ports, run_dir, state_dir),
    )


def vteps(desired: DesiredNode) -> frozenset[str]:
    """The tunnel end points that may speak to this node."""
    carried = {network.uid for network in desired.networks if network.type is NetworkType.VXLAN}
    return frozenset(
        entry.vtep
        for each in desired.entries
        if each.network_uid in carried
        for entry in each.entries
        if entry.vtep != desired.underlay_ip
    )
