"""What to do for an instance, and what to tell: a function of what is seen, without I/O.

It is asked again after its actions were carried out, until it has none. What a crash leaves half done is simply the
state that the next plan starts from:

    finalizer -> ports -> entry in a node's record -> status.nodeName -> work object -> (the agent) -> Active

`status.nodeName` is what settles on which node an instance is: it is written once, by a write that fails if the
Instance changed meanwhile, and only then a work object is made. Two schedulers that race may both enter the instance
into records; the one that loses that write takes its entry out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crds.compute import Allocation, EffectiveFlavor, InstanceStatus
from crds.network import Port
from crds.node import NodeInstance, NodeInstanceSpec
from operators.compute.instance import status as told
from operators.compute.instance.checks import (
    CHECKS,
    CHECKS_WITH_NODE,
    Check,
    effective_flavor,
    refusal,
    usable_flavor,
    usable_image,
)
from operators.compute.instance.ports import card_problem, ports_to_drop, ports_to_make, ports_to_regroup
from operators.compute.instance.rollup import building, roll_up
from operators.compute.instance.support import unsupported_change, unsupported_spec
from operators.compute.instance.workobject import build, updated
from operators.compute.instance.world import Problem, World, node_name
from operators.compute.names import FINALIZER
from operators.compute.reasons import Reason
from operators.compute.scheduler import Amount, Choice, NoValidHost, Request, choose
from operators.verdict import State, stalled, waiting

GRACE = 3.0
"""Seconds after an Instance's creation during which waiting for other objects is not told: mostly they are on their
way, and every status costs a write."""


@dataclass(frozen=True)
class AddFinalizer:
    """Keep the Instance until what was made for it is gone."""


@dataclass(frozen=True)
class MakePort:
    port: Port


@dataclass(frozen=True)
class RegroupPort:
    """Give a Port the security groups that it has here."""

    port: Port


@dataclass(frozen=True)
class DropPort:
    port: Port


@dataclass(frozen=True)
class Allocate:
    """Enter the instance into a node's record."""

    node: str
    allocation: Allocation


@dataclass(frozen=True)
class Release:
    """Take the instance out of a node's record."""

    node: str


@dataclass(frozen=True)
class Bind:
    """Write this status, which names the node, if the Instance is still as it was seen."""

    status: InstanceStatus


@dataclass(frozen=True)
class MakeWork:
    work: NodeInstance


@dataclass(frozen=True)
class UpdateWork:
    work: NodeInstance
    spec: NodeInstanceSpec


Action: TypeAlias = AddFinalizer | MakePort | RegroupPort | DropPort | Allocate | Release | Bind | MakeWork | UpdateWork


@dataclass(frozen=True)
class Plan:
    """Actions to do now, or, when there are none, the status to show and when to look again (seconds)."""

    actions: tuple[Action, ...] = ()
    status: InstanceStatus | None = None
    again: float | None = None


def plan(world: World) -> Plan:
    """The next actions for an Instance that is not being deleted."""
    if world.work:
        return _with_work(world, world.work[0])
    if world.instance.status.node_name is not None:
        return _with_node(world, world.instance.status.node_name)
    refused = refusal(world)
    if refused is not None:
        return _tell(world, [refused])
    if FINALIZER not in world.instance.metadata.finalizers:
        return Plan((AddFinalizer(),))
    ports = _port_actions(world)
    if ports:
        return Plan(ports)
    problems = _problems(world, CHECKS)
    return _tell(world, problems) if problems else _without_node(world)


def request_of(world: World, needs: Amount) -> Request:
    """What the scheduler is asked."""
    return Request(
        uid=world.uid,
        needs=needs,
        flavor=world.instance.spec.flavor_ref.name,
        requested_node=world.instance.spec.requested_node,
        avoid=world.avoid,
        only=world.only,
    )


def _problems(world: World, checks: Sequence[Check]) -> list[Problem]:
    found = [problem for check in checks if (problem := check(world)) is not None]
    return found + [problem for card in world.cards if (problem := card_problem(world, card)) is not None]


def _port_actions(world: World) -> tuple[Action, ...]:
    return (
        *(MakePort(port) for port in ports_to_make(world)),
        *(RegroupPort(port) for port in ports_to_regroup(world)),
        *(DropPort(port) for port in ports_to_drop(world)),
    )


