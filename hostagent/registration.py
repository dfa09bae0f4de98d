"""The node's Hypervisor: made by its agent, status written on change; liveness is the Lease's."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
from pathlib import Path
from typing import Any

from crds.quantity import format_quantity
from hostagent.compute.hypervisor import HostInfo
from hostagent.settings import Settings
from hostagent.underlay import underlay_mtu
from runtime.client import AlreadyExists, ApiError, NotFound
from runtime.cluster import Cluster
from runtime.kind import LEASE, Kind
from runtime.leader import Lease

log = logging.getLogger(__name__)

Object = dict[str, Any]

HYPERVISOR = Kind("compute.kumulus.dev", "v1alpha1", "hypervisors", "Hypervisor", namespaced=False)
"""`crds.compute.Hypervisor`, by name: its package's models of users' objects would be 5 MB that an agent never uses."""

_MI = 2**20
_RETRY_AFTER = 1.0
LEASE_NAME = "agent"
LEASE_EVERY = 10.0
LEASE_DURATION = 40.0


def own_status(
    settings: Settings, host: HostInfo, *, disk: int, instances: int, quarantined: int, mtu: int | None
) -> Object:
    """The agent's fields of a Hypervisor's status. `disk` in bytes, as the file system of the state directory has."""
    return {
        "capacity": {"vcpus": host.vcpus, "memory": _readable(host.memory), "disk": _readable(disk)},
        "reserved": {
            "vcpus": settings.reserved_vcpus,
            "memory": format_quantity(settings.reserved_memory),
            "disk": format_quantity(settings.reserved_disk),
        },
        "instances": instances,
        "quarantined": quarantined,
        "architecture": host.architecture,
        "cpuModel": host.cpu_model or None,
        "hypervisorType": settings.virt_type.value,
        "hypervisorVersion": host.libvirt_version,
        "emulatorVersion": host.hypervisor_version,
        "agentVersion": importlib.metadata.version("kumulus"),
        "underlayIP": settings.underlay_ip,
        "underlayMTU": mtu,
        "physicalNetworks": sorted(settings.physical_networks),
    }


def _readable(size: int) -> str:
    """Whole mebibytes, rounded down: nobody reads `24684084Ki`."""
    return format_quantity(size - size % _MI)


def disk_size(directory: Path) -> int:
    """Bytes of the file system that holds the state directory, without those that it keeps for root: QEMU is not."""
    file_system = os.statvfs(directory)
    for_root = file_system.f_bfree - file_system.f_bavail
    return (file_system.f_blocks - for_root) * file_system.f_frsize


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
                await self._cluster.client.get(HYPERVISOR, self._settings.node_name)
                return
            except NotFound:
                pass
            except ApiError as error:
                if error.status == 0 or str(error) != told:
                    log.debug("the Hypervisor cannot be read yet: %s", error)
            try:
                await self._create()
                return
            except ApiError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("the Hypervisor cannot be created, trying on: %s", error)
            await asyncio.sleep(_RETRY_AFTER)

    async def _create(self) -> None:
        """Raises ApiError."""
        try:
            await self._cluster.create(HYPERVISOR, {"metadata": {"name": self._settings.node_name}, "spec": {}})
            log.info("registered as Hypervisor %s", self._settings.node_name)
        except AlreadyExists:
            log.debug("Hypervisor %s is there already", self._settings.node_name)

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
            present = await self._cluster.client.get(HYPERVISOR, name)
        except NotFound:
            # Somebody deleted it; as long as the node is here it has one.
            await self._create()
            present = await self._cluster.client.get(HYPERVISOR, name)
        status = own_status(
            self._settings,
            host,
            disk=disk_size(self._settings.state_dir),
            instances=instances,
            quarantined=quarantined,
            mtu=await asyncio.to_thread(underlay_mtu, self._settings.underlay_ip),
        )
        old = present.get("status") or {}
        # Fields of others stay; what is None is absent.
        new = {key: value for key, value in (old | status).items() if value is not None}
        await self._cluster.patch_status(HYPERVISOR, name, None, old, new)
