"""What enters the planner, made canonical; what is wrong is left out, alone, and told.

Whatever passes here may stand in an nft text or in a dnsmasq file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from hostagent.network import names
from hostagent.network.addresses import canonical_prefix, check_mac
from hostagent.network.dhcp import fitting_routes
from hostagent.network.model import (
    AddressPair,
    DesiredNode,
    FixedIP,
    ForwardingEntry,
    HostRoute,
    Network,
    NetworkEntries,
    NetworkType,
    Port,
    SecurityGroup,
    Subnet,
)
from hostagent.network.report import Problem
from hostagent.network.services import dhcp_subnets

_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOSTNAME = re.compile(_LABEL, re.IGNORECASE)
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)


def checked(desired: DesiredNode) -> tuple[DesiredNode, tuple[Problem, ...]]:
    """The part of `desired` that can be realised. Raises ValueError when the node's own parameters are wrong."""
    problems: list[Problem] = []
    if not 1 <= desired.vxlan_port <= 65535:
        raise ValueError(f"{desired.vxlan_port} is not a UDP port")
    underlay_ip = str(ipaddress.ip_address(desired.underlay_ip))
    for nic in desired.physical_networks.values():
        if not _DEVICE.fullmatch(nic):
            raise ValueError(f"{nic!r} is not a device name")

    networks = _each(desired.networks, "InvalidNetwork", _network, problems)
    networks = _unique(networks, lambda each: names.short_id(each.uid), "NameCollision", problems)
    networks = _unique(networks, _segment, "SegmentTaken", problems)
    kept: list[Network] = []
    for network in networks:
        if network.type is NetworkType.FLAT and network.physical_network not in desired.physical_networks:
            message = f"this node has no NIC for the physical network {network.physical_network!r}"
            problems.append(Problem(network.uid, "NoPhysicalNetwork", message))
        else:
            kept.append(network)
            problems += _routes_without_room(network)
    uids = {network.uid for network in kept}

    ports: list[Port] = []
    for port in _each(desired.ports, "InvalidPort", _port, problems):
        if port.network_uid in uids:
            ports.append(port)
        else:
            message = f"its network {port.network_uid} cannot be realised here"
            problems.append(Problem(port.uid, "NetworkFailed", message))
    ports = _unique(ports, lambda each: names.short_id(each.uid), "NameCollision", problems)
    groups = _each(desired.groups, "InvalidGroup", _group, problems)
    groups = _unique(groups, lambda each: each.uid.replace("-", ""), "NameCollision", problems)
    entries = [
        NetworkEntries(each.network_uid, tuple(_entries(each, problems)))
        for each in desired.entries
        if each.network_uid in uids
    ]
    result = replace(
        desired,
        underlay_ip=underlay_ip,
        networks=tuple(kept),
        ports=tuple(ports),
        groups=tuple(groups),
        entries=tuple(entries),
    )
    return result, tuple(problems)


Checked = TypeVar("Checked", Network, Port, SecurityGroup)


def _each(
    items: Iterable[Checked], reason: str, check: Callable[[Checked], Checked], problems: list[Problem]
) -> list[Checked]:
    result: list[Checked] = []
    for item in sorted(items, key=lambda each: each.uid):
        try:
            _match(_UID, item.uid, "UID")
            result.append(check(item))
        except ValueError as error:
            problems.append(Problem(item.uid, reason, str(error)))
    return result


def _unique(
    items: Iterable[Checked], key: Callable[[Checked], object], reason: str, problems: list[Problem]
) -> list[Checked]:
    holders: dict[object, str] = {}
    result: list[Checked] = []
    for item in items:
        holder = holders.setdefault(key(item), item.uid)
        if holder == item.uid and all(each.uid != item.uid for each in result):
            result.append(item)
        else:
            problems.append(Problem(item.uid, reason, f"{key(item)} belongs to {holder} already"))
    return result


def _segment(network: Network) -> object:
    return network.physical_network if network.type is NetworkType.FLAT else network.segmentation_id


def _match(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not a {what}")
    return text


def _network(network: Network) -> Network:
    names.short_id(network.uid)
    if not 68 <= network.mtu <= 65535:
        raise ValueError(f"MTU {network.mtu} is not between 68 and 65535")
    if network.type is NetworkType.VXLAN and not 1 <= (network.segmentation_id or 0) < 1 << 24:
        raise ValueError(f"{network.segmentation_id} is not a VXLAN network identifier")
    domain = network.dns_domain if network.dns_domain and _DOMAIN.fullmatch(network.dns_domain) else None
    return replace(network, dns_domain=domain, subnets=tuple(_subnet(each) for each in network.subnets))


def _subnet(subnet: Subnet) -> Subnet:
    return replace(
        subnet,
        uid=_match(_UID, subnet.uid, "UID"),
        cidr=str(ipaddress.ip_network(subnet.cidr)),
        gateway=_address(subnet.gateway),
        dhcp_server_ip=_address(subnet.dhcp_server_ip),
        dhcp_server_mac=check_mac(subnet.dhcp_server_mac) if subnet.dhcp_server_mac else None,
        dns_servers=tuple(str(ipaddress.ip_address(each)) for each in subnet.dns_servers),
        host_routes=tuple(
            HostRoute(str(ipaddress.ip_network(each.destination)), str(ipaddress.ip_address(each.next_hop)))
            for each in subnet.host_routes
        ),
    )


def _routes_without_room(network: Network) -> Iterable[Problem]:
    for subnet in dhcp_subnets(network):
        _, left = fitting_routes(network, subnet)
        if left:
            told = ", ".join(destination for destination, _ in left)
            message = f"DHCP has no room for the host routes {told} of subnet {subnet.uid}: give it fewer"
            yield Problem(network.uid, "TooManyRoutes", message)


def _address(text: str | None) -> str | None:
    return None if text is None else str(ipaddress.ip_address(text))


def _port(port: Port) -> Port:
    names.short_id(port.uid)
    pairs = tuple(
        AddressPair(canonical_prefix(each.ip), check_mac(each.mac) if each.mac else None)
        for each in port.allowed_address_pairs
    )
    hostname = port.hostname if port.hostname and _HOSTNAME.fullmatch(port.hostname) else None
    return replace(
        port,
        mac=check_mac(port.mac),
        fixed_ips=tuple(FixedIP(each.subnet_uid, str(ipaddress.ip_address(each.ip))) for each in port.fixed_ips),
        allowed_address_pairs=pairs,
        hostname=hostname,
    )


def _group(group: SecurityGroup) -> SecurityGroup:
    """Rules are checked one by one where they become expressions."""
    rules = tuple(each for each in group.rules if each.remote_group is None or _UID.fullmatch(each.remote_group))
    if len(rules) != len(group.rules):
        raise ValueError("a rule names a remote group by what is not a UID")
    members = tuple(canonical_prefix(each) for each in group.members)
    return replace(group, rules=rules, members=members)


def _entries(slice_: NetworkEntries, problems: list[Problem]) -> Iterable[ForwardingEntry]:
    for entry in slice_.entries:
        try:
            yield ForwardingEntry(
                check_mac(entry.mac),
                str(ipaddress.ip_address(entry.vtep)),
                tuple(str(ipaddress.ip_address(each)) for each in entry.ips),
            )
        except ValueError as error:
            problems.append(Problem(slice_.network_uid, "InvalidEntry", f"a forwarding entry is left out: {error}"))
