"""The caches that instances are planned from."""

from __future__ import annotations

from collections.abc import Iterable

from crds.compute import Flavor, Hypervisor, HypervisorAllocation, HypervisorPhase, Instance, KeyPair
from crds.identity import Tenant
from crds.image import Image
from crds.network import Network, Port, SecurityGroup, Subnet
from crds.node import NodeInstance
from operators.compute.instance.ports import group_names
from operators.compute.instance.world import Card, UserData, World, is_owned, node_name
from operators.compute.names import port_name
from operators.compute.scheduler.hosts import HostTable
from operators.compute.scheduler.record import allocation_of, by_instance
from operators.domain import Context
from runtime.cache import Cache, Key


def image_key(instance: Instance) -> Key | None:
    """The Image that spec.imageRef means."""
    ref = instance.spec.image_ref
    return None if ref is None else Key(ref.namespace or instance.metadata.namespace or "", ref.name)


def key_of(instance: Instance) -> Key:
    return Key(instance.metadata.namespace or "", instance.metadata.name)


def port_refs(instance: Instance) -> list[Key]:
    namespace = instance.metadata.namespace or ""
    return [Key(namespace, card.port_ref.name) for card in instance.spec.networks if card.port_ref is not None]


def _networks(instance: Instance) -> list[Key]:
    namespace = instance.metadata.namespace or ""
    refs = [card.network_ref for card in instance.spec.networks if card.network_ref is not None]
    return [Key(ref.namespace or namespace, ref.name) for ref in refs]


def _flavors(instance: Instance) -> list[str]:
    return [instance.spec.flavor_ref.name]


def _images(instance: Instance) -> list[Key]:
    key = image_key(instance)
    return [] if key is None else [key]


def _port_network(port: Port) -> list[Key]:
    ref = port.spec.network_ref
    return [Key(ref.namespace or port.metadata.namespace or "", ref.name)]


