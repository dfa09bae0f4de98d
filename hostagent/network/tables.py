"""The two nft tables of the namespace `kumulus` that a desired node needs: the fixed chains, filled."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hostagent.network import names, ruleset
from hostagent.network.addresses import collapse, link_local, split
from hostagent.network.allocate import Numbers
from hostagent.network.groups import compact, expression, members_set
from hostagent.network.model import DesiredNode, Direction, EtherType, Network, NetworkType, Port, SecurityGroup
from hostagent.network.nft_table import Chain, Collection, Element, Table
from hostagent.network.report import Problem
from hostagent.network.services import has_dhcp, server_mac


@dataclass(frozen=True)
class Tables:
    bridge: Table
    inet: Table
    problems: tuple[Problem, ...] = ()


class _Elements:
    def __init__(self) -> None:
        self._found: dict[str, dict[Element, str]] = {}

    def add(self, name: str, *element: str, value: str = "") -> None:
        self._found.setdefault(name, {})[element] = value

    def fill(self, declared: Mapping[str, Collection]) -> dict[str, Collection]:
        return {name: replace(each, elements=self._found.get(name, {})) for name, each in declared.items()}


def uplink(network: Network, physical_networks: Mapping[str, str]) -> str | None:
    """The device that connects a network's bridge to other nodes."""
    if network.type is NetworkType.VXLAN:
        return names.vxlan(network.uid)
    return physical_networks.get(network.physical_network or "")


def build(desired: DesiredNode, numbers: Numbers) -> Tables:
    bridge = _Elements()
    inet = _Elements()
    networks = {network.uid: network for network in desired.networks}
    for network in desired.networks:
        _network(bridge, inet, network, uplink(network, desired.physical_networks), numbers)
    for port in desired.ports:
        _port(bridge, port, networks[port.network_uid], numbers)
    group_chains, group_sets, problems = _groups(desired, numbers, inet)
    return Tables(
        Table("bridge", ruleset.TABLE, bridge.fill(ruleset.BRIDGE_COLLECTIONS), ruleset.BRIDGE_CHAINS),
        Table(
            "inet",
            ruleset.TABLE,
            inet.fill(ruleset.INET_COLLECTIONS) | group_sets,
            ruleset.INET_CHAINS | group_chains,
        ),
        problems,
    )


def _network(bridge: _Elements, inet: _Elements, network: Network, uplink_name: str | None, numbers: Numbers) -> None:
    server, mac = names.dhcp_peer(network.uid), server_mac(network)
    bridge.add("roles", server, value="goto from_infra")
    bridge.add("infra", server)
    if uplink_name:
        bridge.add("roles", uplink_name, value="goto from_uplink")
        bridge.add("uplinks", uplink_name)
        bridge.add("marks", uplink_name, value=str(ruleset.UPLINK))
        bridge.add("forged", uplink_name, mac)
        if has_dhcp(network):
            bridge.add("served", uplink_name)
    inet.add("zones", names.bridge(network.uid), value=str(numbers.zones[names.bridge(network.uid)]))


def _port(bridge: _Elements, port: Port, network: Network, numbers: Numbers) -> None:
    tap, server = names.tap(port.uid), server_mac(network)
    index = numbers.indices[tap]
    bridge.add("roles", tap, value="goto from_guarded" if port.port_security else "goto from_open")
    bridge.add("marks", tap, value=str(index if port.port_security else ruleset.OPEN))
    bridge.add("metadata", tap, value=ruleset.metadata_address(index))
    bridge.add("zones", tap, value=str(numbers.zones[names.bridge(network.uid)]))
    bridge.add("servers", tap, value=server)
    bridge.add("forged", tap, server)
    if has_dhcp(network):
        bridge.add("dhcp", tap, value=server)
    for mac, prefixes in port_addresses(port).items():
        bridge.add("macs", tap, mac)
        by_version = split(prefixes)
        for each in by_version[4]:
            bridge.add("src4", tap, mac, each)
        for each in by_version[6]:
            bridge.add("src6", tap, mac, each)
            bridge.add("nd6", tap, mac, nd_target(each))


def port_addresses(port: Port) -> dict[str, list[str]]:
    """MAC to the addresses and prefixes that the port may send from with it."""
    result: dict[str, list[str]] = {port.mac: [fixed.ip for fixed in port.fixed_ips]}
    for pair in port.allowed_address_pairs:
        result.setdefault(pair.mac or port.mac, []).append(pair.ip)
    return {mac: collapse([*found, link_local(mac)]) for mac, found in result.items()}


def nd_target(prefix: str) -> str:
    network = ipaddress.IPv6Network(prefix)
    first, last = int(network.network_address), int(network.broadcast_address)
    return f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"


def _groups(
    desired: DesiredNode, numbers: Numbers, inet: _Elements
) -> tuple[dict[str, Chain], dict[str, Collection], tuple[Problem, ...]]:
    """Chains of groups and of combinations of groups, each shared by all ports with it, and the sets of members."""
    known = {group.uid: group for group in desired.groups}
    chains: dict[str, Chain] = {}
    used: set[str] = set()
    for port in desired.ports:
        # A group that is not known yet adds nothing: what no rule accepts is dropped.
        groups = tuple(sorted(uid for uid in set(port.security_groups) if uid in known))
        if not port.port_security or not groups:
            continue
        used.update(groups)
        mark = str(numbers.indices[names.tap(port.uid)])
        for collection, letter in (("ingress", "i"), ("egress", "e")):
            name = combination_chain(letter, groups)
            chains[name] = Chain(tuple(f"jump {group_chain(letter, uid)}" for uid in groups))
            inet.add(collection, mark, value=f"goto {name}")
    problems: list[Problem] = []
    remote: set[str] = set()
    for uid in sorted(used):
        group_chains, found = _group(known[uid])
        chains |= group_chains
        problems += found
        remote.update(rule.remote_group for rule in known[uid].rules if rule.remote_group)
    sets: dict[str, Collection] = {}
    for uid in sorted(remote):
        by_version = split(collapse(known[uid].members if uid in known else ()))
        for ether_type, version, kind in ((EtherType.IPV4, 4, "ipv4_addr"), (EtherType.IPV6, 6, "ipv6_addr")):
            elements: dict[Element, str] = {(each,): "" for each in by_version[version]}
            sets[members_set(uid, ether_type)] = Collection((kind,), interval=True, elements=elements)
    return chains, sets, tuple(problems)


def _group(group: SecurityGroup) -> tuple[dict[str, Chain], list[Problem]]:
    rules: dict[Direction, list[str]] = {direction: [] for direction in Direction}
    problems = []
    for rule in group.rules:
        try:
            rules[Direction(rule.direction)].append(expression(rule))
        except ValueError as error:
            problems.append(Problem(group.uid, "InvalidRule", f"a rule of the security group is left out: {error}"))
    # Order does not matter among rules that only accept; sorted, so that the same rules give the same chain.
    return {
        group_chain("i", group.uid): Chain(_unique(rules[Direction.INGRESS])),
        group_chain("e", group.uid): Chain(_unique(rules[Direction.EGRESS])),
    }, problems


def _unique(rules: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(rules)))


def group_chain(letter: str, uid: str) -> str:
    return f"g{letter}-{compact(uid)}"


def combination_chain(letter: str, groups: Iterable[str]) -> str:
    return f"p{letter}-{hashlib.sha256(' '.join(groups).encode()).hexdigest()[:16]}"