def _without_node(world: World) -> Plan:
    """Everything is there but the node."""
    flavor, image = usable_flavor(world), usable_image(world)
    if flavor is None or image is None:
        raise ValueError(f"{world.instance.metadata.name}: planned without flavor or image")
    given = effective_flavor(flavor, image)
    needs = Amount(given.vcpus, given.memory, given.root_disk)
    if world.allocations:
        node = min(world.allocations)
        held = world.allocations[node]
        if Amount(held.vcpus, held.memory, held.disk) != needs:
            return Plan((Release(node),))  # made for a flavor that the spec no longer asks for
        return Plan((Bind(told.bound(world, node, given, image.metadata.name, building(node))),))
    choice = choose(request_of(world, needs), world.hosts)
    if isinstance(choice, Choice):
        return Plan((_allocate(world, choice.host.name, given),))
    return _tell(world, [_no_host(choice)])


def _with_node(world: World, node: str) -> Plan:
    """The node is fixed, its work object not made yet. The size is what was entered into the record, not the spec's."""
    others = tuple(Release(other) for other in sorted(world.allocations) if other != node)
    if others:
        return Plan(others)
    refused = unsupported_spec(world.instance)
    if refused is not None:
        return _show(world, node, [refused])
    ports = _port_actions(world)
    if ports:
        return Plan(ports)
    given, image = world.instance.status.flavor, usable_image(world)
    problems = _problems(world, CHECKS_WITH_NODE)
    if problems or given is None or image is None:
        return _show(world, node, problems)
    if node not in world.allocations:
        # The entry was lost, or another process took it out. Only this node may run the guest: its disk is there.
        host = next((host for host in world.hosts if host.name == node), None)
        if host is None or not Amount(given.vcpus, given.memory, given.root_disk).fits(host.free):
            return _show(world, node, [_no_room(node)])
        return Plan((_allocate(world, node, given),))
    return Plan((MakeWork(build(world, node, given, image)),))


def _with_work(world: World, work: NodeInstance) -> Plan:
    """The guest is there, or is being made."""
    node = node_name(work)
    others = tuple(Release(other) for other in sorted(world.allocations) if other != node)
    if others:
        return Plan(others)
    if FINALIZER not in world.instance.metadata.finalizers:
        return Plan((AddFinalizer(),))
    if node not in world.allocations:
        spec = work.spec
        lost = EffectiveFlavor(
            name=spec.metadata.instance_type or "unknown",
            vcpus=spec.vcpus,
            memory=spec.memory,
            root_disk=spec.root_disk.size,
        )
        # Whether it fits is no question: it is there.
        if any(host.name == node for host in world.hosts):
            return Plan((_allocate(world, node, lost),))
    ports = tuple(RegroupPort(port) for port in ports_to_regroup(world))
    if ports:
        return Plan(ports)
    if work.metadata.deletion_timestamp is None:
        spec = updated(world, work)
        if spec != work.spec:
            return Plan((UpdateWork(work, spec),))
    unsupported = unsupported_spec(world.instance) or unsupported_change(world, work)
    problems = [unsupported] if unsupported is not None else []
    refused = refusal(world) if world.disabled else None
    if refused is not None:
        problems.append(refused)
    return Plan(status=told.with_node(world, node, roll_up(work), problems))


def _allocate(world: World, node: str, given: EffectiveFlavor) -> Allocate:
    return Allocate(
        node,
        Allocation(
            uid=world.uid,
            namespace=world.namespace,
            name=world.instance.metadata.name,
            vcpus=given.vcpus,
            memory=given.memory,
            disk=given.root_disk,
        ),
    )


def _no_host(answer: NoValidHost) -> Problem:
    verdict = stalled if answer.too_large else waiting
    reason = Reason.FLAVOR_TOO_LARGE if answer.too_large else Reason.NO_VALID_HOST
    return Problem(verdict(reason, answer.message), told.SCHEDULED)


def _no_room(node: str) -> Problem:
    message = f"Node {node}, where the instance's place is, has no room for it: free some, or delete this Instance."
    return Problem(waiting(Reason.NO_VALID_HOST, message), told.SCHEDULED)


def _show(world: World, node: str, problems: list[Problem]) -> Plan:
    return Plan(status=told.with_node(world, node, building(node), problems))


def _tell(world: World, problems: list[Problem]) -> Plan:
    status = told.pending(world, problems)
    verdict = told.worst(problems)
    if verdict is None or verdict.state is State.STALLED or world.instance.status.observed_generation is not None:
        return Plan(status=status)
    created = world.instance.metadata.creation_timestamp
    age = (world.now - created).total_seconds() if created is not None else GRACE
    if age < GRACE and not any(problem.about == told.SCHEDULED for problem in problems):
        return Plan(again=GRACE - age)
    return Plan(status=status)
