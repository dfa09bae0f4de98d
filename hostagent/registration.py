"""The node's Hypervisor: made by its agent, status written on change; liveness is the Lease's."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
from pathlib import Path

from crds.compute import Hypervisor
from crds.compute.hosts import HostResources, HypervisorStatus
from crds.quantity import Quantity
from hostagent.compute.hypervisor import HostInfo
from hostagent.settings import Settings
from hostagent.underlay import underlay_mtu
from runtime.client import AlreadyExists, ApiError, NotFound
from runtime.cluster import Cluster
from runtime.kind import LEASE, kind_of
from runtime.leader import Lease

log = logging.getLogger(__name__)

_KIND = kind_of(Hypervisor)
_RETRY_AFTER = 1.0
LEASE_NAME = "agent"
LEASE_EVERY = 10.0
LEASE_DURATION = 40.0


def with_capacity(
    status: HypervisorStatus,
    settings: Settings,
    host: HostInfo,
    disk: int,
    *,
    instances: int,
    quarantined: int,
    mtu: int | None,
) -> HypervisorStatus:
    """`status` with the agent's fields; those of others stay. `disk` in bytes, as the file system of the state
    directory has.
    """
    return status.model_copy(
        update={
            "capacity": HostResources(vcpus=host.vcpus, memory=Quantity(host.memory), disk=Quantity(disk)),
            "reserved": HostResources(vcpus=settings.reserved_vcpus, memory=Quantity(settings.reserved_memory)),
            "instances": instances,
            "quarantined": quarantined,
            "architecture": host.architecture,
            "cpu_model": host.cpu_model or None,
            "hypervisor_type": settings.virt_type.value,
            "hypervisor_version": host.libvirt_version,
            "emulator_version": host.hypervisor_version,
            "agent_version": importlib.metadata.version("kumulus"),
            "underlay_ip": settings.underlay_ip,
            "underlay_mtu": mtu,
            "physical_networks": sorted(settings.physical_networks),
        }
    )


def disk_size(directory: Path) -> int:
    """Bytes of the file system that holds the state directory."""
    file_system = os.statvfs(directory)
    return file_system.f_blocks * file_system.f_frsize


class Registration:
    """Keeps the Hypervisor and the Lease."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings

    async def ensure(self) -> None:
        """Returns once the Hypervisor exists; tries for ever."""
        told = ""
        while True:
            try:
                await self._cluster.client.get(_KIND, self._settings.node_name)
                return
            except NotFound:
                pass
            except ApiError as error:
                if error.status == 0 or str(error) != told:
                    log.debug("the Hypervisor cannot be read yet: %s", error)
            try:
                await self._cluster.create(_KIND, {"metadata": {"name": self._settings.node_name}, "spec": {}})
                log.info("registered as Hypervisor %s", self._settings.node_name)
                return
            except AlreadyExists:
                return
            except ApiError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("the Hypervisor cannot be created, trying on: %s", error)
            await asyncio.sleep(_RETRY_AFTER)

    async def keep_lease(self) -> None:
        """Renews the Lease for ever, also before the node's namespace exists."""
        settings = self._settings
        lease = Lease(
            self._cluster.client,
            settings.namespace,
            LEASE_NAME,
            settings.node_name,
            duration=LEASE_DURATION,
            renew_every=LEASE_EVERY,
        )
        await self._wait_for_namespace()
        await lease.renew_forever()

    async def _wait_for_namespace(self) -> None:
        """The identity operator makes it after the Hypervisor; a look each second, so that the node is not up
        10 s late.
        """
        while True:
            try:
                await self._cluster.client.get(LEASE, LEASE_NAME, self._settings.namespace)
                return
            except NotFound:
                return
            except ApiError as error:
                log.debug("namespace %s is not there yet: %s", self._settings.namespace, error)
            await asyncio.sleep(_RETRY_AFTER)

    async def report(self, host: HostInfo, *, instances: int, quarantined: int) -> None:
        """Writes the status if it changed. Raises ApiError."""
        name = self._settings.node_name
        try:
            present = Hypervisor.model_validate(await self._cluster.client.get(_KIND, name))
        except NotFound:
            # Somebody deleted it; as long as the node is here it has one.
            await self.ensure()
            present = Hypervisor.model_validate(await self._cluster.client.get(_KIND, name))
        disk = disk_size(self._settings.state_dir)
        status = with_capacity(
            present.status,
            self._settings,
            host,
            disk,
            instances=instances,
            quarantined=quarantined,
            mtu=await asyncio.to_thread(underlay_mtu, self._settings.underlay_ip),
        )
        await self._cluster.patch_status(_KIND, name, None, present.status.to_dict(), status.to_dict())
