"""Takes back what is allocated to holders that are no more.

An operator that is killed between a claim and the status that tells of it leaves a claim that its successor finds by
the holder's UID. What is left here are claims whose holder went without its finalizer being honoured, and requests that
reached the apiserver after the operator had given up on them.
"""

from __future__ import annotations

import asyncio
import logging

from crds.meta import Holder
from crds.network import IPAllocation, MACAllocation, Segment
from operators.domain import Context
from operators.network.claims import give_back
from operators.network.state import HOLDER, NETWORK, PORT, SUBNET, UID, State
from runtime.cache import Cache, Key
from runtime.client import NotFound
from runtime.controller import Controller
from runtime.kind import Kind

log = logging.getLogger(__name__)

_KINDS: dict[str, Kind] = {"Network": NETWORK, "Subnet": SUBNET, "Port": PORT}
"""Kinds of holders that are known here. What others hold is none of this domain's business."""

_EVERY = 300.0


class Reclaim:
    """One controller for each kind of allocation; a look at a key is a live look at its holder."""

    def __init__(self, context: Context, state: State) -> None:
        self._cluster = context.cluster
        self._state = state
        self.ips = Controller("reclaim-ips", lambda key: self._look(key, state.ip_allocations), workers=4)
        self.macs = Controller("reclaim-macs", lambda key: self._look(key, state.mac_allocations), workers=4)
        self.segments = Controller("reclaim-segments", lambda key: self._look(key, state.segments), workers=2)
        self.controllers = (self.ips, self.macs, self.segments)
        for holders in (state.networks, state.subnets, state.ports):
            # A holder that honoured its finalizer has nothing left by now.
            holders.on_change(lambda key, old, new: self.of_holder(old.metadata.uid) if old and not new else None)

    def of_holder(self, uid: str) -> None:
        """Looks at everything that is allocated to this UID."""
        for ip in self._state.ip_allocations.find(HOLDER, uid):
            self.ips.enqueue(Key(ip.metadata.namespace or "", ip.metadata.name))
        for mac in self._state.mac_allocations.find(HOLDER, uid):
            self.macs.enqueue(Key(mac.metadata.namespace or "", mac.metadata.name))
        for segment in self._state.segments.find(HOLDER, uid):
            self.segments.enqueue(Key("", segment.metadata.name))

    async def sweep(self) -> None:
        """Looks, now and then, at every allocation whose holder is not in the cache."""
        while True:
            known = {cache.kind.kind: cache for cache in (self._state.networks, self._state.subnets, self._state.ports)}
            holders: set[str] = set()
            for cache in (self._state.ip_allocations, self._state.mac_allocations, self._state.segments):
                for allocation in cache:
                    holder = allocation.spec.holder
                    if holder.kind in known and not known[holder.kind].find(UID, holder.uid):
                        holders.add(holder.uid)
            for uid in holders:
                self.of_holder(uid)
            await asyncio.sleep(_EVERY)

    async def _look(self, key: Key, cache: Cache[IPAllocation] | Cache[MACAllocation] | Cache[Segment]) -> float | None:
        allocation = cache.get(key.name, key.namespace)
        if allocation is None or await self._lives(allocation.spec.holder):
            return None
        holder = allocation.spec.holder
        log.info("%s: taken back from %s %s/%s, which is gone", key, holder.kind, holder.namespace, holder.name)
        await give_back(self._cluster, allocation)
        return None

    async def _lives(self, holder: Holder) -> bool:
        kind = _KINDS.get(holder.kind)
        if kind is None:
            return True
        try:
            found = await self._cluster.client.get(kind, holder.name, holder.namespace)
        except NotFound:
            return False
        return bool(found["metadata"]["uid"] == holder.uid)
