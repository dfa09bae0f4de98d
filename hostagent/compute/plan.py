"""What to do for one guest: a pure function of what is wanted, what is there, and the time.

The whole way from here to what is wanted is planned each time; every action may be repeated, so an agent that was
killed half way
plans again from what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from crds.vocabulary import PowerState, RestartPolicy
from hostagent.compute.hypervisor import DomainInfo, DomainState, StateReason
from hostagent.compute.run_record import RunRecord
from hostagent.errors import Reason


class Action(StrEnum):
    """A step; `hostagent.compute.executor` knows how."""

    FETCH_IMAGE = "FetchImage"
    MAKE_ROOT_DISK = "MakeRootDisk"
    MAKE_CONFIG_DRIVE = "MakeConfigDrive"
    PROGRAM_PORTS = "ProgramPorts"
    END_ORPHANS = "EndOrphans"
    CREATE_TAPS = "CreateTaps"
    DEFINE = "Define"
    START_PAUSED = "StartPaused"
    ATTACH_TAPS = "AttachTaps"
    RESUME = "Resume"
    END_LOST_START = "EndLostStart"
    SUSPEND = "Suspend"
    MARK_STARTED = "MarkStarted"
    MARK_STOPPED = "MarkStopped"
    SHUTDOWN = "Shutdown"
    DESTROY = "Destroy"
    UNDEFINE = "Undefine"
    DELETE_TAPS = "DeleteTaps"
    REMOVE_PORTS = "RemovePorts"
    REMOVE_FILES = "RemoveFiles"
    REMOVE_FINALIZER = "RemoveFinalizer"


@dataclass(frozen=True)
class Desired:
    """What the work object asks for, as far as it decides on steps."""

    power_state: PowerState = PowerState.RUNNING
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    config_drive: bool = False
    deleting: bool = False
    held: bool = True
    """Whether the agent's finalizer is on the work object."""


@dataclass(frozen=True)
class Observed:
    """What is there. Times in seconds since the epoch."""

    domain: DomainInfo | None = None
    image_cached: bool = False
    root_disk: bool = False
    taps: bool = True
    """Whether taps may be there; False only when they are known to be gone."""
    record: RunRecord = field(default_factory=RunRecord)
    shutdown_asked_at: float | None = None


@dataclass(frozen=True)
class Plan:
    """Actions in order; when to look again without being woken (seconds); why the guest is not as wanted, if
    it stays so.
    """

    actions: tuple[Action, ...] = ()
    look_again: float | None = None
    reason: Reason | None = None
    message: str | None = None


_ACPI_EVERY = 10.0
_RETRY_IO = 30.0
_STARTING_EVERY = 1.0

_LET_RUN = (Action.PROGRAM_PORTS, Action.ATTACH_TAPS, Action.RESUME, Action.MARK_STARTED)


def plan(desired: Desired, observed: Observed, now: float, *, shutdown_grace: float) -> Plan:
    """The steps from `observed` to `desired`."""
    if observed.domain is not None and observed.domain.reason is StateReason.STARTING:
        # By an agent before this one, through libvirt; nothing else can be done with it until that ends.
        reason = Reason.DELETING if desired.deleting else Reason.BUILDING
        return Plan((Action.END_LOST_START,) if desired.held else (), look_again=_STARTING_EVERY, reason=reason)
    if desired.deleting:
        return _delete(desired, observed)
    match desired.power_state:
        case PowerState.RUNNING:
            return _run(desired, observed, now)
        case PowerState.STOPPED:
            return _stop(observed, now, shutdown_grace)
        case PowerState.PAUSED:
            return _pause(desired, observed)
    return Plan(
        reason=Reason.POWER_STATE_UNSUPPORTED,
        message=f"powerState {desired.power_state} is not known to this version of the host agent: set Running"
        " or Stopped.",
    )


def is_on(domain: DomainInfo | None) -> bool:
    """Whether a QEMU process is there."""
    return domain is not None and domain.state is not DomainState.SHUT_OFF


def _delete(desired: Desired, observed: Observed) -> Plan:
    if not desired.held:
        return Plan(reason=Reason.DELETING)
    actions: list[Action] = []
    if is_on(observed.domain):
        actions.append(Action.DESTROY)
    if observed.domain is not None:
        actions.append(Action.UNDEFINE)
    actions += [
        Action.END_ORPHANS,
        Action.DELETE_TAPS,
        Action.REMOVE_PORTS,
        Action.REMOVE_FILES,
        Action.REMOVE_FINALIZER,
    ]
    return Plan(tuple(actions), reason=Reason.DELETING)


