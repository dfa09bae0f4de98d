"""What to do for an Instance that is being deleted: everything that was made for it goes, in the order that is safe.

The guest first, for which the agent removes its finalizer from the work object; then the place in the record, the
user-data's copy and the ports; last the finalizer. Each step is found anew from what is still there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from crds.compute import InstanceStatus
from crds.node import NodeInstance
from operators.compute.instance import status as told
from operators.compute.instance.plan import GRACE, DropPort, Release
from operators.compute.instance.world import World, node_name
from operators.compute.names import FINALIZER


@dataclass(frozen=True)
class DropWork:
    work: NodeInstance


@dataclass(frozen=True)
class ConfirmGone:
    """Ask the API itself whether these nodes have no work object, and delete the copied user-data there."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let the Instance go."""


DeletionStep: TypeAlias = DropWork | ConfirmGone | Release | DropPort | RemoveFinalizer


@dataclass(frozen=True)
class DeletionPlan:
    """Steps to take now, the status to show while waiting, and when to look again (seconds)."""

    steps: tuple[DeletionStep, ...] = ()
    status: InstanceStatus | None = None
    again: float | None = None


def plan_deletion(world: World) -> DeletionPlan:
    """The next steps for an Instance with a deletionTimestamp."""
    instance = world.instance
    if FINALIZER not in instance.metadata.finalizers:
        return DeletionPlan()
    if world.work:
        steps = tuple(DropWork(work) for work in world.work if work.metadata.deletion_timestamp is None)
        return DeletionPlan(steps, told.deleting(world, _waits_for_guest(world)))
    nodes = set(world.allocations)
    if instance.status.node_name is not None:
        nodes.add(instance.status.node_name)
    held = tuple(Release(node) for node in sorted(world.allocations))
    if held:
        return DeletionPlan((ConfirmGone(tuple(sorted(nodes))), *held))
    if world.own_ports:
        ports = tuple(DropPort(port) for port in world.own_ports if port.metadata.deletion_timestamp is None)
        since = instance.metadata.deletion_timestamp
        wait = GRACE - (world.now - since).total_seconds() if since is not None else 0
        if wait > 0:
            return DeletionPlan(ports, again=wait)
        names = ", ".join(sorted(port.metadata.name for port in world.own_ports))
        return DeletionPlan(ports, told.deleting(world, f"The instance waits for its ports to go: {names}."))
    return DeletionPlan((ConfirmGone(tuple(sorted(nodes))), RemoveFinalizer()))


def _waits_for_guest(world: World) -> str:
    nodes = sorted(node_name(work) for work in world.work)
    names = ", ".join(nodes)
    if any(world.nodes_up.get(node) is False for node in nodes):
        return (
            f"The guest on node {names} cannot be removed, because the node does not answer: it goes when the node is"
            " back. If the node is lost for good, delete its Hypervisor, and remove the finalizer"
            f" node.kumulus.dev/agent from NodeInstance {world.uid}."
        )
    return f"Node {names} removes the guest."
