"""Carries out the steps of a plan. Every step may be repeated, and none depends on what the agent remembers of
an earlier one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from crds.node import NodeInstance, NodePort, NodePortState, NodePortStatus, Step
from hostagent import durable
from hostagent.compute import console_log, run_record
from hostagent.compute.domain_spec import DomainType
from hostagent.compute.domain_xml import domain_xml
from hostagent.compute.hypervisor import Hypervisor
from hostagent.compute.orphans import end_orphans
from hostagent.compute.plan import Action, is_on
from hostagent.compute.resolve import FINALIZER, domain_spec
from hostagent.compute.root_disk import make_overlay
from hostagent.compute.run_record import RunRecord
from hostagent.errors import NodeError, Reason
from hostagent.image.cache import ImageCache, ImageSource
from hostagent.layout import InstanceFiles, Layout
from hostagent.metadata import config_drive
from hostagent.network import names
from hostagent.network.dataplane import DataPlane
from hostagent.network.errors import DataPlaneError
from hostagent.network_sync import NetworkSync, require_programmed
from hostagent.user_data import UserData
from runtime.cluster import Cluster
from runtime.kind import kind_of

log = logging.getLogger(__name__)

_KIND = kind_of(NodeInstance)


class Superseded(Exception):
    """The work object changed during a long step: plan anew."""


@dataclass
class Memory:
    """What the agent knows of a guest beyond what it observes anew each time. Losing it costs a repeated step,
    no more.
    """

    record: RunRecord = field(default_factory=RunRecord)
    shutdown_asked_at: float | None = None
    taps_gone: bool = False
    released: bool = False
    """Deleted as far as the data plane is concerned: its ports are left out."""
    current: Action | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the work object changes: a long step is not worth going on with."""
    failures: int = 0
    ports: dict[str, NodePortStatus] = field(default_factory=dict)
    steps: dict[Step, datetime] = field(default_factory=dict)

    def done(self, step: Step) -> None:
        """Notes the time of a step of the first start."""
        self.steps.setdefault(step, datetime.now(UTC))


