"""What is left of instances that are gone: work objects and places in records, found by a slow walk.

An Instance's finalizer keeps it until all that is gone, so there is something to find only after a finalizer was
removed by hand, or etcd came back from a backup. Just then caution is due: a guest is lost with its work object. So an
Instance counts as gone only if the API itself, not a cache, says twice, some time apart, that no Instance of that name
has that UID.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from crds.compute import HypervisorAllocation, Instance
from crds.node import NodeInstance
from operators.compute.instance.caches import Caches
from operators.compute.names import node_namespace, user_data_secret
from operators.compute.scheduler.record import release
from runtime.cache import Key
from runtime.client import ApiError, Client, Conflict, NotFound
from runtime.cluster import Cluster
from runtime.kind import SECRET, kind_of

log = logging.getLogger(__name__)

SWEEP_EVERY = 30.0
SECOND_LOOK_AFTER = timedelta(seconds=30)

_INSTANCE, _NODE_INSTANCE = kind_of(Instance), kind_of(NodeInstance)


@dataclass(frozen=True)
class Remnant:
    """Something of an instance that the caches do not know (any more)."""

    uid: str
    instance: Key


def remnants(caches: Caches) -> set[Remnant]:
    """Whatever names an instance that is not in the cache under that UID. Candidates only."""
    named = {
        Remnant(work.spec.instance_ref.uid, Key(work.spec.instance_ref.namespace, work.spec.instance_ref.name))
        for work in caches.work
    }
    named |= {
        Remnant(one.uid, Key(one.namespace, one.name)) for record in caches.records for one in record.spec.allocations
    }
    return {one for one in named if not _is_known(caches, one)}


class Sweep:
    """Remembers since when each remnant's instance was seen to be gone."""

    def __init__(self, cluster: Cluster, caches: Caches, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._caches = caches
        self._now = now
        self._gone_since: dict[Remnant, datetime] = {}

    async def run(self) -> None:
        """Sweeps for ever."""
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                await self.look()
            except ApiError as error:
                log.warning("the sweep for remnants failed, and is tried again: %s", error)

    async def look(self) -> None:
        """One walk."""
        found = remnants(self._caches)
        self._gone_since = {one: since for one, since in self._gone_since.items() if one in found}
        for one in sorted(found, key=lambda one: one.uid):
            if not await is_gone(self._cluster.client, one):
                self._gone_since.pop(one, None)
                continue
            now = self._now()
            if now - self._gone_since.setdefault(one, now) >= SECOND_LOOK_AFTER:
                await self._clear(one)

    async def _clear(self, one: Remnant) -> None:
        """The guest first; its place only when the work object is gone, which a later walk sees."""
        work = self._caches.work.find("compute/instance", one.uid)
        for each in work:
            meta = each.metadata
            if meta.deletion_timestamp is None:
                log.warning(
                    "%s: instance %s is gone, deleting its work object in %s", one.uid, one.instance, meta.namespace
                )
                await self._cluster.delete(_NODE_INSTANCE, meta.name, meta.namespace, uid=meta.uid)
                await self._cluster.delete(SECRET, user_data_secret(one.uid), meta.namespace)
        if work:
            return
        for record in self._caches.records.find("compute/instance", one.uid):
            await self._free(record, one)

    async def _free(self, record: HypervisorAllocation, one: Remnant) -> None:
        log.warning("%s: instance %s is gone, freeing its place on %s", one.uid, one.instance, record.metadata.name)
        # Made before the work object, so it may be there without one.
        await self._cluster.delete(SECRET, user_data_secret(one.uid), node_namespace(record.metadata.name))
        try:
            await release(self._cluster, record, one.uid)
        except Conflict:
            log.debug("%s: the record changed meanwhile; the next walk frees it", record.metadata.name)


async def is_gone(client: Client, one: Remnant) -> bool:
    """Whether the API has no Instance of that name, or another one."""
    try:
        found = await client.get(_INSTANCE, one.instance.name, one.instance.namespace)
    except NotFound:
        return True
    return bool(found["metadata"]["uid"] != one.uid)


def _is_known(caches: Caches, one: Remnant) -> bool:
    instance = caches.instances.get(one.instance.name, one.instance.namespace)
    return instance is not None and instance.metadata.uid == one.uid
