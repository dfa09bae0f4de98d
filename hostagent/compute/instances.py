"""The reconciler of guests: observes, plans, executes, reports; one key is one Instance's UID."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from crds.node import NodeInstance, NodePortState, Step
from hostagent.compute import run_record
from hostagent.compute.executor import Executor, Memory, Superseded
from hostagent.compute.hypervisor import DomainInfo, Hypervisor, HypervisorError, HypervisorUnavailable
from hostagent.compute.plan import Action, Observed, Plan, is_on, plan
from hostagent.compute.report import Finding, status_of
from hostagent.compute.resolve import FINALIZER, desired_of, fault_of
from hostagent.errors import NodeError, Reason
from hostagent.image.cache import ImageCache
from hostagent.layout import Layout
from hostagent.network.report import Report
from hostagent.network_sync import port_status
from hostagent.work import WorkSource
from runtime.cache import Key
from runtime.client import ApiError, Conflict
from runtime.cluster import Cluster
from runtime.controller import backoff
from runtime.kind import kind_of

log = logging.getLogger(__name__)

_KIND = kind_of(NodeInstance)
_DOWNLOAD_SHOWS_AFTER = 1.0
_PROGRESS_EVERY = 5.0
_BUILDING_SHOWS_AFTER = 5.0
_STALLED_AFTER = 3
"""Tries of a step that fails for reasons that may pass."""

_MAY_PASS = frozenset(
    {
        Reason.IMAGE_UNREACHABLE,
        Reason.NETWORK_FAILED,
        Reason.HYPERVISOR_FAILED,
        Reason.DISK_FAILED,
        Reason.USER_DATA_MISSING,
    }
)
_WAITS_FOR_SOMEBODY = frozenset(
    {
        Reason.GUEST_STOPPED,
        Reason.GUEST_CRASHED,
        Reason.ROOT_DISK_LOST,
        Reason.POWER_STATE_UNSUPPORTED,
        Reason.DISK_IO_ERROR,
    }
)


class Instances:
    """`reconcile` for a controller whose keys' names are Instance UIDs."""

    def __init__(
        self,
        source: WorkSource,
        layout: Layout,
        images: ImageCache,
        hypervisor: Hypervisor,
        executor: Executor,
        cluster: Cluster,
        *,
        shutdown_grace: float,
    ) -> None:
        self._source = source
        self._layout = layout
        self._images = images
        self._hypervisor = hypervisor
        self._executor = executor
        self._cluster = cluster
        self._grace = shutdown_grace
        self._memories: dict[str, Memory] = {}
        self._vanished: set[str] = set()

    def released(self, work: NodeInstance) -> bool:
        """Whether the guest is deleted as far as the data plane is concerned."""
        if work.metadata.deletion_timestamp is not None and FINALIZER not in work.metadata.finalizers:
            return True  # gone from this node; a finalizer of somebody else's keeps the object
        memory = self._memories.get(work.metadata.name)
        return memory is not None and memory.released

    def work_changed(self, uid: str) -> None:
        """Breaks off a download that the guest waits for; its key is looked at anew."""
        memory = self._memories.get(uid)
        if memory is not None:
            memory.changed.set()

    def take_ports(self, report: Report) -> set[str]:
        """Takes in how the ports are; returns the UIDs of guests whose status changes thereby."""
        changed: set[str] = set()
        for work in self._source.instances():
            memory = self._memories.get(work.metadata.name)
            if memory is None:
                continue
            for port in work.spec.ports:
                found = report.ports.get(port.uid)
                if found is not None and memory.ports.get(port.uid) != (status := port_status(found)):
                    memory.ports[port.uid] = status
                    changed.add(work.metadata.name)
        return changed

    async def reconcile(self, key: Key) -> float | None:
        """Brings one guest to what its work object asks for."""
        uid = key.name
        work = self._source.instance(uid)
        if work is None:
            return await self._without_work(uid)
        self._vanished.discard(uid)
        memory = await self._memory(uid)
        memory.changed.clear()
        memory.done(Step.ACCEPTED)
        if (fault := fault_of(work)) is not None:
            await self._report(work, memory, Finding(None, Reason.INVALID_WORK_OBJECT, fault, failed=True))
            return None
        try:
            await self._source.keep(work)
        except OSError as error:
            # A full disk must keep nobody from deleting or stopping guests; it is found again where one is started.
            log.error("%s: the work object cannot be kept in the ledger: %s", uid, error)
        try:
            return await self._bring(work, memory)
        except Superseded:
            return 0
        except HypervisorUnavailable as error:
            # Nothing is known, so nothing is reported; the connection's return wakes every key.
            log.info("%s: waiting: %s", uid, error)
            return 5.0

    async def _memory(self, uid: str) -> Memory:
        memory = self._memories.get(uid)
        if memory is None:
            record = await asyncio.to_thread(run_record.load, self._layout.instance(uid).run_record)
            memory = self._memories[uid] = Memory(record=record)
        return memory

    async def _without_work(self, uid: str) -> float | None:
        """Absence is not deletion: what runs goes on; only the memory of what is wholly gone is dropped."""
        domain = await self._hypervisor.domain(uid)
        files = self._layout.instance(uid).directory.exists()
        if domain is None and not files:
            if self._source.from_api():
                await self._source.forget(uid)
                self._memories.pop(uid, None)
            return None
        if uid not in self._vanished:
            self._vanished.add(uid)
            what = "a guest" if is_on(domain) else "files"
            log.warning("%s: %s on this node without a work object: left alone", uid, what)
        return None

    async def _bring(self, work: NodeInstance, memory: Memory) -> float | None:
        uid = work.metadata.name
        observed = await self._observe(work, memory)
        steps = plan(desired_of(work), observed, time.time(), shutdown_grace=self._grace)
        if steps.actions:
            log.info("%s: %s", uid, ", ".join(steps.actions))
        error: NodeError | None = None
        ticker = asyncio.create_task(self._tell_progress(work, memory))
        try:
            await self._execute(work, memory, steps)
            if _is_unseen(work) and is_on(observed.domain):
                # What is reported as observed is in force: a changed security group, for example.
                await self._executor.run(Action.PROGRAM_PORTS, work, memory)
        except NodeError as failure:
            error = failure
        except HypervisorUnavailable:
            raise
        except HypervisorError as failure:
            error = NodeError(Reason.HYPERVISOR_FAILED, f"libvirt refused: {failure}")
        finally:
            ticker.cancel()
            with suppress(asyncio.CancelledError):
                await ticker
        if error is None and Action.REMOVE_FINALIZER in steps.actions:
            await self._source.forget(uid)
            self._memories.pop(uid, None)
            log.info("%s: gone from this node", uid)
            return None
        memory.failures = memory.failures + 1 if error else 0
        domain = await self._hypervisor.domain(uid) if steps.actions else observed.domain
        if is_on(domain):
            memory.taps_gone = False
        await self._report(work, memory, self._finding(memory, domain, steps, error))
        if error is not None:
            delay = backoff(memory.failures, first=1.0, spread=random.random())  # noqa: S311 - jitter, not a secret
            log.warning("%s: %s, next try in %.1f s: %s", uid, error.reason, delay, error.message)
            return delay
        return steps.look_again

    async def _observe(self, work: NodeInstance, memory: Memory) -> Observed:
        uid = work.metadata.name
        files = self._layout.instance(uid)
        made = any(record.name is Step.DISK_READY for record in work.status.steps)
        return Observed(
            domain=await self._hypervisor.domain(uid),
            image_cached=self._images.cached(work.spec.root_disk.image.sha256),
            root_disk=files.root_disk.exists(),
            taps=not memory.taps_gone,
            record=replace(memory.record, disk_made=memory.record.disk_made or made),
            shutdown_asked_at=memory.shutdown_asked_at,
        )

    async def _execute(self, work: NodeInstance, memory: Memory, steps: Plan) -> None:
        for action in steps.actions:
            await self._executor.run(action, work, memory)

    def _finding(self, memory: Memory, domain: DomainInfo | None, steps: Plan, error: NodeError | None) -> Finding:
        if error is not None:
            failed = error.reason not in _MAY_PASS or memory.failures >= _STALLED_AFTER
            return Finding(domain, error.reason, error.message, failed, None, memory.ports, memory.steps)
        if not is_on(domain):
            memory.ports = {
                uid: port.model_copy(update={"state": NodePortState.DOWN})
                if port.state is NodePortState.ACTIVE
                else port
                for uid, port in memory.ports.items()
            }
        failed = steps.reason in _WAITS_FOR_SOMEBODY
        return Finding(domain, steps.reason, steps.message, failed, None, memory.ports, memory.steps)

    async def _report(self, work: NodeInstance, memory: Memory, finding: Finding) -> None:
        uid, namespace = work.metadata.name, work.metadata.namespace
        if not self._source.from_api():
            return
        latest = self._source.instance(uid)
        if latest is None:
            return
        status = status_of(work, latest.status, finding, datetime.now(UTC))
        try:
            await self._cluster.patch_status(_KIND, uid, namespace, latest.status.to_dict(), status.to_dict())
        except Conflict:
            raise
        except ApiError as error:
            # The guest is as it should be; that it is told can wait for the API. The periodic scan tells it at the
            # latest.
            log.warning("%s: status could not be written: %s", uid, error)

    async def _tell_progress(self, work: NodeInstance, memory: Memory) -> None:
        """Writes a status between the first and the last one, only when things take long."""
        image = work.spec.root_disk.image.sha256
        await asyncio.sleep(_DOWNLOAD_SHOWS_AFTER)
        told: int | None = None
        while memory.current is Action.FETCH_IMAGE:
            progress = self._images.progress(image) or 0
            if told is None or progress - told >= 10:
                told = progress
                await self._report(
                    work, memory, Finding(None, Reason.DOWNLOADING, None, False, progress, memory.ports, memory.steps)
                )
            await asyncio.sleep(_PROGRESS_EVERY)
        if told is not None or work.metadata.deletion_timestamp is not None:
            return
        await asyncio.sleep(_BUILDING_SHOWS_AFTER - _DOWNLOAD_SHOWS_AFTER)
        if memory.current is not None and Step.RESUMED not in memory.steps:
            await self._report(
                work, memory, Finding(None, Reason.BUILDING, None, False, None, memory.ports, memory.steps)
            )


def _is_unseen(work: NodeInstance) -> bool:
    """Whether the guest stays and this generation of its spec has not been reported yet."""
    deleting = work.metadata.deletion_timestamp is not None
    return not deleting and work.status.observed_generation != work.metadata.generation
