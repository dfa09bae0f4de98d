"""Flavors are told whether this release can give them."""

from __future__ import annotations

from crds.compute import Flavor
from operators.compute.flavor_plan import plan
from operators.domain import Context
from operators.status import announce, write_status
from runtime.cache import Key
from runtime.controller import Controller


def controller(context: Context) -> Controller:
    cluster = context.cluster
    cache = cluster.watch_resource(Flavor)

    async def reconcile(key: Key) -> None:
        flavor = cache.get(key.name)
        if flavor is None or flavor.metadata.deletion_timestamp is not None:
            return
        status, verdict = plan(flavor, context.now())
        if await write_status(cluster, flavor, status):
            await announce(context.recorder, flavor, verdict)

    made = Controller("flavor", reconcile, workers=1)
    cache.on_change(lambda key, old, new: made.enqueue(key))
    return made
