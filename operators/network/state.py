"""What the network operators watch, and the indexes by which a change of one object finds those that it concerns."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from crds.compute import Hypervisor, Instance
from crds.meta import Holder
from crds.network import (
    IPAllocation,
    MACAllocation,
    Network,
    PhysicalNetwork,
    Port,
    SecurityGroup,
    Segment,
    Subnet,
)
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from operators.network.names import DEFAULT_GROUP, GROUP_ANNOTATION, node_of
from operators.network.ranges import IPAddress
from operators.network.references import network_key
from runtime.cache import Key
from runtime.cluster import Cluster
from runtime.kind import kind_of

NETWORK = kind_of(Network)
PHYSICAL_NETWORK = kind_of(PhysicalNetwork)
SUBNET = kind_of(Subnet)
PORT = kind_of(Port)
SECURITY_GROUP = kind_of(SecurityGroup)
IP_ALLOCATION = kind_of(IPAllocation)
MAC_ALLOCATION = kind_of(MACAllocation)
SEGMENT = kind_of(Segment)
NETWORK_SLICE = kind_of(NetworkSlice)
GROUP_SLICE = kind_of(SecurityGroupSlice)

# The names of indexes are shared by all domains that watch a kind in this process, hence the prefix.
UID = "network:uid"
NETWORK_OF = "network:network"
SUBNET_OF = "network:subnet"
GROUP_OF = "network:group"
REMOTE = "network:remote"
PHYSICAL = "network:physical"
HOLDER = "network:holder"
PORT_OF = "network:port"
NODE = "network:node"
PORT_REF = "network:port-ref"


def key_of(resource: Network | Subnet | Port | SecurityGroup) -> Key:
    return Key(resource.metadata.namespace or "", resource.metadata.name)


def groups_of(port: Port) -> list[Key]:
    """The groups that a port names, or the tenant's default group. Which port needs none, its network says too."""
    namespace = port.metadata.namespace or ""
    if port.spec.port_security is False:
        return []
    if port.spec.security_group_refs is None:
        return [Key(namespace, DEFAULT_GROUP)]
    return [Key(namespace, ref.name) for ref in port.spec.security_group_refs]


def remote_groups(group: SecurityGroup) -> set[Key]:
    """The groups that the rules name."""
    namespace = group.metadata.namespace or ""
    return {Key(namespace, rule.remote_group_ref.name) for rule in group.spec.rules if rule.remote_group_ref}


def port_network(port: Port) -> Key:
    return network_key(port.spec.network_ref, port.metadata.namespace or "")


def subnet_network(subnet: Subnet) -> Key:
    return Key(subnet.metadata.namespace or "", subnet.spec.network_ref.name)


def allocation_network(allocation: IPAllocation | MACAllocation) -> Key:
    """By name, as the allocation's own name is: it is what makes an address unique."""
    return Key(allocation.metadata.namespace or "", allocation.spec.network_ref.name)


def slice_group(group_slice: SecurityGroupSlice) -> Key:
    """The SecurityGroup that a slice was made from."""
    namespace, _, name = group_slice.metadata.annotations.get(GROUP_ANNOTATION, "").partition("/")
    return Key(namespace, name)


def port_refs(instance: Instance) -> list[Key]:
    """The ports that an Instance brings along."""
    namespace = instance.metadata.namespace or ""
    return [Key(namespace, card.port_ref.name) for card in instance.spec.networks if card.port_ref is not None]


def _physical(network: Network) -> Iterable[str]:
    provider = network.spec.provider
    return [provider.physical_network_ref.name] if provider and provider.physical_network_ref else []


