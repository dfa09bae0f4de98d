"""The nodes as the scheduler sees them: what the agent told, what the infrastructure asks, what the record says."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from crds.compute import Hypervisor, HypervisorAllocation, HypervisorPhase, Maintenance
from operators.compute.scheduler.model import Amount, Host, Ratios
from runtime.cache import Cache, Key


def host_of(hypervisor: Hypervisor, record: HypervisorAllocation | None) -> Host:
    """A node without a record cannot be given anything of, and counts as not up."""
    spec, status = hypervisor.spec, hypervisor.status
    capacity, reserved = status.capacity, status.reserved
    room = Amount()
    if capacity is not None:
        room = Amount(capacity.vcpus, capacity.memory, capacity.disk)
        if reserved is not None:
            room -= Amount(reserved.vcpus, reserved.memory, reserved.disk)
    return Host(
        name=hypervisor.metadata.name,
        capacity=room,
        allocated=allocated(record) if record is not None else Amount(),
        ratios=Ratios(
            Fraction(spec.cpu_allocation_ratio),
            Fraction(spec.memory_allocation_ratio),
            Fraction(spec.disk_allocation_ratio),
        ),
        enabled=spec.maintenance is Maintenance.NONE,
        up=status.phase is HypervisorPhase.UP and capacity is not None and record is not None,
        architecture=status.architecture,
    )


def allocated(record: HypervisorAllocation) -> Amount:
    """The sum of what is taken."""
    total = Amount()
    for one in record.spec.allocations:
        total += Amount(one.vcpus, one.memory, one.disk)
    return total


class HostTable:
    """Every node, kept up to date by changes of its two objects, so that a decision need not add up anew."""

    def __init__(self, hypervisors: Cache[Hypervisor], records: Cache[HypervisorAllocation]) -> None:
        self._hypervisors = hypervisors
        self._records = records
        self._hosts: dict[str, Host] = {}
        hypervisors.on_change(lambda key, old, new: self._refresh(key))
        records.on_change(lambda key, old, new: self._refresh(key))

    def __iter__(self) -> Iterator[Host]:
        return iter(list(self._hosts.values()))

    def get(self, name: str) -> Host | None:
        return self._hosts.get(name)

    def _refresh(self, key: Key) -> None:
        hypervisor = self._hypervisors.get(key.name)
        if hypervisor is None or hypervisor.metadata.deletion_timestamp is not None:
            self._hosts.pop(key.name, None)
        else:
            self._hosts[key.name] = host_of(hypervisor, self._records.get(key.name))
