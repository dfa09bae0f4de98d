"""The status of a work object: a pure function of what was found and done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from crds.conditions import Condition, ConditionStatus, remove_condition, set_condition
from crds.node import (
    NodeInstance,
    NodeInstanceState,
    NodeInstanceStatus,
    NodePortState,
    NodePortStatus,
    Step,
    StepRecord,
)
from crds.vocabulary import PowerState
from hostagent.compute.hypervisor import DomainInfo, DomainState, StateReason
from hostagent.errors import Reason

_MESSAGE_MAX = 4000

_GUESTS_OWN = frozenset({Reason.GUEST_STOPPED, Reason.GUEST_CRASHED, Reason.DISK_IO_ERROR})
"""Reasons that say of the guest itself what its state is."""

_WHILE_BUILDING = frozenset(
    {
        Reason.IMAGE_UNREACHABLE,
        Reason.NETWORK_FAILED,
        Reason.HYPERVISOR_FAILED,
        Reason.DISK_FAILED,
        Reason.USER_DATA_MISSING,
    }
)
"""Failures of a step that are not yet taken for good."""

_MESSAGES = {
    Reason.REALISED: "The guest is as the spec asks.",
    Reason.BUILDING: "The guest is being built.",
    Reason.DOWNLOADING: "The image is being fetched to the node.",
    Reason.DELETING: "The guest is being removed from the node.",
    Reason.SHUTTING_DOWN: "The guest was asked to shut down.",
}


@dataclass(frozen=True)
class Finding:
    """What is told of a guest. `reason` None means that all is as wanted; `failed` that it needs somebody."""

    domain: DomainInfo | None
    reason: Reason | None = None
    message: str | None = None
    failed: bool = False
    progress: int | None = None
    ports: dict[str, NodePortStatus] = field(default_factory=dict)
    steps: Mapping[Step, datetime] = field(default_factory=dict)


def status_of(work: NodeInstance, old: NodeInstanceStatus, finding: Finding, now: datetime) -> NodeInstanceStatus:
    """The status to be written; equal to `old`, the present one, when nothing changed. `work` is what was
    acted upon.
    """
    generation = work.metadata.generation
    known = {port.uid: port for port in old.ports} | finding.ports
    reason = finding.reason or Reason.REALISED
    message = (finding.message or _MESSAGES.get(reason, reason))[:_MESSAGE_MAX]
    return NodeInstanceStatus(
        observed_generation=generation,
        conditions=_conditions(old.conditions, finding, reason, message, generation, now),
        state=state_of(work, finding),
        reason=None if finding.reason is None else reason.value,
        message=None if finding.reason is None else message,
        progress=finding.progress,
        steps=_steps(old.steps, finding.steps),
        ports=[
            known.get(port.uid) or NodePortStatus(uid=port.uid, state=NodePortState.DOWN) for port in work.spec.ports
        ],
    )


def state_of(work: NodeInstance, finding: Finding) -> NodeInstanceState:
    """What the guest was seen to do, in one word."""
    domain = finding.domain
    if work.metadata.deletion_timestamp is not None:
        return NodeInstanceState.DELETING
    if domain is not None and domain.state is DomainState.RUNNING:
        return NodeInstanceState.RUNNING
    if finding.failed and finding.reason not in _GUESTS_OWN:
        return NodeInstanceState.ERROR
    if finding.reason is Reason.DOWNLOADING:
        return NodeInstanceState.DOWNLOADING
    if finding.reason is Reason.BUILDING or finding.reason in _WHILE_BUILDING:
        return NodeInstanceState.BUILDING
    if domain is not None and domain.state is DomainState.PAUSED:
        return NodeInstanceState.PAUSED
    crashed = domain is not None and domain.reason is StateReason.CRASHED
    if crashed and work.spec.power_state is PowerState.RUNNING:
        return NodeInstanceState.CRASHED
    return NodeInstanceState.STOPPED


def _conditions(
    old: Sequence[Condition],
    finding: Finding,
    reason: Reason,
    message: str,
    generation: int | None,
    now: datetime,
) -> list[Condition]:
    ready = ConditionStatus.TRUE if finding.reason is None else ConditionStatus.FALSE
    conditions = set_condition(old, "Ready", ready, reason, message, generation, now)
    # Reconciling and Stalled are there only when they are True, as kstatus reads them.
    for kind, holds in (
        ("Reconciling", finding.reason is not None and not finding.failed),
        ("Stalled", finding.failed),
    ):
        if holds:
            conditions = set_condition(conditions, kind, ConditionStatus.TRUE, reason, message, generation, now)
        else:
            conditions = remove_condition(conditions, kind)
    return conditions


def _steps(old: Sequence[StepRecord], seen: Mapping[Step, datetime]) -> list[StepRecord]:
    """Every step once, with the time that was told first, in the order of the steps."""
    times = dict(seen) | {record.name: record.at for record in old}
    return [StepRecord(name=step, at=times[step]) for step in Step if step in times]
