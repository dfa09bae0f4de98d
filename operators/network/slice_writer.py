"""Writing slices: what a pure plan says, growing shards first, so that no item is missing while it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from crds.node import NetworkSlice, SecurityGroupSlice
from runtime.client import AlreadyExists, NotFound
from runtime.cluster import Cluster, trimmed
from runtime.kind import Kind, kind_of

Slice = TypeVar("Slice", NetworkSlice, SecurityGroupSlice)


async def write_slices(
    cluster: Cluster,
    changes: Mapping[int, Slice | None],
    current: Mapping[int, Slice],
    size: Callable[[Slice], int],
) -> None:
    """Creates, replaces and deletes (None) slices by shard number. Raises `Conflict` if one is not as in `current`."""

    def growth(number: int) -> int:
        new, old = changes[number], current.get(number)
        return (size(new) if new is not None else 0) - (size(old) if old is not None else 0)

    for number in sorted(changes, key=growth, reverse=True):
        new, old = changes[number], current.get(number)
        if new is None:
            if old is not None:
                await delete_slice(cluster, old)
        elif old is None:
            await _create(cluster, kind_of(type(new)), new)
        else:
            meta = {**new.metadata.to_dict(), "resourceVersion": old.metadata.resource_version}
            await cluster.replace(kind_of(type(new)), {**new.to_dict(), "metadata": meta})


async def _create(cluster: Cluster, kind: Kind, new: NetworkSlice | SecurityGroupSlice) -> None:
    try:
        await cluster.create(kind, new.to_dict())
    except AlreadyExists:
        # A predecessor made it and the watch has not told yet; with it in the cache, the next look is right.
        try:
            found = await cluster.client.get(kind, new.metadata.name, new.metadata.namespace)
        except NotFound:
            found = None
        if found is not None:
            cluster.caches[kind].observe(trimmed(found))
        raise


async def delete_slice(cluster: Cluster, old: NetworkSlice | SecurityGroupSlice) -> None:
    """Deletes exactly this slice, and forgets it at once."""
    kind, meta = kind_of(type(old)), old.metadata
    await cluster.delete(kind, meta.name, meta.namespace, uid=meta.uid)
    cluster.caches[kind].forget({"metadata": meta.to_dict()})
