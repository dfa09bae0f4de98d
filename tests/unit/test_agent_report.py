"""The status of a work object, as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from agent_objects import work_object

from crds.node import NodeInstanceState as State
from crds.node import NodePortState, NodePortStatus, Step
from hostagent.compute.hypervisor import DomainInfo, DomainState, StateReason
from hostagent.compute.report import Finding, status_of
from hostagent.errors import Reason

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUNNING = DomainInfo("u", DomainState.RUNNING)
OFF = DomainInfo("u", DomainState.SHUT_OFF, StateReason.GUEST_SHUTDOWN)
CRASHED = DomainInfo("u", DomainState.SHUT_OFF, StateReason.CRASHED)
PAUSED = DomainInfo("u", DomainState.PAUSED, StateReason.NOT_YET_STARTED)


@pytest.mark.parametrize(
    ("finding", "state", "conditions"),
    [
        (Finding(RUNNING), State.RUNNING, {"Ready": "True"}),
        (Finding(None, Reason.DOWNLOADING), State.DOWNLOADING, {"Ready": "False", "Reconciling": "True"}),
        (Finding(None, Reason.BUILDING), State.BUILDING, {"Ready": "False", "Reconciling": "True"}),
        (Finding(None, Reason.DISK_FULL, "full", True), State.ERROR, {"Ready": "False", "Stalled": "True"}),
        (Finding(None, Reason.NETWORK_FAILED, "no"), State.BUILDING, {"Ready": "False", "Reconciling": "True"}),
        (Finding(None, Reason.NETWORK_FAILED, "no", True), State.ERROR, {"Ready": "False", "Stalled": "True"}),
        (Finding(RUNNING, Reason.NETWORK_FAILED, "no", True), State.RUNNING, {"Ready": "False", "Stalled": "True"}),
        (Finding(OFF, Reason.GUEST_STOPPED, "off", True), State.STOPPED, {"Ready": "False", "Stalled": "True"}),
        (Finding(CRASHED, Reason.GUEST_CRASHED, "x", True), State.CRASHED, {"Ready": "False", "Stalled": "True"}),
        (Finding(CRASHED, Reason.RESTART_BACK_OFF), State.CRASHED, {"Ready": "False", "Reconciling": "True"}),
        (Finding(PAUSED, Reason.DISK_IO_ERROR, "x", True), State.PAUSED, {"Ready": "False", "Stalled": "True"}),
        (Finding(RUNNING, Reason.SHUTTING_DOWN), State.RUNNING, {"Ready": "False", "Reconciling": "True"}),
    ],
)
def test_state_and_conditions(finding: Finding, state: State, conditions: dict[str, str]) -> None:
    work = work_object()
    status = status_of(work, work.status, finding, NOW)
    assert status.state == state
    assert {condition.type: condition.status.value for condition in status.conditions} == conditions
    assert {condition.observed_generation for condition in status.conditions} == {3}
    assert status.observed_generation == 3


def test_nothing_new_is_the_same_status() -> None:
    work = work_object()
    first = status_of(work, work.status, Finding(RUNNING, steps={Step.ACCEPTED: NOW}), NOW)
    later = status_of(work, first, Finding(RUNNING, steps={Step.ACCEPTED: NOW + timedelta(9)}), NOW + timedelta(9))
    assert later.to_dict() == first.to_dict()


def test_steps_keep_their_first_time_and_their_order() -> None:
    work = work_object()
    first = status_of(work, work.status, Finding(None, steps={Step.ACCEPTED: NOW}), NOW)
    second = NOW + timedelta(seconds=1)
    finding = Finding(RUNNING, steps={Step.RESUMED: second, Step.ACCEPTED: second, Step.DISK_READY: second})
    told = status_of(work, first, finding, second)
    assert [(record.name, record.at) for record in told.steps] == [
        (Step.ACCEPTED, NOW),
        (Step.DISK_READY, second),
        (Step.RESUMED, second),
    ]


def test_ports_that_were_not_looked_at_stay_as_they_were_told() -> None:
    work = work_object()
    uid = work.spec.ports[0].uid
    active = NodePortStatus(uid=uid, state=NodePortState.ACTIVE, tap="tap1")
    assert [port.state for port in status_of(work, work.status, Finding(RUNNING), NOW).ports] == [NodePortState.DOWN]
    first = status_of(work, work.status, Finding(RUNNING, ports={uid: active}), NOW)
    assert status_of(work, first, Finding(RUNNING), NOW).ports == [active]
