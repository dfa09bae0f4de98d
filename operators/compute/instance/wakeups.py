"""Which instances a change concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crds.compute import Hypervisor, Instance
from crds.identity import Tenant
from crds.network import Network, Port, SecurityGroup, Subnet
from crds.node import NodeInstance
from operators.compute.instance.caches import Caches, key_of, port_refs
from operators.compute.names import node_namespace, port_name
from runtime.cache import Key


def wake(caches: Caches, enqueue: Callable[[Key], None]) -> None:
    """Calls `enqueue` with the key of every instance that a change may concern."""

    def all_of(instances: Iterable[Instance]) -> None:
        for one in instances:
            enqueue(key_of(one))

    def unplaced(instances: Iterable[Instance]) -> None:
        all_of(one for one in instances if one.status.node_name is None)

    def without_work(instances: Iterable[Instance]) -> None:
        all_of(one for one in instances if not caches.work.find("compute/instance", one.metadata.uid))

    def instance_changed(key: Key, old: Instance | None, new: Instance | None) -> None:
        enqueue(key)
        for seen in (old, new):
            for port in port_refs(seen) if seen is not None else ():
                all_of(one for one in caches.instances.find("compute/port-ref", port) if key_of(one) != key)

    def tenant_changed(key: Key, old: Tenant | None, new: Tenant | None) -> None:
        if old is None or new is None or old.spec.enabled != new.spec.enabled:
            all_of(caches.instances.find("compute/namespace", key.name))

    def network_changed(key: Key, old: Network | None, new: Network | None) -> None:
        on_network(key)

    def on_network(key: Key) -> None:
        all_of(caches.instances.find("compute/network", key))
        for port in caches.ports.find("compute/network", key):
            port_user(port)

    def subnet_changed(key: Key, old: Subnet | None, new: Subnet | None) -> None:
        for seen in (old, new):
            if seen is not None:
                on_network(Key(key.namespace, seen.spec.network_ref.name))

    def port_user(port: Port) -> None:
        key = Key(port.metadata.namespace or "", port.metadata.name)
        all_of(caches.instances.find("compute/port-ref", key))
        for owner in port.metadata.owner_references:
            if owner.kind == "Instance":
                enqueue(Key(key.namespace, owner.name))

    def port_changed(key: Key, old: Port | None, new: Port | None) -> None:
        for seen in (old, new):
            if seen is not None:
                port_user(seen)
        seen = new or old
        if (old is None or new is None) and seen is not None and not seen.metadata.owner_references:
            # Somebody's own Port took a name that a card needs, or frees it.
            unplaced(
                one
                for one in caches.instances.find("compute/namespace", key.namespace)
                if any(port_name(one.metadata.name, card.name) == key.name for card in one.spec.networks)
            )

    def group_changed(key: Key, old: SecurityGroup | None, new: SecurityGroup | None) -> None:
        if old is None or new is None or old.metadata.uid != new.metadata.uid:
            all_of(caches.instances.find("compute/namespace", key.namespace))

    def work_changed(key: Key, old: NodeInstance | None, new: NodeInstance | None) -> None:
        seen = new or old
        if seen is None:
            return
        enqueue(Key(seen.spec.instance_ref.namespace, seen.spec.instance_ref.name))
        if new is None:
            for port in seen.spec.ports:
                free = Key(seen.spec.instance_ref.namespace, port.port_name)
                all_of(caches.instances.find("compute/port-ref", free))

    def hypervisor_changed(key: Key, old: Hypervisor | None, new: Hypervisor | None) -> None:
        if old is None or new is None or old.status.phase is not new.status.phase:
            for work in caches.work.find("compute/namespace", node_namespace(key.name)):
                enqueue(Key(work.spec.instance_ref.namespace, work.spec.instance_ref.name))
            record = caches.records.get(key.name)
            for one in record.spec.allocations if record is not None else ():
                enqueue(Key(one.namespace, one.name))  # it may have no work object yet, and says where it is bound for

    caches.instances.on_change(instance_changed)
    caches.tenants.on_change(tenant_changed)
    caches.flavors.on_change(lambda key, old, new: unplaced(caches.instances.find("compute/flavor", key.name)))
    caches.images.on_change(lambda key, old, new: without_work(caches.instances.find("compute/image", key)))
    caches.key_pairs.on_change(
        lambda key, old, new: without_work(caches.instances.find("compute/namespace", key.namespace))
    )
    caches.networks.on_change(network_changed)
    caches.subnets.on_change(subnet_changed)
    caches.ports.on_change(port_changed)
    caches.groups.on_change(group_changed)
    caches.work.on_change(work_changed)
    caches.hypervisors.on_change(hypervisor_changed)
