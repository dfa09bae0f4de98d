"""From work objects and slices to the data plane's input. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from crds.node import (
    NetworkSlice,
    NodeInstance,
    NodePort,
    PortSubnet,
    SecurityGroupSlice,
    SliceRule,
)
from crds.vocabulary import NetworkType as APINetworkType
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
    Rule,
    SecurityGroup,
    Subnet,
)

_TYPES = {APINetworkType.VXLAN: NetworkType.VXLAN, APINetworkType.FLAT: NetworkType.FLAT}


def desired_node(
    instances: Iterable[NodeInstance],
    network_slices: Iterable[NetworkSlice],
    group_slices: Iterable[SecurityGroupSlice],
    *,
    underlay_ip: str,
    physical_networks: dict[str, str],
) -> DesiredNode:
    """The whole data plane of the node. Input in any order gives the same output.

    Ports of network types that this agent does not know are left out: they stay unprogrammed, which their guests are
    told.
    """
    ports = sorted(
        ((port, work) for work in instances for port in work.spec.ports if port.network.type in _TYPES),
        key=lambda pair: pair[0].uid,
    )
    by_network: dict[str, list[NodePort]] = defaultdict(list)
    for port, _ in ports:
        by_network[port.network.uid].append(port)
    groups = _groups(group_slices)
    wanted = _with_remotes({uid for port, _ in ports for uid in port.security_group_uids}, groups)
    return DesiredNode(
        underlay_ip=underlay_ip,
        physical_networks=physical_networks,
        networks=tuple(_network(uid, by_network[uid]) for uid in sorted(by_network)),
        ports=tuple(_port(port, work) for port, work in ports),
        groups=tuple(groups[uid] for uid in sorted(wanted)),
        entries=_entries(network_slices, set(by_network), underlay_ip),
    )


def _network(uid: str, ports: list[NodePort]) -> Network:
    network = ports[0].network
    subnets = {subnet.uid: _subnet(subnet) for port in ports for subnet in port.subnets}
    return Network(
        uid=uid,
        type=_TYPES[network.type],
        mtu=network.mtu,
        segmentation_id=network.segmentation_id,
        physical_network=network.physical_network,
        dns_domain=network.dns_domain,
        subnets=tuple(subnets[key] for key in sorted(subnets)),
    )


def _subnet(subnet: PortSubnet) -> Subnet:
    return Subnet(
        uid=subnet.uid,
        cidr=subnet.cidr,
        gateway=subnet.gateway,
        dhcp=subnet.dhcp,
        dhcp_server_ip=subnet.dhcp_server_ip,
        dhcp_server_mac=subnet.dhcp_server_mac,
        dns_servers=tuple(subnet.dns_nameservers),
        host_routes=tuple(HostRoute(route.destination, route.next_hop) for route in subnet.host_routes),
    )


def _port(port: NodePort, work: NodeInstance) -> Port:
    return Port(
        uid=port.uid,
        network_uid=port.network.uid,
        instance_uid=work.spec.instance_ref.uid,
        mac=port.mac_address,
        fixed_ips=tuple(FixedIP(fixed.subnet_uid, fixed.ip) for fixed in port.fixed_ips),
        allowed_address_pairs=tuple(AddressPair(pair.ip, pair.mac) for pair in port.allowed_address_pairs),
        port_security=port.port_security,
        security_groups=tuple(sorted(port.security_group_uids)),
        hostname=work.spec.metadata.hostname,
    )


def _groups(slices: Iterable[SecurityGroupSlice]) -> dict[str, SecurityGroup]:
    """The groups whose shard 0, which holds the rules, is known."""
    rules: dict[str, tuple[Rule, ...]] = {}
    members: dict[str, set[str]] = defaultdict(set)
    for part in slices:
        uid = part.spec.group_uid
        members[uid].update(ip for member in part.spec.members for ip in member.ips)
        if part.spec.shard == 0:
            rules[uid] = tuple(_rule(rule) for rule in part.spec.rules)
    return {uid: SecurityGroup(uid, found, tuple(sorted(members[uid]))) for uid, found in rules.items()}


def _with_remotes(wanted: set[str], groups: dict[str, SecurityGroup]) -> set[str]:
    """Those of the wanted groups that are known, and those that their rules name."""
    known = wanted & groups.keys()
    remotes = {rule.remote_group for uid in known for rule in groups[uid].rules if rule.remote_group}
    return known | (remotes & groups.keys())


def _rule(rule: SliceRule) -> Rule:
    return Rule(
        direction=rule.direction.value,
        ether_type=rule.ether_type.value,
        protocol=rule.protocol.value if rule.protocol else None,
        port_range_min=rule.port_range_min,
        port_range_max=rule.port_range_max,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group=rule.remote_group_uid,
    )


def _entries(slices: Iterable[NetworkSlice], networks: set[str], underlay_ip: str) -> tuple[NetworkEntries, ...]:
    found: dict[str, list[ForwardingEntry]] = defaultdict(list)
    for part in slices:
        if part.spec.network_uid not in networks or part.spec.type is not APINetworkType.VXLAN:
            continue
        for entry in part.spec.entries:
            if entry.vtep is not None and entry.vtep != underlay_ip:
                found[part.spec.network_uid].append(ForwardingEntry(entry.mac, entry.vtep, tuple(entry.ips)))
    return tuple(
        NetworkEntries(uid, tuple(sorted(found[uid], key=lambda entry: (entry.mac, entry.vtep))))
        for uid in sorted(found)
    )
