"""Which changes of other objects concern which ports."""

from __future__ import annotations

from collections.abc import Iterable

from crds.conditions import is_true
from crds.network import IPAllocation, MACAllocation, Network, Port, SecurityGroup, Subnet
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from operators.network.state import (
    GROUP_OF,
    NETWORK_OF,
    State,
    allocation_network,
    key_of,
    subnet_network,
)
from operators.verdict import READY
from runtime.cache import Key
from runtime.controller import Controller


class PortDoorbells:
    """Enqueues ports for what they wait for, for their work objects, and for what they lost."""

    def __init__(self, state: State, controller: Controller) -> None:
        self._state = state
        self._controller = controller
        state.ports.on_change(lambda key, old, new: controller.enqueue(key))
        state.networks.on_change(self._network)
        state.subnets.on_change(self._subnet)
        state.ip_allocations.on_change(self._allocation)
        state.mac_allocations.on_change(self._allocation)
        state.groups.on_change(self._group)
        state.node_instances.on_change(self._node_instance)
        state.network_slices.on_change(self._network_slice)
        state.group_slices.on_change(self._group_slice)

    def _enqueue(self, ports: Iterable[Port]) -> None:
        for port in ports:
            self._controller.enqueue(key_of(port))

    def _unsettled(self, network: Key) -> Iterable[Port]:
        return (p for p in self._state.ports.find(NETWORK_OF, network) if not is_true(p.status.conditions, READY))

    def _network(self, key: Key, old: Network | None, new: Network | None) -> None:
        self._enqueue(self._unsettled(key))

    def _subnet(self, key: Key, old: Subnet | None, new: Subnet | None) -> None:
        network = subnet_network(new or old)  # type: ignore[arg-type]  # one of them is there
        if old is None or new is None or old.status.cidr != new.status.cidr:
            self._enqueue(self._state.ports.find(NETWORK_OF, network))
        else:
            self._enqueue(self._unsettled(network))

    def _allocation(
        self, key: Key, old: IPAllocation | MACAllocation | None, new: IPAllocation | MACAllocation | None
    ) -> None:
        if old is None or new is not None:
            return
        self._enqueue(self._unsettled(allocation_network(old)))
        self._by_uid([old.spec.holder.uid])  # it may still need what somebody deleted

    def _group(self, key: Key, old: SecurityGroup | None, new: SecurityGroup | None) -> None:
        if (old is None) != (new is None):
            self._enqueue(self._state.ports.find(GROUP_OF, key))

    def _node_instance(self, key: Key, old: NodeInstance | None, new: NodeInstance | None) -> None:
        self._by_uid({port.uid for instance in (old, new) if instance for port in instance.spec.ports})

    def _network_slice(self, key: Key, old: NetworkSlice | None, new: NetworkSlice | None) -> None:
        if old is not None:
            still = {entry.port_uid for entry in new.spec.entries} if new else set()
            self._released({entry.port_uid for entry in old.spec.entries} - still)

    def _group_slice(self, key: Key, old: SecurityGroupSlice | None, new: SecurityGroupSlice | None) -> None:
        if old is not None:
            still = {member.port_uid for member in new.spec.members} if new else set()
            self._released({member.port_uid for member in old.spec.members} - still)

    def _released(self, uids: Iterable[str]) -> None:
        for uid in uids:
            port = self._state.port_by_uid(uid)
            if port is not None and port.metadata.deletion_timestamp is not None:
                self._controller.enqueue(key_of(port))

    def _by_uid(self, uids: Iterable[str]) -> None:
        for uid in uids:
            port = self._state.port_by_uid(uid)
            if port is not None:
                self._controller.enqueue(key_of(port))