def _start(desired: Desired, observed: Observed, then: tuple[Action, ...]) -> Plan:
    if observed.record.disk_made and not observed.root_disk:
        return Plan(
            reason=Reason.ROOT_DISK_LOST,
            message="The root disk was made but is not on the node any more. It is not replaced by an empty one:"
            " restore the file, or delete the Instance and make it anew.",
        )
    actions: list[Action] = []
    if not observed.image_cached:
        actions.append(Action.FETCH_IMAGE)
    if not observed.root_disk:
        actions.append(Action.MAKE_ROOT_DISK)
    if desired.config_drive:
        actions.append(Action.MAKE_CONFIG_DRIVE)
    actions += [Action.PROGRAM_PORTS, Action.END_ORPHANS, Action.CREATE_TAPS]
    actions += [Action.DEFINE, Action.START_PAUSED, *then]
    return Plan(tuple(actions))


def _run(desired: Desired, observed: Observed, now: float) -> Plan:
    domain, record = observed.domain, observed.record
    if domain is not None and domain.state is DomainState.RUNNING:
        return Plan(() if record.started else (Action.MARK_STARTED,))
    if domain is not None and domain.state is DomainState.PAUSED:
        if domain.reason is StateReason.CRASHED:
            return Plan((Action.DESTROY,), look_again=0)
        if domain.reason is StateReason.IO_ERROR:
            return Plan(
                (Action.RESUME,),
                look_again=_RETRY_IO,
                reason=Reason.DISK_IO_ERROR,
                message="The guest is paused because a write to its disk failed, for example on a full file"
                " system. Make room"
                " on the node; the guest is resumed every 30 s.",
            )
        return Plan(_LET_RUN)
    then = (Action.ATTACH_TAPS, Action.RESUME, Action.MARK_STARTED)
    if not record.started:
        return _start(desired, observed, then)
    return _fallen(desired, observed, now, then)


def _fallen(desired: Desired, observed: Observed, now: float, then: tuple[Action, ...]) -> Plan:
    """The guest is off although nobody asked for it."""
    by_itself = observed.domain is not None and observed.domain.reason is StateReason.GUEST_SHUTDOWN
    crashed = observed.domain is not None and observed.domain.reason is StateReason.CRASHED
    stays = desired.restart_policy is RestartPolicy.NEVER or (
        desired.restart_policy is RestartPolicy.ON_FAILURE and by_itself
    )
    if stays:
        what = "switched itself off" if by_itself else "crashed" if crashed else "is off"
        return Plan(
            (Action.DELETE_TAPS,) if observed.taps else (),
            reason=Reason.GUEST_CRASHED if crashed else Reason.GUEST_STOPPED,
            message=f"The guest {what} and restartPolicy is {desired.restart_policy}. To start it, set"
            " powerState to Stopped and"
            " then to Running.",
        )
    wait = observed.record.wait(now)
    if wait > 0:
        return Plan(
            look_again=wait,
            reason=Reason.RESTART_BACK_OFF,
            message=f"The guest stopped {observed.record.restarts + 1} times within minutes; the next start is"
            f" in {wait:.0f} s."
            " Its console log may say why.",
        )
    return _start(desired, observed, then)


def _stop(observed: Observed, now: float, grace: float) -> Plan:
    domain, asked_at = observed.domain, observed.shutdown_asked_at
    forget = (Action.MARK_STOPPED,) if observed.record.started else ()
    if not is_on(domain):
        return Plan((*forget, Action.DELETE_TAPS) if observed.taps else forget)
    if domain is not None and domain.state is DomainState.PAUSED:
        return Plan((*forget, Action.DESTROY, Action.DELETE_TAPS))
    if asked_at is not None and now - asked_at >= grace:
        return Plan((*forget, Action.DESTROY, Action.DELETE_TAPS))
    left = grace if asked_at is None else asked_at + grace - now
    # Asked again now and then: a guest that is still booting does not hear the first time.
    return Plan((*forget, Action.SHUTDOWN), look_again=min(left, _ACPI_EVERY), reason=Reason.SHUTTING_DOWN)


def _pause(desired: Desired, observed: Observed) -> Plan:
    domain = observed.domain
    if domain is None or domain.state is DomainState.SHUT_OFF:
        return _start(desired, observed, (Action.ATTACH_TAPS, Action.MARK_STARTED))
    if domain.state is DomainState.RUNNING:
        return Plan((Action.SUSPEND,))
    return Plan()
