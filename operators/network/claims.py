"""Taking and giving back what is allocated: objects named after values, so that `AlreadyExists` is the lock."""

from __future__ import annotations

from typing import TypeVar

from crds.meta import Holder, NameRef, ObjectMeta
from crds.network import (
    IPAllocation,
    IPAllocationSpec,
    MACAllocation,
    MACAllocationSpec,
    Network,
    Port,
    Segment,
    Subnet,
)
from operators.network.names import address_name, mac_name
from operators.network.ranges import IPAddress
from runtime.client import AlreadyExists, NotFound
from runtime.cluster import Cluster, trimmed
from runtime.kind import kind_of

Allocation = TypeVar("Allocation", IPAllocation, MACAllocation, Segment)


def holder_of(holder: Port | Subnet | Network) -> Holder:
    meta = holder.metadata
    return Holder(kind=type(holder).__name__, namespace=meta.namespace, name=meta.name, uid=meta.uid)


def ip_allocation(network: Network, subnet: str | None, ip: IPAddress, holder: Holder) -> IPAllocation:
    """The record that `holder` has the address."""
    meta = network.metadata
    return IPAllocation(
        metadata=ObjectMeta(name=address_name(meta.name, ip), namespace=meta.namespace),
        spec=IPAllocationSpec(
            network_ref=NameRef(name=meta.name), network_uid=meta.uid, subnet=subnet, address=str(ip), holder=holder
        ),
    )


def mac_allocation(network: Network, mac: str, holder: Holder) -> MACAllocation:
    """The record that `holder` has the MAC."""
    meta = network.metadata
    return MACAllocation(
        metadata=ObjectMeta(name=mac_name(meta.name, mac), namespace=meta.namespace),
        spec=MACAllocationSpec(network_ref=NameRef(name=meta.name), network_uid=meta.uid, address=mac, holder=holder),
    )


async def take(cluster: Cluster, allocation: IPAllocation | MACAllocation | Segment) -> bool:
    """True when the value is the holder's, from now or from before; False when it is another's, or was a moment ago.

    Either way the cache then knows who has it.
    """
    kind = kind_of(type(allocation))
    meta = allocation.metadata
    seen = cluster.caches[kind].get(meta.name, meta.namespace or "")
    if seen is not None and seen.spec.holder.uid == allocation.spec.holder.uid:
        return True
    try:
        await cluster.create(kind, allocation.to_dict())
    except AlreadyExists:
        try:
            found = await cluster.client.get(kind, meta.name, meta.namespace)
        except NotFound:
            return False
        cluster.caches[kind].observe(trimmed(found))
        return bool(found["spec"]["holder"]["uid"] == allocation.spec.holder.uid)
    return True


async def give_back(cluster: Cluster, allocation: IPAllocation | MACAllocation | Segment) -> None:
    """Deletes exactly this record, and never a successor of the same name."""
    kind = kind_of(type(allocation))
    meta = allocation.metadata
    await cluster.delete(kind, meta.name, meta.namespace, uid=meta.uid)
    # Without finalizers it is gone now; the next choice must not wait for the watch to say so.
    cluster.caches[kind].forget({"metadata": meta.to_dict()})
