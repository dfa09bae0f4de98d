"""Hypervisors: up or down by their agents' Leases, and the scheduler's record of each.

Of Hypervisor.status the agent writes what the node has; here are written `phase`, `conditions`, `observedGeneration`.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from crds.compute import Hypervisor, HypervisorAllocation, HypervisorPhase, HypervisorStatus
from operators.compute.liveness import Liveness
from operators.compute.names import AGENT_LEASE, node_namespace, node_of
from operators.compute.reasons import Reason
from operators.compute.scheduler.record import RECORD
from operators.domain import Context
from operators.status import write_status
from operators.verdict import Verdict, ready, summarized, waiting
from runtime.cache import Key
from runtime.client import AlreadyExists, ApiError, NotFound
from runtime.controller import Controller
from runtime.kind import LEASE
from runtime.process import Task

log = logging.getLogger(__name__)

POLL_EVERY = 5.0
"""Seconds between two looks at all agents' Leases: one list of small objects, where a watch would wake this process
for every renewal of every Lease in the cluster."""
_NEW_NODE_POLL = 1.0
_NEW_FOR = timedelta(minutes=2)
"""A new node is looked at each second, so that it can be used as soon as its agent runs; later the list of all does."""


def judge(alive: bool | None, described: bool) -> tuple[HypervisorPhase, Verdict]:
    """`alive` as `Liveness.alive` tells it; `described`: the agent has told the node's capacity."""
    if alive is None or (alive and not described):
        missing = "renewed its Lease" if alive is None else "told the node's capacity"
        return HypervisorPhase.PENDING, waiting(
            Reason.AGENT_NOT_SEEN, f"The agent has not {missing} yet: if this lasts, read the agent's log on the node."
        )
    if alive:
        return HypervisorPhase.UP, ready(Reason.RENEWED, "The agent renews its Lease.")
    return HypervisorPhase.DOWN, waiting(
        Reason.AGENT_SILENT,
        "The agent stopped renewing its Lease: look at the node, its network and the agent's log."
        " Guests on it may still run; none is started elsewhere.",
    )


def _is_new(hypervisor: Hypervisor, now: datetime) -> bool:
    created = hypervisor.metadata.creation_timestamp
    return created is not None and now - created < _NEW_FOR


def plan(hypervisor: Hypervisor, alive: bool | None, now: datetime) -> HypervisorStatus:
    """The status with the operator's fields as they should be, the agent's as they are."""
    phase, verdict = judge(alive, hypervisor.status.capacity is not None)
    generation = hypervisor.metadata.generation
    return hypervisor.status.model_copy(
        update={
            "phase": phase,
            "observed_generation": generation,
            "conditions": summarized(hypervisor.status.conditions, verdict, generation, now),
        }
    )


def controller(context: Context, liveness: Liveness) -> tuple[Controller, Task]:
    """The controller, and the task that reads the Leases."""
    cluster = context.cluster
    hypervisors = cluster.watch_resource(Hypervisor)
    records = cluster.watch_resource(HypervisorAllocation)

    async def reconcile(key: Key) -> float | None:
        hypervisor = hypervisors.get(key.name)
        if hypervisor is None or hypervisor.metadata.deletion_timestamp is not None:
            record = records.get(key.name)
            if record is not None and not record.spec.allocations:
                await cluster.delete(RECORD, key.name, uid=record.metadata.uid)
            return None
        if records.get(key.name) is None:
            try:
                await cluster.create(RECORD, {"metadata": {"name": key.name}, "spec": {"allocations": []}})
            except AlreadyExists:
                log.debug("%s: the record exists, the watch will bring it", key)
        if liveness.alive(key.name) is None:
            await look(key.name)
        alive = liveness.alive(key.name)
        await write_status(cluster, hypervisor, plan(hypervisor, alive, context.now()))
        return _NEW_NODE_POLL if alive is None and _is_new(hypervisor, context.now()) else None

    async def look(node: str) -> None:
        try:
            lease = await cluster.client.get(LEASE, AGENT_LEASE, node_namespace(node))
        except NotFound:
            lease = None
        liveness.observe(node, lease, context.now(), was_up=was_up(node))

    def was_up(node: str) -> bool:
        hypervisor = hypervisors.get(node)
        return hypervisor is not None and hypervisor.status.phase is HypervisorPhase.UP

    async def poll() -> None:
        answered = context.now()
        while True:
            try:
                leases, _ = await cluster.client.list(LEASE, field_selector=f"metadata.name={AGENT_LEASE}")
            except ApiError as error:
                log.warning("cannot list the agents' leases: %s", error)
            else:
                now = context.now()
                if (now - answered).total_seconds() > 3 * POLL_EVERY:
                    liveness.forgive(now)
                answered = now
                take_in({node: lease for lease in leases if (node := node_of(lease["metadata"]["namespace"]))}, now)
            await asyncio.sleep(POLL_EVERY)

    def take_in(leases: dict[str, dict[str, object]], now: datetime) -> None:
        for node in {*leases, *liveness.nodes(), *(one.metadata.name for one in hypervisors)}:
            liveness.observe(node, leases.get(node), now, was_up=was_up(node))
            hypervisor = hypervisors.get(node)
            if hypervisor is not None:
                phase, _ = judge(liveness.alive(node), hypervisor.status.capacity is not None)
                if phase is not hypervisor.status.phase:
                    made.enqueue(Key("", node))

    made = Controller("hypervisor", reconcile, workers=2)
    hypervisors.on_change(lambda key, old, new: made.enqueue(key))
    records.on_change(lambda key, old, new: made.enqueue(key))
    return made, poll
