"""The host agent, put together: what wakes what."""

from __future__ import annotations

import asyncio
import logging

from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from hostagent.compute import console_log
from hostagent.compute.domain_spec import DomainType
from hostagent.compute.executor import Executor
from hostagent.compute.hypervisor import Hypervisor, HypervisorError
from hostagent.compute.instances import Instances
from hostagent.image.cache import ImageCache
from hostagent.layout import Layout
from hostagent.ledger import Ledger
from hostagent.metadata.facts import Guest
from hostagent.metadata.service import MetadataService
from hostagent.network.dataplane import DataPlane
from hostagent.network.model import DesiredNode
from hostagent.network.report import Report
from hostagent.network_sync import NetworkSync
from hostagent.ports import desired_node
from hostagent.registration import Registration
from hostagent.settings import Settings
from hostagent.user_data import UserData
from hostagent.work import WorkSource
from runtime.cache import Key
from runtime.client import ApiError
from runtime.cluster import Cluster
from runtime.controller import Controller, backoff
from runtime.process import Process

log = logging.getLogger(__name__)

SCAN_EVERY = 60.0
_FIRST_LOOK_TIMEOUT = 5.0
_FIRST_SYNC_TIMEOUT = 30.0
_AT_ONCE = 32
"""Guests that are worked on at a time. What is costly has narrower limits: downloads, calls to libvirt."""


