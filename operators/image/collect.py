"""Deletion of blobs that no object refers to any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from crds.image import Image
from crds.node import NodeInstance
from operators.image.store import DirectoryStore
from runtime.cache import Cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """`unused`: since when each blob without reference has been seen so; `expired`: those to be deleted now."""

    unused: Mapping[str, datetime]
    expired: Collection[str]


def plan_sweep(
    blobs: Collection[str],
    referenced: Collection[str],
    unused: Mapping[str, datetime],
    now: datetime,
    grace: timedelta,
) -> Sweep:
    """What a look at the store means; `unused` is from the look before."""
    since = {blob: unused.get(blob, now) for blob in blobs if blob not in referenced}
    expired = [blob for blob, at in since.items() if now - at >= grace]
    return Sweep({blob: at for blob, at in since.items() if blob not in expired}, expired)


class Collector:
    """Deletes what neither an Image nor a NodeInstance has referred to for `grace` seconds.

    The grace covers what was decided on an Image that is being deleted: a NodeInstance made of it moments later.
    """

    def __init__(
        self,
        store: DirectoryStore,
        images: Cache[Image],
        instances: Cache[NodeInstance],
        now: Callable[[], datetime],
        grace: float,
    ) -> None:
        self._store = store
        self._images = images
        self._instances = instances
        self._now = now
        self._grace = grace
        self._unused: Mapping[str, datetime] = {}

    async def run(self) -> None:
        """Looks once at start and then several times per grace, until cancelled."""
        await self._store.opened.wait()
        while True:
            await self.sweep()
            await asyncio.sleep(min(60.0, max(self._grace / 5, 0.1)))

    async def sweep(self) -> None:
        """One look. A reference that comes while it runs is seen before each deletion."""
        if not self._store.opened.is_set():
            return
        sweep = plan_sweep(
            self._store.blobs(), self._referenced(), self._unused, self._now(), timedelta(seconds=self._grace)
        )
        self._unused = sweep.unused
        for blob in sweep.expired:
            if blob not in self._referenced() and await self._store.delete(blob):
                log.info("%s: blob deleted, no object refers to it", blob)
        known = {image.metadata.uid for image in self._images}
        for uid in set(self._store.arrived()) - known:
            self._store.drop_incoming(uid)
            log.info("%s: bytes of an image that is gone deleted", uid)

    def _referenced(self) -> set[str]:
        used = {image.status.stored_sha256 for image in self._images}
        used |= {instance.spec.root_disk.image.sha256 for instance in self._instances}
        return {blob for blob in used if blob is not None}