class Executor:
    """`run(action, work, memory)` raises NodeError, HypervisorError, Superseded, or an ApiError of the
    finalizer's removal.
    """

    def __init__(
        self,
        layout: Layout,
        images: ImageCache,
        hypervisor: Hypervisor,
        dataplane: DataPlane,
        network: NetworkSync,
        user_data: UserData,
        cluster: Cluster,
        domain_type: DomainType,
    ) -> None:
        self._layout = layout
        self._images = images
        self._hypervisor = hypervisor
        self._dataplane = dataplane
        self._network = network
        self._user_data = user_data
        self._cluster = cluster
        self._domain_type = domain_type
        self._actions: dict[Action, Callable[[NodeInstance, Memory], Awaitable[None]]] = {
            Action.FETCH_IMAGE: self._fetch_image,
            Action.MAKE_ROOT_DISK: self._make_root_disk,
            Action.MAKE_CONFIG_DRIVE: self._make_config_drive,
            Action.PROGRAM_PORTS: self._program_ports,
            Action.END_ORPHANS: self._end_orphans,
            Action.CREATE_TAPS: self._create_taps,
            Action.DEFINE: self._define,
            Action.START_PAUSED: self._start_paused,
            Action.ATTACH_TAPS: self._attach_taps,
            Action.RESUME: self._resume,
            Action.END_LOST_START: lambda work, memory: hypervisor.end_lost_start(_uid(work)),
            Action.SUSPEND: lambda work, memory: hypervisor.suspend(_uid(work)),
            Action.MARK_STARTED: self._mark_started,
            Action.MARK_STOPPED: self._mark_stopped,
            Action.SHUTDOWN: self._shutdown,
            Action.DESTROY: lambda work, memory: hypervisor.destroy(_uid(work)),
            Action.UNDEFINE: lambda work, memory: hypervisor.undefine(_uid(work)),
            Action.DELETE_TAPS: self._delete_taps,
            Action.REMOVE_PORTS: self._remove_ports,
            Action.REMOVE_FILES: self._remove_files,
            Action.REMOVE_FINALIZER: self._remove_finalizer,
        }

    async def run(self, action: Action, work: NodeInstance, memory: Memory) -> None:
        memory.current = action
        try:
            await self._actions[action](work, memory)
        except DataPlaneError as error:
            raise NodeError(Reason.NETWORK_FAILED, f"A network card could not be connected: {error}") from error
        except OSError as error:
            raise NodeError(Reason.DISK_FAILED, f"{action}: {error}") from error
        finally:
            memory.current = None

    def _files(self, work: NodeInstance) -> InstanceFiles:
        return self._layout.instance(_uid(work))

    async def _fetch_image(self, work: NodeInstance, memory: Memory) -> None:
        image = work.spec.root_disk.image
        fetch = asyncio.create_task(self._images.ensure(ImageSource(image.sha256, image.size, image.url)))
        changed = asyncio.create_task(memory.changed.wait())
        try:
            await asyncio.wait({fetch, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not fetch.done():
                raise Superseded
            fetch.result()
        finally:
            changed.cancel()
            fetch.cancel()

    async def _make_root_disk(self, work: NodeInstance, memory: Memory) -> None:
        memory.done(Step.IMAGE_READY)
        files, disk = self._files(work), work.spec.root_disk
        files.directory.mkdir(mode=0o711, exist_ok=True)
        base = self._layout.image(disk.image.sha256)
        await make_overlay(base, disk.image.format.value, files.root_disk, int(disk.size))
        await self._remember(work, memory, RunRecord(disk_made=True))
        memory.done(Step.DISK_READY)

    async def _make_config_drive(self, work: NodeInstance, memory: Memory) -> None:
        guest = await self._user_data.guest(work)
        tree = config_drive.tree(guest, os.urandom(64))
        await asyncio.to_thread(config_drive.make, tree, self._files(work).config_drive)

    async def _program_ports(self, work: NodeInstance, memory: Memory) -> None:
        # What the guest asks of the metadata service first must be there: it does not ask twice.
        await self._user_data.guest(work)
        if work.spec.ports:
            require_programmed(await self._network.synced(), work)

    async def _end_orphans(self, work: NodeInstance, memory: Memory) -> None:
        # Asked again: the steps before may have taken minutes.
        if is_on(await self._hypervisor.domain(_uid(work))):
            raise Superseded
        await asyncio.to_thread(end_orphans, _uid(work))

    async def _create_taps(self, work: NodeInstance, memory: Memory) -> None:
        memory.taps_gone = False
        for port in work.spec.ports:
            await self._dataplane.create_tap(port.uid)

    async def _define(self, work: NodeInstance, memory: Memory) -> None:
        console_log.prepare(self._files(work).console_log)
        await self._hypervisor.define(domain_xml(domain_spec(work, self._layout, self._domain_type)))
        memory.done(Step.DOMAIN_DEFINED)

    async def _start_paused(self, work: NodeInstance, memory: Memory) -> None:
        await self._hypervisor.start_paused(_uid(work))
        memory.done(Step.STARTED)

    async def _attach_taps(self, work: NodeInstance, memory: Memory) -> None:
        for port in work.spec.ports:
            await self._dataplane.attach_tap(port.uid)
            memory.ports[port.uid] = _port(port, NodePortState.ACTIVE)
        memory.done(Step.NETWORK_READY)

    async def _resume(self, work: NodeInstance, memory: Memory) -> None:
        await self._hypervisor.resume(_uid(work))
        memory.done(Step.RESUMED)

    async def _mark_started(self, work: NodeInstance, memory: Memory) -> None:
        memory.shutdown_asked_at = None
        await self._remember(work, memory, memory.record.begun(time.time()))

    async def _mark_stopped(self, work: NodeInstance, memory: Memory) -> None:
        record = memory.record.stopped()
        try:
            await self._remember(work, memory, record)
        except OSError as error:
            # A full disk must keep nobody from being stopped.
            log.error("%s: the record cannot be written: %s", _uid(work), error)
            memory.record = record

    async def _remember(self, work: NodeInstance, memory: Memory, record: RunRecord) -> None:
        await asyncio.to_thread(run_record.save, self._files(work).run_record, record)
        memory.record = record

    async def _shutdown(self, work: NodeInstance, memory: Memory) -> None:
        if memory.shutdown_asked_at is None:
            memory.shutdown_asked_at = time.time()
        await self._hypervisor.shutdown(_uid(work))

    async def _delete_taps(self, work: NodeInstance, memory: Memory) -> None:
        memory.shutdown_asked_at = None
        for port in work.spec.ports:
            await self._dataplane.delete_tap(port.uid)
            memory.ports[port.uid] = _port(port, NodePortState.DOWN)
        memory.taps_gone = True

    async def _remove_ports(self, work: NodeInstance, memory: Memory) -> None:
        memory.released = True
        if not work.spec.ports:
            return
        report = await self._network.synced()
        if not report.filtered:
            raise NodeError(Reason.NETWORK_FAILED, "The rules of the network cards could not be removed from the node.")
        left = {names.tap(port.uid) for port in work.spec.ports} & set(report.lingering)
        if left:
            raise NodeError(Reason.NETWORK_FAILED, f"A process still holds {', '.join(sorted(left))}; it is cut off.")

    async def _remove_files(self, work: NodeInstance, memory: Memory) -> None:
        await asyncio.to_thread(_remove_directory, self._files(work))

    async def _remove_finalizer(self, work: NodeInstance, memory: Memory) -> None:
        self._user_data.forget(_uid(work))
        meta = work.metadata.to_dict()
        await self._cluster.remove_finalizer(_KIND, meta, FINALIZER)


def _uid(work: NodeInstance) -> str:
    return work.spec.instance_ref.uid


def _port(port: NodePort, state: NodePortState) -> NodePortStatus:
    return NodePortStatus(uid=port.uid, state=state, tap=names.tap(port.uid))


def _remove_directory(files: InstanceFiles) -> None:
    """At once under its name; what an interrupted removal leaves is removed at the agent's next start."""
    doomed = durable.partial(files.directory)
    if files.directory.exists():
        if doomed.exists():
            shutil.rmtree(doomed)
        files.directory.rename(doomed)
    if doomed.exists():
        shutil.rmtree(doomed)
