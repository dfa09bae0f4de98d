"""NetworkSlices: the forwarding entries of each network, made from the work objects that carry its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crds.compute import Hypervisor
from crds.meta import ObjectMeta
from crds.node import NetworkSlice, NetworkSliceSpec, NodeInstance, PortNetwork, SliceEntry
from operators.domain import Context
from operators.network.names import node_of, slice_name
from operators.network.shards import plan_shards
from operators.network.slice_writer import write_slices
from operators.network.state import NETWORK_OF, NODE, State
from runtime.cache import Key
from runtime.controller import Controller

ENTRIES_PER_SHARD = 200


def entries_of(uid: str, carriers: Iterable[NodeInstance], vteps: Mapping[str, str | None]) -> list[SliceEntry]:
    """The bound ports of a network; one that migrates has an entry for each node. `vteps` by node. Pure."""
    entries = []
    for carrier in carriers:
        node = node_of(carrier.metadata.namespace or "")
        if node is None:
            continue
        for port in carrier.spec.ports:
            if port.network.uid == uid:
                ips = [fixed.ip for fixed in port.fixed_ips]
                entries.append(
                    SliceEntry(port_uid=port.uid, mac=port.mac_address, ips=ips, node_name=node, vtep=vteps.get(node))
                )
    return entries


def plan_network_slices(
    network: PortNetwork | None,
    entries: Iterable[SliceEntry],
    current: Mapping[int, NetworkSlice],
    namespace: str,
) -> dict[int, NetworkSlice | None]:
    """The slices to write (None: to delete), by shard; those that are right already are left out. Pure.

    network: what a work object says of it; None when none carries it any more.
    """
    if network is None:
        return dict.fromkeys(current)
    layout = plan_shards(
        {number: shard.spec.entries for number, shard in current.items()},
        {(entry.port_uid, entry.node_name): entry for entry in entries},
        lambda entry: (entry.port_uid, entry.node_name),
        ENTRIES_PER_SHARD,
    )
    changes: dict[int, NetworkSlice | None] = {}
    for number, items in layout.items():
        if not items:
            changes[number] = None
            continue
        spec = NetworkSliceSpec(
            network_uid=network.uid, type=network.type, segmentation_id=network.segmentation_id, entries=items
        )
        old = current.get(number)
        if old is None or old.spec != spec:
            meta = ObjectMeta(name=slice_name(network.uid, number), namespace=namespace)
            changes[number] = NetworkSlice(metadata=meta, spec=spec)
    return changes


def shard_of(network_slice: NetworkSlice) -> int:
    """The number at the end of a slice's name."""
    return int(network_slice.metadata.name.rpartition("-")[2])


class NetworkSlices:
    """One key is a network's UID: many ports that are bound at once cost few writes."""

    def __init__(self, context: Context, state: State) -> None:
        self._context = context
        self._state = state
        self.controller = Controller("networkslices", self.reconcile, workers=4)
        state.node_instances.on_change(self._node_instance_changed)
        state.hypervisors.on_change(self._hypervisor_changed)
        state.network_slices.on_change(self._slice_changed)

    def _node_instance_changed(self, key: Key, old: NodeInstance | None, new: NodeInstance | None) -> None:
        if old is not None and new is not None and old.spec.ports == new.spec.ports:
            return
        for instance in (old, new):
            if instance is not None:
                self._enqueue(instance)

    def _hypervisor_changed(self, key: Key, old: Hypervisor | None, new: Hypervisor | None) -> None:
        if (old and old.status.underlay_ip) != (new and new.status.underlay_ip):
            for instance in self._state.node_instances.find(NODE, key.name):
                self._enqueue(instance)

    def _slice_changed(self, key: Key, old: NetworkSlice | None, new: NetworkSlice | None) -> None:
        for found in (old, new):
            if found is not None:
                self.controller.enqueue(Key("", found.spec.network_uid))

    def _enqueue(self, instance: NodeInstance) -> None:
        for port in instance.spec.ports:
            self.controller.enqueue(Key("", port.network.uid))

    async def reconcile(self, key: Key) -> None:
        uid = key.name
        carriers = self._state.node_instances.find(NETWORK_OF, uid)
        current = {shard_of(s): s for s in self._state.network_slices.find(NETWORK_OF, uid)}
        networks = (port.network for carrier in carriers for port in carrier.spec.ports if port.network.uid == uid)
        changes = plan_network_slices(
            next(networks, None),
            entries_of(uid, carriers, self._vteps(carriers)),
            current,
            self._context.settings.slices_namespace,
        )
        await write_slices(self._context.cluster, changes, current, lambda s: len(s.spec.entries))

    def _vteps(self, carriers: Iterable[NodeInstance]) -> dict[str, str | None]:
        nodes = {node_of(carrier.metadata.namespace or "") or "" for carrier in carriers}
        found = {node: self._state.hypervisors.get(node) for node in nodes}
        return {node: hypervisor.status.underlay_ip if hypervisor else None for node, hypervisor in found.items()}
