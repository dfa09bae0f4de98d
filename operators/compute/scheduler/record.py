"""The record of what is taken: one HypervisorAllocation per node. Every write fails if the record changed meanwhile."""

from __future__ import annotations

from typing import Any

from crds.compute import Allocation, HypervisorAllocation
from operators.compute.scheduler.model import Amount
from runtime.client import NotFound
from runtime.cluster import Cluster
from runtime.kind import kind_of

RECORD = kind_of(HypervisorAllocation)


def by_instance(record: HypervisorAllocation) -> list[str]:
    """The cache's index `uid`: the instances that take something of the node."""
    return [one.uid for one in record.spec.allocations]


def allocation_of(record: HypervisorAllocation, uid: str) -> Allocation | None:
    """What the instance takes of the node, if anything."""
    return next((one for one in record.spec.allocations if one.uid == uid), None)


def amount_of(allocation: Allocation) -> Amount:
    return Amount(allocation.vcpus, allocation.memory, allocation.disk)


async def allocate(cluster: Cluster, record: HypervisorAllocation, allocation: Allocation) -> None:
    """Adds an entry to the record as it was seen. Raises `Conflict` if it changed since."""
    path = "/spec/allocations" if not record.spec.allocations else "/spec/allocations/-"
    entry = allocation.to_dict()
    await _write(cluster, record, {"op": "add", "path": path, "value": entry if path.endswith("-") else [entry]})


async def release(cluster: Cluster, record: HypervisorAllocation, uid: str) -> None:
    """Takes an instance's entry out of the record as it was seen. Raises `Conflict` if it changed since."""
    at = next((i for i, one in enumerate(record.spec.allocations) if one.uid == uid), None)
    if at is None:
        return
    try:
        await _write(cluster, record, {"op": "remove", "path": f"/spec/allocations/{at}"})
    except NotFound:
        return  # the node's record went away, and with it the entry


async def _write(cluster: Cluster, record: HypervisorAllocation, operation: dict[str, Any]) -> None:
    # Writing the resourceVersion that was seen makes the apiserver compare it (409 if it moved on), where a `test`
    # operation that fails would look like an invalid request.
    seen = {"op": "replace", "path": "/metadata/resourceVersion", "value": record.metadata.resource_version}
    await cluster.json_patch(RECORD, record.metadata.name, None, [seen, operation])
