"""The plan of a guest's steps, as tables."""

from __future__ import annotations

import pytest

from crds.vocabulary import PowerState, RestartPolicy
from hostagent.compute.hypervisor import DomainInfo, DomainState, StateReason
from hostagent.compute.plan import Action, Desired, Observed, plan
from hostagent.compute.run_record import RunRecord
from hostagent.errors import Reason

NOW = 10_000.0
GRACE = 30.0

START = (
    Action.PROGRAM_PORTS,
    Action.END_ORPHANS,
    Action.CREATE_TAPS,
    Action.DEFINE,
    Action.START_PAUSED,
    Action.ATTACH_TAPS,
    Action.RESUME,
    Action.MARK_STARTED,
)
READY = Observed(image_cached=True, root_disk=True, record=RunRecord(disk_made=True))
RAN = RunRecord(started=True, disk_made=True, last_start=NOW - 5000)


def domain(state: DomainState, reason: StateReason = StateReason.NONE) -> DomainInfo:
    return DomainInfo("uid", state, reason, "acme/web")


RUNNING = domain(DomainState.RUNNING)
OFF = domain(DomainState.SHUT_OFF)
PAUSED = domain(DomainState.PAUSED, StateReason.NOT_YET_STARTED)


def seen(domain: DomainInfo | None, record: RunRecord = RAN, **more: object) -> Observed:
    fields = {"image_cached": True, "root_disk": True, "record": record, "domain": domain, **more}
    return Observed(**fields)  # type: ignore[arg-type]  # the fields are Observed's


def actions(desired: Desired, observed: Observed) -> tuple[Action, ...]:
    return plan(desired, observed, NOW, shutdown_grace=GRACE).actions


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        pytest.param(
            Desired(), Observed(), (Action.FETCH_IMAGE, Action.MAKE_ROOT_DISK, *START), id="everything is to be made"
        ),
        pytest.param(Desired(), READY, START, id="disk is there"),
        pytest.param(
            Desired(config_drive=True), READY, (Action.MAKE_CONFIG_DRIVE, *START), id="config drive anew at each start"
        ),
        pytest.param(
            Desired(),
            Observed(root_disk=True, record=RunRecord(disk_made=True)),
            (Action.FETCH_IMAGE, *START),
            id="the image below the disk is fetched again",
        ),
        pytest.param(
            Desired(),
            seen(PAUSED, RunRecord()),
            (Action.PROGRAM_PORTS, Action.ATTACH_TAPS, Action.RESUME, Action.MARK_STARTED),
            id="killed between start and resume",
        ),
        pytest.param(Desired(), seen(RUNNING), (), id="adopted"),
        pytest.param(Desired(), seen(RUNNING, RunRecord()), (Action.MARK_STARTED,), id="killed just after resume"),
        pytest.param(
            Desired(power_state=PowerState.STOPPED),
            seen(RUNNING),
            (Action.MARK_STOPPED, Action.SHUTDOWN),
            id="asked to shut down",
        ),
        pytest.param(
            Desired(power_state=PowerState.STOPPED),
            seen(RUNNING, RunRecord(), shutdown_asked_at=NOW - GRACE),
            (Action.DESTROY, Action.DELETE_TAPS),
            id="did not shut down in time",
        ),
        pytest.param(
            Desired(power_state=PowerState.STOPPED), seen(OFF), (Action.MARK_STOPPED, Action.DELETE_TAPS), id="is down"
        ),
        pytest.param(Desired(power_state=PowerState.STOPPED), seen(None, RunRecord(), taps=False), (), id="stays down"),
        pytest.param(
            Desired(power_state=PowerState.STOPPED),
            seen(PAUSED, RunRecord()),
            (Action.DESTROY, Action.DELETE_TAPS),
            id="paused guests hear no power button",
        ),
        pytest.param(Desired(power_state=PowerState.PAUSED), seen(RUNNING), (Action.SUSPEND,), id="to be paused"),
        pytest.param(Desired(power_state=PowerState.SHELVED), seen(RUNNING), (), id="not known: left as it is"),
        pytest.param(
            Desired(deleting=True),
            seen(RUNNING),
            (
                Action.DESTROY,
                Action.UNDEFINE,
                Action.END_ORPHANS,
                Action.DELETE_TAPS,
                Action.REMOVE_PORTS,
                Action.REMOVE_FILES,
                Action.REMOVE_FINALIZER,
            ),
            id="deleted while it runs",
        ),
        pytest.param(
            Desired(deleting=True),
            seen(None),
            (
                Action.END_ORPHANS,
                Action.DELETE_TAPS,
                Action.REMOVE_PORTS,
                Action.REMOVE_FILES,
                Action.REMOVE_FINALIZER,
            ),
            id="killed while deleting",
        ),
        pytest.param(Desired(deleting=True, held=False), seen(None), (), id="others hold the object"),
    ],
)
def test_steps(desired: Desired, observed: Observed, expected: tuple[Action, ...]) -> None:
    assert actions(desired, observed) == expected


