"""From the node API's objects to the planner's input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crds.node import NetworkSliceSpec, NodeInstanceSpec, NodePort, SecurityGroupSliceSpec, SliceRule
from hostagent.network.model import (
    DEFAULT_VXLAN_PORT,
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
from hostagent.network.report import Problem


def resolve(
    instances: Iterable[NodeInstanceSpec],
    network_slices: Iterable[NetworkSliceSpec],
    group_slices: Iterable[SecurityGroupSliceSpec],
    *,
    underlay_ip: str,
    physical_networks: Mapping[str, str],
    vxlan_port: int = DEFAULT_VXLAN_PORT,
) -> tuple[DesiredNode, tuple[Problem, ...]]:
    """The desired data plane of the node that has these NodeInstances; slices that it does not need are passed over.

    `physical_networks` is the node's configuration: physical network to NIC. Ports of a network type that this
    agent cannot realise are left out and told.
    """
    ports: list[Port] = []
    problems: list[Problem] = []
    networks: dict[str, Network] = {}
    for instance in sorted(instances, key=lambda each: each.instance_ref.uid):
        for port in instance.ports:
            try:
                network_type = NetworkType(str(port.network.type))
            except ValueError:
                message = f"networks of type {port.network.type} are not supported on this node"
                problems.append(Problem(port.uid, "UnsupportedNetworkType", message))
                continue
            networks[port.network.uid] = _network(port, network_type, networks.get(port.network.uid))
            ports.append(_port(port, instance))
    desired = DesiredNode(
        underlay_ip=underlay_ip,
        vxlan_port=vxlan_port,
        physical_networks=dict(physical_networks),
        networks=tuple(networks[uid] for uid in sorted(networks)),
        ports=tuple(ports),
        groups=_groups(ports, group_slices),
        entries=_entries(networks, network_slices),
    )
    return desired, tuple(problems)


def _network(port: NodePort, network_type: NetworkType, known: Network | None) -> Network:
    """Every port brings its network, and of the subnets those that it has an address of."""
    subnets = {each.uid: each for each in known.subnets} if known else {}
    for each in port.subnets:
        subnets.setdefault(
            each.uid,
            Subnet(
                uid=each.uid,
                cidr=each.cidr,
                gateway=each.gateway,
                dhcp=each.dhcp,
                dhcp_server_ip=each.dhcp_server_ip,
                dhcp_server_mac=each.dhcp_server_mac,
                dns_servers=tuple(each.dns_nameservers),
                host_routes=tuple(HostRoute(route.destination, route.next_hop) for route in each.host_routes),
            ),
        )
    network = port.network
    return Network(
        uid=network.uid,
        type=network_type,
        mtu=network.mtu,
        segmentation_id=network.segmentation_id,
        physical_network=network.physical_network,
        dns_domain=network.dns_domain,
        subnets=tuple(subnets[uid] for uid in sorted(subnets)),
    )


def _port(port: NodePort, instance: NodeInstanceSpec) -> Port:
    return Port(
        uid=port.uid,
        network_uid=port.network.uid,
        instance_uid=instance.instance_ref.uid,
        mac=port.mac_address,
        fixed_ips=tuple(FixedIP(each.subnet_uid, each.ip) for each in port.fixed_ips),
        allowed_address_pairs=tuple(AddressPair(each.ip, each.mac) for each in port.allowed_address_pairs),
        port_security=port.port_security,
        security_groups=tuple(port.security_group_uids),
        hostname=instance.metadata.hostname,
    )


def _groups(ports: Iterable[Port], slices: Iterable[SecurityGroupSliceSpec]) -> tuple[SecurityGroup, ...]:
    """The groups of these ports and those that their rules name, each once its rules (shard 0) are known."""
    shards: dict[str, list[SecurityGroupSliceSpec]] = {}
    for each in slices:
        shards.setdefault(each.group_uid, []).append(each)
    known = {uid: found for uid, found in shards.items() if any(each.shard == 0 for each in found)}
    used = {uid for port in ports for uid in port.security_groups if uid in known}
    remote = {
        rule.remote_group_uid for uid in used for each in known[uid] for rule in each.rules if rule.remote_group_uid
    }
    return tuple(_group(uid, known[uid]) for uid in sorted(used | (remote & known.keys())))


def _group(uid: str, shards: list[SecurityGroupSliceSpec]) -> SecurityGroup:
    return SecurityGroup(
        uid=uid,
        rules=tuple(_rule(rule) for each in shards if each.shard == 0 for rule in each.rules),
        members=tuple(sorted({ip for each in shards for member in each.members for ip in member.ips})),
    )


def _rule(rule: SliceRule) -> Rule:
    return Rule(
        direction=str(rule.direction),
        ether_type=str(rule.ether_type),
        protocol=None if rule.protocol is None else str(rule.protocol),
        port_range_min=rule.port_range_min,
        port_range_max=rule.port_range_max,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group=rule.remote_group_uid,
    )


def _entries(networks: Mapping[str, Network], slices: Iterable[NetworkSliceSpec]) -> tuple[NetworkEntries, ...]:
    found: dict[str, list[ForwardingEntry]] = {}
    for each in slices:
        network = networks.get(each.network_uid)
        if network is None or network.type is not NetworkType.VXLAN:
            continue
        found.setdefault(each.network_uid, []).extend(
            ForwardingEntry(entry.mac, entry.vtep, tuple(entry.ips)) for entry in each.entries if entry.vtep
        )
    return tuple(NetworkEntries(uid, tuple(found[uid])) for uid in sorted(found))
