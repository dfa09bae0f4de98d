"""What the agent works on: the API's objects as the caches have them; before they are filled, the ledger's."""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar

from crds.meta import Resource
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from hostagent.ledger import Ledger
from runtime.cache import Cache, Key

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

WAIT_FOR_API = 10.0
"""Seconds that a starting agent waits for the API before it goes by the ledger."""
_BURST = 1.0
"""Seconds within which changes of slices are written together."""
_RETRY_AFTER = 15.0


class WorkSource:
    """Work objects and slices. `quarantined` tells of what runs without a work object."""

    def __init__(
        self,
        ledger: Ledger,
        instances: Cache[NodeInstance],
        networks: Cache[NetworkSlice],
        groups: Cache[SecurityGroupSlice],
    ) -> None:
        self.ledger = ledger
        self._instances = instances
        self._networks = networks
        self._groups = groups
        self._kept_instances = {found.metadata.name: found for found in ledger.load(NodeInstance)}
        self._kept_networks = ledger.load(NetworkSlice)
        self._kept_groups = ledger.load(SecurityGroupSlice)
        self._stale: set[tuple[type[Resource], str]] = set()
        self._changed = asyncio.Event()
        networks.on_change(lambda key, old, new: self._slice_changed(NetworkSlice, key))
        groups.on_change(lambda key, old, new: self._slice_changed(SecurityGroupSlice, key))

    async def wait_ready(self) -> None:
        """Returns when the caches are filled, or when the API has been away for long enough to go by the ledger.

        With an empty or damaged ledger it waits on: an agent that does not know all guests must not program a network
        without some of them.
        """
        caches = (self._instances, self._networks, self._groups)
        damaged = self.ledger.unreadable[NodeInstance]
        if damaged:
            log.warning("the ledger is damaged for %s: waiting for the API", ", ".join(sorted(damaged)))
        try:
            async with asyncio.timeout(WAIT_FOR_API if self._kept_instances and not damaged else None):
                for cache in caches:
                    await cache.synced.wait()
        except TimeoutError:
            log.warning(
                "the API does not answer: going by the ledger with %d guests until it does", len(self._kept_instances)
            )

    def instance(self, uid: str) -> NodeInstance | None:
        """The work object of that Instance; None when there is none (or the ledger knows none)."""
        if self._instances.synced.is_set():
            return self._instances.get(uid, self._instances.namespace or "")
        return self._kept_instances.get(uid)

    def remembered(self, uid: str) -> NodeInstance | None:
        """The ledger's copy, also of a work object that vanished."""
        return self._kept_instances.get(uid)

    def instances(self) -> list[NodeInstance]:
        """All work objects."""
        return list(self._instances) if self._instances.synced.is_set() else list(self._kept_instances.values())

    def uids(self) -> set[str]:
        """The names of all work objects, and of those that only the ledger remembers."""
        known = {work.metadata.name for work in self.instances()} | set(self._kept_instances)
        return known | self.ledger.unreadable[NodeInstance]

    def from_api(self) -> bool:
        """Whether `instances` are what the API says now."""
        return self._instances.synced.is_set()

    def network_slices(self) -> list[NetworkSlice]:
        return list(self._networks) if self._networks.synced.is_set() else self._kept_networks

    def group_slices(self) -> list[SecurityGroupSlice]:
        return list(self._groups) if self._groups.synced.is_set() else self._kept_groups

    async def keep(self, work: NodeInstance) -> None:
        """Writes the work object to the ledger unless it is there. Raises OSError; it is remembered nevertheless."""
        self._kept_instances[work.metadata.name] = work
        await asyncio.to_thread(self.ledger.keep, work)

    async def forget(self, uid: str) -> None:
        """Removes it from the ledger: nothing of it is on the node any more."""
        self._kept_instances.pop(uid, None)
        await asyncio.to_thread(self.ledger.forget, NodeInstance, uid)

    def _slice_changed(self, resource: type[Resource], key: Key) -> None:
        self._stale.add((resource, key.name))
        self._changed.set()

    async def keep_slices(self) -> None:
        """Writes changed slices to the ledger, for ever; a burst of changes is written once."""
        await self._networks.synced.wait()
        await self._groups.synced.wait()
        await asyncio.to_thread(self._drop_vanished)
        while True:
            await self._changed.wait()
            self._changed.clear()
            stale, self._stale = self._stale, set()
            try:
                await asyncio.to_thread(self._write, stale)
            except OSError as error:
                # Guests go on without: the ledger is for a boot while the API is away.
                log.error("slices cannot be kept in the ledger, tried again: %s", error)
                self._stale |= stale
                self._changed.set()
                await asyncio.sleep(_RETRY_AFTER)
            await asyncio.sleep(_BURST)

    def _write(self, stale: set[tuple[type[Resource], str]]) -> None:
        for resource, name in stale:
            found = self._slice(resource, name)
            if found is None:
                self.ledger.forget(resource, name)
            else:
                self.ledger.keep(found)

    def _slice(self, resource: type[Resource], name: str) -> Resource | None:
        if resource is NetworkSlice:
            return self._networks.get(name, self._networks.namespace or "")
        return self._groups.get(name, self._groups.namespace or "")

    def _drop_vanished(self) -> None:
        """Slices that were deleted while the agent was away."""
        kept: list[tuple[type[Resource], str]] = [
            (type(each), each.metadata.name) for each in (*self._kept_networks, *self._kept_groups)
        ]
        for damaged in (NetworkSlice, SecurityGroupSlice):
            kept += [(damaged, name) for name in self.ledger.unreadable[damaged]]
        for resource, name in kept:
            if self._slice(resource, name) is None:
                self.ledger.forget(resource, name)
        # From here on the caches tell; what was read at the start is not needed in memory any more.
        self._kept_networks, self._kept_groups = [], []
