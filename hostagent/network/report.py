"""What the data plane says of itself after a reconcile."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class PortState(StrEnum):
    ACTIVE = "Active"
    """Programmed, and its tap is joined to the bridge and held by a running guest."""
    DOWN = "Down"
    """Programmed; its tap is absent, not attached, or no process holds it."""
    ERROR = "Error"
    """Not programmed, see reason and message. Nothing passes."""


@dataclass(frozen=True)
class PortReport:
    uid: str
    tap: str
    state: PortState
    reason: str | None = None
    """One CamelCase word: TapAbsent, TapNotAttached, NoCarrier, NetworkFailed, NameCollision, InvalidPort, Failed."""
    message: str | None = None

    @property
    def programmed(self) -> bool:
        return self.state is not PortState.ERROR


class TapPlace(StrEnum):
    ABSENT = "Absent"
    HOST = "Host"
    """In the host's namespace: made, perhaps opened by QEMU, not attached."""
    DATA_PLANE = "DataPlane"


@dataclass(frozen=True)
class TapState:
    name: str
    place: TapPlace
    attached: bool = False
    """Joined to its bridge and up."""
    held: bool = False
    """A process has it open."""


@dataclass(frozen=True)
class Problem:
    """Something that could not be realised, while the rest was. `subject` is a UID of a network, port or group, or
    "node"."""

    subject: str
    reason: str
    message: str


@dataclass(frozen=True)
class Report:
    ports: dict[str, PortReport] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    lingering: tuple[str, ...] = ()
    """Taps of no desired port that a process still holds: cut off, to be deleted when the process is gone."""
    operations: tuple[str, ...] = ()
    """What was changed, one line each; empty when everything already was as desired."""
    filtered: bool = True
    """Whether the rules in the kernel are those of this run; False when nft refused them."""

    @property
    def ok(self) -> bool:
        return not self.problems