ALWAYS, ON_FAILURE, NEVER = RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE, RestartPolicy.NEVER


@pytest.mark.parametrize(
    ("policy", "reason", "starts"),
    [
        (ALWAYS, StateReason.GUEST_SHUTDOWN, True),
        (ALWAYS, StateReason.CRASHED, True),
        (ALWAYS, StateReason.NONE, True),
        (ON_FAILURE, StateReason.GUEST_SHUTDOWN, False),
        (ON_FAILURE, StateReason.CRASHED, True),
        (ON_FAILURE, StateReason.NONE, True),
        (NEVER, StateReason.GUEST_SHUTDOWN, False),
        (NEVER, StateReason.CRASHED, False),
        (NEVER, StateReason.NONE, False),
    ],
)
def test_restart_policy(policy: RestartPolicy, reason: StateReason, starts: bool) -> None:
    observed = seen(domain(DomainState.SHUT_OFF, reason))
    made = plan(Desired(restart_policy=policy), observed, NOW, shutdown_grace=GRACE)
    assert (Action.START_PAUSED in made.actions) is starts
    if not starts:
        assert made.reason is (Reason.GUEST_CRASHED if reason is StateReason.CRASHED else Reason.GUEST_STOPPED)
        assert "powerState" in (made.message or "")


def test_a_guest_that_falls_again_and_again_waits_longer_each_time() -> None:
    record, waits = RunRecord(disk_made=True), []
    now = NOW
    for _ in range(8):
        record = record.begun(now)
        waits.append(record.wait(now))
        now += max(1, record.wait(now))
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    fallen = seen(domain(DomainState.SHUT_OFF, StateReason.CRASHED), record)
    made = plan(Desired(), fallen, record.last_start + 1, shutdown_grace=GRACE)
    assert (made.actions, made.reason, made.look_again) == ((), Reason.RESTART_BACK_OFF, 299)


@pytest.mark.parametrize("state", list(PowerState))
@pytest.mark.parametrize("deleting", [True, False])
def test_a_guest_that_libvirt_is_starting_is_not_touched(state: PowerState, deleting: bool) -> None:
    starting = seen(domain(DomainState.PAUSED, StateReason.STARTING), RunRecord(disk_made=True))
    made = plan(Desired(power_state=state, deleting=deleting), starting, NOW, shutdown_grace=GRACE)
    assert made.actions == (Action.END_LOST_START,)
    assert made.look_again is not None
    assert made.reason is (Reason.DELETING if deleting else Reason.BUILDING)


def test_a_clock_that_was_set_back_keeps_no_guest_waiting() -> None:
    record = RunRecord(started=True, disk_made=True, restarts=3, last_start=NOW + 100_000)
    fallen = seen(domain(DomainState.SHUT_OFF, StateReason.CRASHED), record)
    assert plan(Desired(), fallen, NOW, shutdown_grace=GRACE).actions == START


def test_whoever_was_started_has_a_disk() -> None:
    # The agent was killed between making the disk and noting it.
    assert RunRecord().begun(NOW).disk_made


def test_a_good_run_forgets_earlier_falls() -> None:
    record = RunRecord(started=True, restarts=5, last_start=NOW)
    assert record.begun(NOW + 601).restarts == 0
    assert record.begun(NOW + 599).restarts == 6
    assert record.stopped().begun(NOW + 1).restarts == 0


def test_a_lost_root_disk_is_not_replaced_by_an_empty_one() -> None:
    made = plan(Desired(), Observed(image_cached=True, record=RunRecord(disk_made=True)), NOW, shutdown_grace=GRACE)
    assert (made.actions, made.reason) == ((), Reason.ROOT_DISK_LOST)


def test_a_guest_paused_by_a_failed_write_is_told_and_retried() -> None:
    made = plan(Desired(), seen(domain(DomainState.PAUSED, StateReason.IO_ERROR)), NOW, shutdown_grace=GRACE)
    assert (made.actions, made.reason, made.look_again) == ((Action.RESUME,), Reason.DISK_IO_ERROR, 30)
