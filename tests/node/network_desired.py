"""Desired states for tests of the data plane: short names in, complete models out."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hostagent.network.model import (
    AddressPair,
    DesiredNode,
    FixedIP,
    ForwardingEntry,
    Network,
    NetworkEntries,
    NetworkType,
    Port,
    Rule,
    SecurityGroup,
    Subnet,
)

MTU = 1450


def uid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def network(name: str, vni: int = 100, **changes: object) -> Network:
    subnet = Subnet(
        uid=uid(f"{name}-v4"),
        cidr="10.0.1.0/24",
        gateway="10.0.1.1",
        dhcp_server_ip="10.0.1.2",
        dhcp_server_mac="fa:16:3e:ff:00:02",
        dns_servers=("9.9.9.9",),
    )
    made = Network(uid(name), NetworkType.VXLAN, MTU, segmentation_id=vni, dns_domain="example.org", subnets=(subnet,))
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Network


def port(name: str, of: Network, ip: str, mac: str, *groups: str, **changes: object) -> Port:
    made = Port(
        uid=uid(name),
        network_uid=of.uid,
        instance_uid=uid(f"instance-{name}"),
        mac=mac,
        fixed_ips=(FixedIP(of.subnets[0].uid, ip),),
        security_groups=tuple(uid(group) for group in groups),
        hostname=name,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Port


def group(name: str, *rules: Rule, members: Iterable[str] = ()) -> SecurityGroup:
    return SecurityGroup(uid(name), rules, tuple(members))


def ingress(protocol: str | None = None, ports: int | None = None, **changes: object) -> Rule:
    made = Rule("Ingress", "IPv4", protocol, ports, ports)
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Rule


EGRESS = (Rule("Egress", "IPv4"), Rule("Egress", "IPv6"))
OPEN_GROUP = group("open", Rule("Ingress", "IPv4"), Rule("Ingress", "IPv6"), *EGRESS)


@dataclass
class Cloud:
    """What the operators would know: which port is on which node, and from it each node's desired state."""

    networks: list[Network] = field(default_factory=list)
    groups: list[SecurityGroup] = field(default_factory=lambda: [OPEN_GROUP])
    placed: dict[str, tuple[Port, str]] = field(default_factory=dict)
    """Port UID to the port and its node's underlay address."""
    physical_networks: dict[str, str] = field(default_factory=lambda: {"public": "eth1"})

    def place(self, new: Port, vtep: str) -> Port:
        self.placed[new.uid] = (new, vtep)
        return new

    def remove(self, old: Port) -> None:
        del self.placed[old.uid]

    def set_group(self, new: SecurityGroup) -> None:
        self.groups = [each for each in self.groups if each.uid != new.uid] + [new]

    def desired(self, vtep: str) -> DesiredNode:
        mine = tuple(each for each, where in self.placed.values() if where == vtep)
        carried = {each.network_uid for each in mine}
        entries = []
        for of in self.networks:
            if of.uid in carried and of.type is NetworkType.VXLAN:
                found = tuple(
                    ForwardingEntry(each.mac, where, tuple(fixed.ip for fixed in each.fixed_ips))
                    for each, where in self.placed.values()
                    if each.network_uid == of.uid
                )
                entries.append(NetworkEntries(of.uid, found))
        return DesiredNode(
            underlay_ip=vtep,
            physical_networks=self.physical_networks,
            networks=tuple(each for each in self.networks if each.uid in carried),
            ports=mine,
            groups=tuple(self.groups),
            entries=tuple(entries),
        )


__all__ = ["EGRESS", "MTU", "OPEN_GROUP", "AddressPair", "Cloud", "group", "ingress", "network", "port", "uid"]
