"""Guests by libvirt (https://libvirt.org/html/libvirt-libvirt-domain.html). Every call may be repeated."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import libvirt

from hostagent.compute import lost_start
from hostagent.compute.domain_xml import METADATA_URI
from hostagent.compute.hypervisor import (
    DomainInfo,
    DomainState,
    HostInfo,
    HypervisorError,
    HypervisorUnavailable,
    StateReason,
)
from hostagent.compute.libvirt_connection import LibvirtConnection

_SHUT_OFF_REASONS = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: StateReason.GUEST_SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: StateReason.CRASHED,
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: StateReason.CRASHED,
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: StateReason.DESTROYED,
}
_PAUSED_REASONS = {
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: StateReason.IO_ERROR,
    libvirt.VIR_DOMAIN_PAUSED_USER: StateReason.NOT_YET_STARTED,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: StateReason.STARTING,
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: StateReason.CRASHED,
}
_RUNNING = {
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_SHUTDOWN,  # the guest is on its way down, QEMU still there
}
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def state_of(state: int, reason: int) -> tuple[DomainState, StateReason]:
    """virDomainState and its reason as the agent's own terms."""
    if state in _RUNNING:
        return DomainState.RUNNING, StateReason.NONE
    if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        return DomainState.PAUSED, _PAUSED_REASONS.get(reason, StateReason.NONE)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return DomainState.SHUT_OFF, StateReason.CRASHED
    return DomainState.SHUT_OFF, _SHUT_OFF_REASONS.get(reason, StateReason.NONE)


class LibvirtHypervisor:
    """`hostagent.compute.hypervisor.Hypervisor` on a libvirtd."""

    def __init__(self, connection: LibvirtConnection) -> None:
        self._connection = connection

    def subscribe(self, on_domain: Callable[[str], None], on_connected: Callable[[], None]) -> None:
        self._connection.subscribe(on_domain, on_connected)

    async def run(self) -> None:
        await self._connection.run()

    async def host(self) -> HostInfo:
        return await self._connection.call(_host)

    async def domains(self) -> dict[str, DomainInfo]:
        def ours(connection: Any) -> dict[str, DomainInfo]:
            infos = (_info(domain) for domain in connection.listAllDomains())
            return {info.uid: info for info in infos if info is not None and info.owner}

        return await self._connection.call(ours)

    async def domain(self, uid: str) -> DomainInfo | None:
        return await self._connection.call(lambda connection: _with(connection, uid, _info))

    async def define(self, xml: str) -> None:
        await self._connection.call(lambda c: c.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE))

    async def start_paused(self, uid: str) -> None:
        def start(domain: Any) -> None:
            if not domain.isActive():
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

        await self._connection.call(lambda c: start(c.lookupByUUIDString(uid)))

    async def end_lost_start(self, uid: str) -> None:
        try:
            ended = await asyncio.to_thread(lost_start.end, self._connection.uri, uid)
        except OSError as error:
            raise HypervisorError(
                f"libvirt takes the guest for being started, which it is not: restart libvirtd on the node ({error})"
            ) from error
        if ended:
            raise HypervisorUnavailable("libvirt is started anew")

    async def resume(self, uid: str) -> None:
        def resume(domain: Any) -> None:
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()

        await self._connection.call(lambda c: resume(c.lookupByUUIDString(uid)))

    async def suspend(self, uid: str) -> None:
        def suspend(domain: Any) -> None:
            if domain.state()[0] in _RUNNING:
                domain.suspend()

        await self._connection.call(lambda c: suspend(c.lookupByUUIDString(uid)))

    async def shutdown(self, uid: str) -> None:
        def shutdown(domain: Any) -> None:
            if domain.isActive():
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

        await self._connection.call(lambda c: _with(c, uid, shutdown))

    async def destroy(self, uid: str) -> None:
        def destroy(domain: Any) -> None:
            if domain.isActive():
                _unless_inactive(domain.destroy)

        await self._connection.call(lambda c: _with(c, uid, destroy))

    async def undefine(self, uid: str) -> None:
        await self._connection.call(lambda c: _with(c, uid, lambda domain: domain.undefineFlags(_UNDEFINE)))


def _with(connection: Any, uid: str, function: Callable[[Any], Any]) -> Any:
    """`function(domain)`, or None when there is no such domain."""
    try:
        return function(connection.lookupByUUIDString(uid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _unless_inactive(function: Callable[[], Any]) -> None:
    try:
        function()
    except libvirt.libvirtError as error:
        # It went off by itself in between.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def _info(domain: Any) -> DomainInfo | None:
    try:
        state, reason = state_of(*domain.state())
        return DomainInfo(domain.UUIDString(), state, reason, _owner(domain))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None  # undefined between the listing and now
        raise


def _owner(domain: Any) -> str:
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return ""  # somebody else's domain
        raise
    element = ET.fromstring(text)  # noqa: S314 - written by us, kept by libvirtd
    fields = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
    return f"{fields.get('namespace', '')}/{fields.get('name', '')}"


def _host(connection: Any) -> HostInfo:
    info = connection.getInfo()
    capabilities = ET.fromstring(connection.getCapabilities())  # noqa: S314 - libvirtd's own
    version = connection.getVersion()
    return HostInfo(
        vcpus=int(info[2]),
        # Not getInfo's, which stays as it was when libvirtd began although memory may be plugged in.
        memory=int(connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"]) << 10,
        architecture=capabilities.findtext("host/cpu/arch") or str(info[0]),
        cpu_model=capabilities.findtext("host/cpu/model") or "",
        hypervisor_version=_dotted(version),
        libvirt_version=_dotted(connection.getLibVersion()),
    )


def _dotted(version: int) -> str:
    """libvirt's 1000000 * major + 1000 * minor + release."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
