"""What the agent asks of a hypervisor. libvirt is the one that runs guests; a simulated one may take its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DomainState(StrEnum):
    """What a guest's domain does."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SHUT_OFF = "ShutOff"


class StateReason(StrEnum):
    """Why a domain is in its state, as far as decisions depend on it."""

    NONE = "None"
    """Nothing special, or not known, as after a reboot of the node."""
    GUEST_SHUTDOWN = "GuestShutdown"
    """The guest switched itself off."""
    CRASHED = "Crashed"
    """The guest panicked, or its QEMU ended with an error."""
    DESTROYED = "Destroyed"
    """It was switched off by us, or by hand."""
    IO_ERROR = "IOError"
    """Paused by QEMU, because a write failed."""
    STARTING = "Starting"
    """Being started, or its start was lost with the hypervisor's daemon."""
    NOT_YET_STARTED = "NotYetStarted"
    """Paused since its start: its CPUs have not run, or were paused on request."""


@dataclass(frozen=True)
class DomainInfo:
    """A domain as the hypervisor has it. `owner` is `namespace/name` of its Instance."""

    uid: str
    state: DomainState
    reason: StateReason = StateReason.NONE
    owner: str = ""


@dataclass(frozen=True)
class HostInfo:
    """The machine, `memory` in bytes."""

    vcpus: int
    memory: int
    architecture: str
    cpu_model: str
    hypervisor_version: str
    libvirt_version: str


class HypervisorError(Exception):
    """The hypervisor refused; the message is its own."""


class HypervisorUnavailable(HypervisorError):
    """No connection now. What guests do is not known; nothing may be concluded."""


class Hypervisor(Protocol):
    """Guests on this node. Every method may raise HypervisorError; each may be repeated."""

    def subscribe(self, on_domain: Callable[[str], None], on_connected: Callable[[], None]) -> None:
        """`on_domain(uid)` at each change of a domain, `on_connected()` after each (re)connection. On the
        event loop.
        """
        ...

    async def run(self) -> None:
        """Keeps the connection, for ever."""
        ...

    async def host(self) -> HostInfo:
        """The machine."""
        ...

    async def domains(self) -> dict[str, DomainInfo]:
        """Our domains by UID, running or not; those of others are left out."""
        ...

    async def domain(self, uid: str) -> DomainInfo | None:
        """One domain; None when it is not defined."""
        ...

    async def define(self, xml: str) -> None:
        """Define a domain, or replace the definition that the next start uses."""
        ...

    async def start_paused(self, uid: str) -> None:
        """Start it with its CPUs stopped; no error when it is running or paused."""
        ...

    async def end_lost_start(self, uid: str) -> None:
        """Give up a start (StateReason.STARTING) that nobody carries on any more; one that goes on is left alone."""
        ...

    async def resume(self, uid: str) -> None:
        """Let its CPUs run; no error when they do."""
        ...

    async def suspend(self, uid: str) -> None:
        """Stop its CPUs; no error when they are."""
        ...

    async def shutdown(self, uid: str) -> None:
        """Ask the guest to shut down (ACPI power button); returns at once."""
        ...

    async def destroy(self, uid: str) -> None:
        """Switch it off; no error when it is off or absent."""
        ...

    async def undefine(self, uid: str) -> None:
        """Forget it with its NVRAM, saved state and snapshots' metadata; no error when it is absent."""
        ...
