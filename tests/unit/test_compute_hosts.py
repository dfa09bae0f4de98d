"""Liveness by Leases, hosts from their objects, key pairs and flavors as they are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from crds.compute import Flavor, Hypervisor, HypervisorAllocation, HypervisorPhase
from operators.compute import flavor_plan, hypervisors
from operators.compute.liveness import Liveness
from operators.compute.scheduler import Amount
from operators.compute.scheduler.hosts import host_of
from operators.verdict import State
from runtime.leader import micro_time

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GI = 2**30


def lease(renewed: datetime, duration: int = 40) -> dict:
    return {"spec": {"renewTime": micro_time(renewed), "leaseDurationSeconds": duration}}


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_node_lives_as_long_as_its_renewals_go_on() -> None:
    seen = Liveness()
    assert seen.alive("n") is None
    for at in range(0, 100, 10):
        seen.observe("n", lease(after(at)), after(at))
        assert seen.alive("n") is True
    seen.observe("n", lease(after(90)), after(129))
    assert seen.alive("n") is True
    seen.observe("n", lease(after(90)), after(131))
    assert seen.alive("n") is False
    seen.observe("n", lease(after(135)), after(136))
    assert seen.alive("n") is True
    seen.observe("n", None, after(137))
    assert seen.alive("n") is None


def test_nobody_dies_of_an_operator_that_begins_after_an_outage() -> None:
    """All Leases are old at the first sight. A node that was down stays down; one that was up may renew first."""
    seen = Liveness()
    for node in ("up", "down"):
        seen.observe(node, lease(after(-600)), NOW, was_up=node == "up")
    assert (seen.alive("up"), seen.alive("down")) == (True, False)
    for node in ("up", "down"):
        seen.observe(node, lease(after(-600)), after(41), was_up=node == "up")
    assert (seen.alive("up"), seen.alive("down")) == (False, False)


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_nodes_wrong_clock_matters_at_the_first_sight_at_most(skew: float) -> None:
    seen = Liveness()
    seen.observe("n", lease(after(skew)), NOW)
    assert seen.alive("n") is (skew > 0)
    seen.observe("n", lease(after(skew + 10)), after(10))
    assert seen.alive("n") is True
    seen.observe("n", lease(after(skew + 10)), after(51))
    assert seen.alive("n") is False


def test_nobody_dies_of_an_api_that_was_away() -> None:
    seen = Liveness()
    seen.observe("n", lease(NOW), NOW)
    seen.forgive(after(600))
    seen.observe("n", lease(NOW), after(600))
    assert seen.alive("n") is True
    seen.observe("n", lease(NOW), after(641))
    assert seen.alive("n") is False


@pytest.mark.parametrize(
    ("alive", "described", "phase", "state"),
    [
        (None, True, HypervisorPhase.PENDING, State.WAITING),
        (True, False, HypervisorPhase.PENDING, State.WAITING),
        (True, True, HypervisorPhase.UP, State.READY),
        (False, True, HypervisorPhase.DOWN, State.WAITING),
    ],
)
def test_phases_of_hypervisors(alive: bool | None, described: bool, phase: HypervisorPhase, state: State) -> None:
    found, verdict = hypervisors.judge(alive, described)
    assert (found, verdict.state) == (phase, state)


def hypervisor(**status: object) -> Hypervisor:
    capacity = {"vcpus": 8, "memory": "16Gi", "disk": "100Gi"}
    return Hypervisor.model_validate(
        {
            "metadata": {"name": "n1", "generation": 1},
            "spec": {"cpuAllocationRatio": "1.5", "maintenance": "None"},
            "status": {"phase": "Up", "capacity": capacity, "architecture": "x86_64", **status},
        }
    )


def test_what_the_agent_wrote_stays() -> None:
    seen = hypervisor(instances=3, traits=["HW_CPU_X86_AVX"])
    planned = hypervisors.plan(seen, False, NOW)
    assert planned.phase is HypervisorPhase.DOWN
    assert (planned.instances, planned.traits, planned.capacity) == (3, ["HW_CPU_X86_AVX"], seen.status.capacity)


def test_hosts_as_the_scheduler_sees_them() -> None:
    entries = [
        {"uid": f"u{n}", "namespace": "acme", "name": f"i{n}", "vcpus": 2, "memory": "2Gi", "disk": "10Gi"}
        for n in range(2)
    ]
    record = HypervisorAllocation.model_validate({"metadata": {"name": "n1"}, "spec": {"allocations": entries}})
    host = host_of(hypervisor(reserved={"vcpus": 2, "memory": "1Gi", "disk": "0"}), record)
    assert host.capacity == Amount(6, 15 * GI, 100 * GI)
    assert host.ratios.vcpus == Fraction(3, 2)
    assert host.limit == Amount(9, 15 * GI, 100 * GI)
    assert host.free == Amount(5, 11 * GI, 80 * GI)
    assert host.up
    assert host.enabled
    assert not host_of(hypervisor(), None).up, "nothing can be taken of a node that has no record"
    assert not host_of(hypervisor(phase="Down"), record).up


@pytest.mark.parametrize(("field", "state"), [({}, State.READY), ({"swap": "1Gi"}, State.STALLED)])
def test_flavors(field: dict, state: State) -> None:
    size = {"vcpus": 1, "memory": "1Gi", "rootDisk": "2Gi", **field}
    flavor = Flavor.model_validate({"metadata": {"name": "small", "generation": 1}, "spec": size})
    status, verdict = flavor_plan.plan(flavor, NOW)
    assert verdict.state is state
    assert status.observed_generation == 1