class State:
    """The caches of one process, and who has which address."""

    def __init__(self, cluster: Cluster) -> None:
        watch = cluster.watch_resource
        self.networks = watch(Network, {UID: lambda n: [n.metadata.uid], PHYSICAL: _physical})
        self.physical_networks = watch(PhysicalNetwork)
        self.subnets = watch(Subnet, {UID: lambda s: [s.metadata.uid], NETWORK_OF: lambda s: [subnet_network(s)]})
        self.ports = watch(
            Port, {UID: lambda p: [p.metadata.uid], NETWORK_OF: lambda p: [port_network(p)], GROUP_OF: groups_of}
        )
        self.groups = watch(SecurityGroup, {UID: lambda g: [g.metadata.uid], REMOTE: remote_groups})
        self.ip_allocations = watch(
            IPAllocation,
            {
                HOLDER: lambda a: [a.spec.holder.uid],
                NETWORK_OF: lambda a: [allocation_network(a)],
                SUBNET_OF: lambda a: [Key(a.metadata.namespace or "", a.spec.subnet)] if a.spec.subnet else [],
            },
        )
        self.mac_allocations = watch(
            MACAllocation, {HOLDER: lambda a: [a.spec.holder.uid], NETWORK_OF: lambda a: [allocation_network(a)]}
        )
        self.segments = watch(Segment, {HOLDER: lambda s: [s.spec.holder.uid]})
        self.node_instances = watch(
            NodeInstance,
            {
                PORT_OF: lambda i: [port.uid for port in i.spec.ports],
                NETWORK_OF: lambda i: {port.network.uid for port in i.spec.ports},
                NODE: lambda i: [node_of(i.metadata.namespace or "")],
            },
        )
        self.hypervisors = watch(Hypervisor)
        self.instances = watch(Instance, {PORT_REF: port_refs})
        self.network_slices = watch(
            NetworkSlice,
            {NETWORK_OF: lambda s: [s.spec.network_uid], PORT_OF: lambda s: {e.port_uid for e in s.spec.entries}},
        )
        self.group_slices = watch(
            SecurityGroupSlice,
            {GROUP_OF: lambda s: [slice_group(s)], PORT_OF: lambda s: {m.port_uid for m in s.spec.members}},
        )
        self.addresses = Addresses()
        self.ip_allocations.on_change(self.addresses.changed)

    def network_of(self, port: Port) -> Network | None:
        key = port_network(port)
        return self.networks.get(key.name, key.namespace)

    def port_by_uid(self, uid: str) -> Port | None:
        return next(iter(self.ports.find(UID, uid)), None)

    def bound(self, port: Port) -> list[NodeInstance]:
        """The work objects that carry the port, also those that are on their way out."""
        return self.node_instances.find(PORT_OF, port.metadata.uid)

    def is_wanted(self, port: Port) -> bool:
        """Whether an instance that is not being deleted has the port in its spec, or had it made."""
        namespace = port.metadata.namespace or ""
        instances = [*self.instances.find(PORT_REF, key_of(port))]
        for owner in port.metadata.owner_references:
            found = self.instances.get(owner.name, namespace) if owner.kind == "Instance" else None
            if found is not None and found.metadata.uid == owner.uid:
                instances.append(found)
        return any(one.metadata.deletion_timestamp is None for one in instances)

    def leaving(self, port: Port) -> bool:
        """Whether nothing needs the port any more: what others know of it can go."""
        return port.metadata.deletion_timestamp is not None and not self.bound(port)

    def guarded(self, port: Port) -> bool:
        """Whether security groups apply to the port; when it does not say, its network does."""
        if port.spec.port_security is not None:
            return port.spec.port_security
        network = self.network_of(port)
        return network is None or network.spec.port_security


class Addresses:
    """Who has which address of which network, by number: a search must not format millions of names."""

    def __init__(self) -> None:
        self._taken: dict[tuple[Key, int], dict[int, Holder]] = {}

    def changed(self, key: Key, old: IPAllocation | None, new: IPAllocation | None) -> None:
        if old is not None:
            ip = ip_address(old.spec.address)
            taken = self._taken[allocation_network(old), ip.version]
            del taken[int(ip)]
            if not taken:
                del self._taken[allocation_network(old), ip.version]
        if new is not None:
            ip = ip_address(new.spec.address)
            self._taken.setdefault((allocation_network(new), ip.version), {})[int(ip)] = new.spec.holder

    def holder(self, network: Key, ip: IPAddress) -> Holder | None:
        return self._taken.get((network, ip.version), {}).get(int(ip))

    def count(self, network: Key) -> int:
        """How many addresses of the network are taken, of both families."""
        return sum(len(self._taken.get((network, version), {})) for version in (4, 6))
