"""Flavors: what of them this release can give."""

from __future__ import annotations

from datetime import datetime

from crds.compute import Flavor
from crds.meta import Status
from operators.compute.reasons import Reason
from operators.domain import Context
from operators.status import Verdict, announce, ready, stalled, summarized, write_status
from runtime.cache import Key
from runtime.controller import Controller


def unsupported(flavor: Flavor) -> str | None:
    """The field that this release cannot realise, if there is one."""
    if flavor.spec.ephemeral_disk:
        return "spec.ephemeralDisk"
    if flavor.spec.swap:
        return "spec.swap"
    return None


def judge(flavor: Flavor) -> Verdict:
    field = unsupported(flavor)
    if field is None:
        return ready(Reason.VALID, "Instances can be made with the flavor.")
    return stalled(
        Reason.NOT_SUPPORTED,
        f"Flavor {flavor.metadata.name}: {field} is not supported by this release: create a flavor without it.",
    )


def plan(flavor: Flavor, now: datetime) -> tuple[Status, Verdict]:
    verdict, generation = judge(flavor), flavor.metadata.generation
    conditions = summarized(flavor.status.conditions, verdict, generation, now)
    return Status(observed_generation=generation, conditions=conditions), verdict


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
