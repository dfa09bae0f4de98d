"""The Events of an instance: its story in a few words, told on transitions only."""

from __future__ import annotations

from dataclasses import dataclass

from crds.compute import InstancePhase, InstanceStatus
from crds.conditions import find_condition
from operators.compute.reasons import Reason
from operators.verdict import READY, STALLED


@dataclass(frozen=True)
class Story:
    reason: str
    note: str
    warning: bool = False


def events_between(old: InstanceStatus, new: InstanceStatus) -> list[Story]:
    """What happened from one status to the next."""
    found: list[Story] = []
    if old.node_name is None and new.node_name is not None:
        found.append(Story("Scheduled", f"The instance goes to node {new.node_name}."))
    if new.phase is not old.phase:
        if new.phase is InstancePhase.ACTIVE:
            found.append(Story("Started", f"The guest runs on node {new.node_name}."))
        if new.phase is InstancePhase.STOPPED:
            found.append(Story("Stopped", f"The guest on node {new.node_name} is stopped."))
    trouble = _trouble(new)
    if trouble is not None and trouble[0] != (_trouble(old) or ("",))[0]:
        found.append(Story(trouble[0], trouble[1], warning=True))
    return found


def _trouble(status: InstanceStatus) -> tuple[str, str] | None:
    """The reason and message of a status that needs somebody's attention."""
    summary = find_condition(status.conditions, READY)
    if summary is None:
        return None
    attention = find_condition(status.conditions, STALLED) is not None or summary.reason in (
        Reason.NO_VALID_HOST,
        Reason.NODE_UNREACHABLE,
    )
    return (summary.reason, summary.message) if attention else None