class Caches:
    """What the planner reads. `world` is the only way from here into planning."""

    def __init__(self, context: Context) -> None:
        watch = context.cluster.watch_resource
        self.instances: Cache[Instance] = watch(
            Instance,
            {
                "compute/namespace": lambda one: [one.metadata.namespace or ""],
                "compute/flavor": _flavors,
                "compute/image": _images,
                "compute/port-ref": port_refs,
                "compute/network": _networks,
            },
        )
        self.tenants: Cache[Tenant] = watch(Tenant)
        self.flavors: Cache[Flavor] = watch(Flavor)
        self.images: Cache[Image] = watch(Image)
        self.key_pairs: Cache[KeyPair] = watch(KeyPair)
        self.networks: Cache[Network] = watch(Network)
        self.subnets: Cache[Subnet] = watch(
            Subnet,
            {"compute/network": lambda one: [Key(one.metadata.namespace or "", one.spec.network_ref.name)]},
        )
        self.groups: Cache[SecurityGroup] = watch(SecurityGroup)
        self.ports: Cache[Port] = watch(
            Port,
            {
                "compute/owner": lambda one: [owner.uid for owner in one.metadata.owner_references],
                "compute/network": _port_network,
            },
        )
        self.work: Cache[NodeInstance] = watch(
            NodeInstance,
            {
                "compute/instance": lambda one: [one.spec.instance_ref.uid],
                "compute/port": lambda one: [port.uid for port in one.spec.ports],
                "compute/namespace": lambda one: [one.metadata.namespace or ""],
            },
        )
        self.records: Cache[HypervisorAllocation] = watch(HypervisorAllocation, {"compute/instance": by_instance})
        self.hypervisors: Cache[Hypervisor] = watch(Hypervisor)
        self.hosts = HostTable(self.hypervisors, self.records)
        self._context = context

    def world(self, instance: Instance, user_data: UserData | None = None) -> World:
        """Everything about an instance as it is now; no I/O. `schedulingSince` is the caller's to add."""
        meta = instance.metadata
        namespace, spec, uid = meta.namespace or "", instance.spec, meta.uid
        work = tuple(sorted(self.work.find("compute/instance", uid), key=node_name))
        allocations = {
            record.metadata.name: allocation
            for record in self.records.find("compute/instance", uid)
            if (allocation := allocation_of(record, uid)) is not None
        }
        image = image_key(instance)
        nodes = {node_name(one) for one in work} | ({instance.status.node_name} - {None})
        hints = spec.scheduler_hints
        return World(
            instance=instance,
            now=self._context.now(),
            image_service_url=self._context.settings.image_service_url,
            tenant=self.tenants.get(namespace),
            flavor=self.flavors.get(spec.flavor_ref.name),
            image_key=image,
            image=self.images.get(image.name, image.namespace) if image is not None else None,
            key_pairs={ref.name: self.key_pairs.get(ref.name, namespace) for ref in spec.key_pair_refs},
            cards=tuple(self._cards(instance)),
            own_ports=tuple(self.ports.find("compute/owner", uid)),
            work=work,
            allocations=allocations,
            hosts=self.hosts,
            nodes_up={node: self._is_up(node) for node in nodes if node is not None},
            avoid=frozenset(self._nodes_of(namespace, hints.different_host)) if hints else frozenset(),
            only=frozenset(self._nodes_of(namespace, hints.same_host)) if hints and hints.same_host else None,
            user_data=user_data,
        )

    def _cards(self, instance: Instance) -> Iterable[Card]:
        namespace = instance.metadata.namespace or ""
        for entry in instance.spec.networks:
            name = entry.port_ref.name if entry.port_ref else port_name(instance.metadata.name, entry.name)
            port = self.ports.get(name, namespace)
            ref = entry.network_ref or (port.spec.network_ref if port is not None else None)
            if ref is None:
                yield Card(entry, name)
                continue
            network = Key(ref.namespace or namespace, ref.name)
            names = group_names(port) if port is not None else []
            groups = {group: found for group in names if (found := self.groups.get(group, namespace)) is not None}
            yield Card(
                entry=entry,
                port_name=name,
                network_key=network,
                port=port,
                network=self.networks.get(network.name, network.namespace),
                subnets=tuple(self.subnets.find("compute/network", network)),
                groups=groups,
                used_by=self._other_user(instance, port) if port is not None else None,
            )

    def _other_user(self, instance: Instance, port: Port) -> str | None:
        """Another instance that has the port, by what is there: a work object, an owner, an earlier wish."""
        uid = instance.metadata.uid
        for work in self.work.find("compute/port", port.metadata.uid):
            if work.spec.instance_ref.uid != uid:
                return work.spec.instance_ref.name
        for owner in port.metadata.owner_references:
            if owner.kind == "Instance" and owner.uid != uid:
                return owner.name
        if is_owned(port, instance):
            return None
        wishing = [
            other
            for other in self.instances.find("compute/port-ref", Key(port.metadata.namespace or "", port.metadata.name))
            if other.metadata.deletion_timestamp is None or other.metadata.uid == uid
        ]
        first = min(wishing, key=_claim, default=instance)
        return None if first.metadata.uid == uid else first.metadata.name

    def _nodes_of(self, namespace: str, names: Iterable[str]) -> set[str]:
        """Also where they are bound for: of two that avoid each other, the second must see what the first just took."""
        found = [one for name in names if (one := self.instances.get(name, namespace)) is not None]
        there = {one.status.node_name for one in found if one.status.node_name is not None}
        bound_for = (record for one in found for record in self.records.find("compute/instance", one.metadata.uid))
        return there | {record.metadata.name for record in bound_for}

    def _is_up(self, node: str) -> bool:
        hypervisor = self.hypervisors.get(node)
        return hypervisor is not None and hypervisor.status.phase is not HypervisorPhase.DOWN


def _claim(instance: Instance) -> tuple[bool, str, str]:
    """Who comes first to a port: who has a node, then who was made first."""
    meta = instance.metadata
    created = meta.creation_timestamp.isoformat() if meta.creation_timestamp is not None else ""
    return (instance.status.node_name is None, created, meta.uid)