class Agent:
    """`run()` until stopped. Nothing on the node is touched by its end."""

    def __init__(
        self, settings: Settings, cluster: Cluster, hypervisor: Hypervisor, dataplane: DataPlane, images: ImageCache
    ) -> None:
        self._settings = settings
        self._hypervisor = hypervisor
        self._dataplane = dataplane
        self._layout = Layout(settings.state_dir)
        instances = cluster.watch_resource(NodeInstance, namespace=settings.namespace)
        networks = cluster.watch_resource(NetworkSlice, namespace=settings.slices_namespace)
        groups = cluster.watch_resource(SecurityGroupSlice, namespace=settings.slices_namespace)
        ledger = Ledger(self._layout.ledger)
        self._source = WorkSource(ledger, instances, networks, groups)
        self._user_data = UserData(cluster.client, ledger)
        self._network = NetworkSync(dataplane, self._desired_node, self._network_synced)
        executor = Executor(
            self._layout,
            images,
            hypervisor,
            dataplane,
            self._network,
            self._user_data,
            cluster,
            DomainType(settings.virt_type.value),
        )
        self._instances = Instances(
            self._source,
            self._layout,
            images,
            hypervisor,
            executor,
            cluster,
            shutdown_grace=settings.shutdown_grace,
        )
        self._controller = Controller("instances", self._instances.reconcile, workers=_AT_ONCE)
        self._metadata = MetadataService(dataplane, self._guest_of_port)
        self._registration = Registration(cluster, settings)
        self._following: set[asyncio.Task[None]] = set()
        self._domains: set[str] | None = None
        """UIDs of our domains as of the last scan; None before the first."""
        self._scan_wanted = asyncio.Event()
        self._scan_now()

        hypervisor.subscribe(self._wake, self._scan_now)
        instances.on_change(self._instance_changed)
        networks.on_change(lambda key, old, new: self._network.wake())
        groups.on_change(lambda key, old, new: self._network.wake())
        self._process = Process(
            cluster,
            controllers=(),
            always=(
                hypervisor.run,
                self._cap_console_logs,
                self._registration.ensure,
                self._registration.keep_lease,
                self._source.keep_slices,
                self._work,
            ),
        )

    async def run(self) -> None:
        """Works until SIGTERM, SIGINT, or a fault."""
        try:
            await self._process.run()
        finally:
            await self._metadata.close()

    async def _work(self) -> None:
        await self._source.wait_ready()
        await self._first_look()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._network.run())
            group.create_task(self._scans())
            # Guests that run are adopted with their ports as they are; a data plane that fails keeps nobody from
            # being stopped.
            self._network.wake()
            await self._first_sync()
            group.create_task(self._controller.run())

    async def _first_look(self) -> None:
        """Which domains are there decides on the network of guests whose work object vanished: known first, if
        possible.
        """
        try:
            async with asyncio.timeout(_FIRST_LOOK_TIMEOUT):
                while self._domains is None:
                    try:
                        self._domains = set(await self._hypervisor.domains())
                    except HypervisorError:
                        await asyncio.sleep(0.1)
        except TimeoutError:
            log.warning("libvirt does not answer: networks are programmed for every guest that the ledger knows")

    async def _first_sync(self) -> None:
        try:
            async with asyncio.timeout(_FIRST_SYNC_TIMEOUT):
                await self._network.first.wait()
        except TimeoutError:
            log.error("the data plane has not been programmed within %.0f s; going on", _FIRST_SYNC_TIMEOUT)

    def _wake(self, uid: str) -> None:
        self._controller.enqueue(Key(self._settings.namespace, uid))

    def _scan_now(self) -> None:
        self._scan_wanted.set()

    def _instance_changed(self, key: Key, old: NodeInstance | None, new: NodeInstance | None) -> None:
        if old is not None and new is not None and _same_work(old, new):
            return
        self._instances.work_changed(key.name)
        self._wake(key.name)
        if old is not None:
            # A new guest's reconcile asks for its ports itself, when it comes to them.
            self._network.wake()

    async def _scans(self) -> None:
        """Looks at everything, now and then and after each connection to the hypervisor; sooner again while the
        API has not been told of the node.
        """
        untold = 0
        while True:
            every = backoff(untold, first=1, most=SCAN_EVERY) if untold else SCAN_EVERY
            try:
                async with asyncio.timeout(every):
                    await self._scan_wanted.wait()
            except TimeoutError:
                self._network.wake()
            self._scan_wanted.clear()
            untold += 1
            try:
                if await self._scan():
                    untold = 0
            except HypervisorError as error:
                log.warning("scan: %s", error)
            except ApiError as error:
                log.warning("the Hypervisor's status could not be written: %s", error)
            except OSError as error:
                log.error("the state directory cannot be looked at: %s", error)

    async def _cap_console_logs(self) -> None:
        """For ever: guests write them as fast as they like, so they are looked at more often than the rest."""
        while True:
            await asyncio.to_thread(self._cap_each)
            await asyncio.sleep(console_log.SCAN_EVERY)

    def _cap_each(self) -> None:
        for uid in self._layout.instance_uids():
            try:
                if console_log.cap(self._layout.instance(uid).console_log, self._settings.console_log_max):
                    log.info("%s: console log cut", uid)
            except FileNotFoundError:
                continue  # the guest is being removed
            except OSError as error:
                log.error("%s: the console log cannot be cut: %s", uid, error)

    async def _scan(self) -> bool:
        """True when the API was told, or needed not to be."""
        for uid in self._source.uids():
            self._wake(uid)
        await self._metadata.follow()
        before = self._domains
        self._domains = set(await self._hypervisor.domains())
        if before is None or before - self._domains:
            self._network.wake()
        work = {found.metadata.name for found in self._source.instances()}
        quarantined = sorted(self._domains - work) if self._source.from_api() else []
        for uid in quarantined:
            self._wake(uid)
        if not self._source.from_api():
            return False
        host = await self._hypervisor.host()
        await self._registration.report(host, instances=len(work), quarantined=len(quarantined))
        return True

    def _desired_node(self) -> DesiredNode:
        work = {found.metadata.name: found for found in self._source.instances()}
        for uid in self._source.uids() - work.keys():
            # Its work object vanished: as long as its domain is there (or may be), it is left alone, its network too.
            remembered = self._source.remembered(uid)
            if remembered is not None and (self._domains is None or uid in self._domains):
                work[uid] = remembered
        return desired_node(
            (found for found in work.values() if not self._instances.released(found)),
            self._source.network_slices(),
            self._source.group_slices(),
            underlay_ip=self._settings.underlay_ip,
            physical_networks=self._settings.physical_networks,
        )

    def _network_synced(self, report: Report) -> None:
        for uid in self._instances.take_ports(report):
            self._wake(uid)
        following = asyncio.create_task(self._metadata.follow())
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _guest_of_port(self, port_uid: str) -> Guest | None:
        for work in self._source.instances():
            if any(port.uid == port_uid for port in work.spec.ports):
                return await self._user_data.guest(work)
        return None


def _same_work(old: NodeInstance, new: NodeInstance) -> bool:
    """Whether only what the agent itself writes has changed."""
    return (
        old.metadata.uid == new.metadata.uid
        and old.metadata.generation == new.metadata.generation
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
    )
