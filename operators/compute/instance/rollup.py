"""What the agent reports on the work object, as the user reads it on the Instance."""

from __future__ import annotations

from dataclasses import dataclass

from crds.compute import InstancePhase
from crds.node import NodeInstance, NodeInstanceState, NodePortState
from crds.vocabulary import PowerState, RestartPolicy
from operators.compute.instance.world import node_name
from operators.compute.reasons import Reason
from operators.verdict import State, Verdict, ready, stalled, waiting


@dataclass(frozen=True)
class RollUp:
    """A phase, the summary, and whether the guest runs and its cards are connected."""

    phase: InstancePhase
    verdict: Verdict
    running: bool = False
    connected: bool = False
    progress: int | None = None


def building(node: str) -> RollUp:
    """An instance that was given a node and of which nothing more is known."""
    return RollUp(InstancePhase.BUILDING, waiting(Reason.BUILDING, f"Node {node} builds the guest."))


def roll_up(work: NodeInstance) -> RollUp:
    """From the work object's status, and the spec that it is to follow."""
    status, node, state = work.status, node_name(work), work.status.state
    if work.metadata.deletion_timestamp is not None or state is NodeInstanceState.DELETING:
        message = f"Node {node} removes the guest, which is then built anew there."
        return RollUp(InstancePhase.BUILDING, waiting(Reason.BUILDING, message))
    connected = all(port.state is NodePortState.ACTIVE for port in status.ports) and len(status.ports) == len(
        work.spec.ports
    )
    match state:
        case NodeInstanceState.PENDING | NodeInstanceState.BUILDING:
            return building(node)
        case NodeInstanceState.DOWNLOADING:
            message = f"Node {node} fetches the image."
            return RollUp(InstancePhase.BUILDING, waiting(Reason.DOWNLOADING, message), progress=status.progress)
        case NodeInstanceState.RUNNING:
            return RollUp(InstancePhase.ACTIVE, _running(work, connected), running=True, connected=connected)
        case NodeInstanceState.PAUSED:
            message = _told(work, "The guest is paused, though nobody asked for it: look at the node's disk space.")
            return RollUp(InstancePhase.PAUSED, waiting(status.reason or Reason.APPLYING, message), connected=connected)
        case NodeInstanceState.STOPPED:
            return RollUp(InstancePhase.STOPPED, _stopped(work), connected=connected)
        case NodeInstanceState.CRASHED:
            restarts = work.spec.restart_policy is not RestartPolicy.NEVER
            message = _told(work, f"The guest crashed on node {node}.")
            state_of = State.WAITING if restarts else State.STALLED
            return RollUp(InstancePhase.ERROR, Verdict(state_of, Reason.GUEST_CRASHED, message), connected=connected)
        case NodeInstanceState.ERROR:
            message = _told(work, f"Node {node} cannot run the guest: read the agent's log there.")
            return RollUp(
                InstancePhase.ERROR, stalled(status.reason or Reason.NODE_ERROR, message), connected=connected
            )


def _running(work: NodeInstance, connected: bool) -> Verdict:
    node = node_name(work)
    if work.spec.power_state is PowerState.STOPPED:
        return waiting(Reason.STOPPING, f"Node {node} stops the guest.")
    if not _follows(work):
        return waiting(Reason.APPLYING, f"Node {node} applies the change.")
    if not connected:
        return waiting(Reason.NETWORK_NOT_READY, f"The guest runs on node {node}; its network is being connected.")
    return ready(Reason.RUNNING, f"The guest runs on node {node}.")


def _stopped(work: NodeInstance) -> Verdict:
    node, policy = node_name(work), work.spec.restart_policy
    if work.spec.power_state is PowerState.STOPPED:
        if _follows(work):
            return ready(Reason.STOPPED, f"The guest is stopped, as asked; its disk is on node {node}.")
        return waiting(Reason.APPLYING, f"Node {node} applies the change.")
    if _follows(work) and policy is not RestartPolicy.ALWAYS:
        return stalled(
            Reason.GUEST_STOPPED,
            f"The guest shut itself down and restartPolicy is {policy}: to start it, set spec.powerState to Stopped,"
            " and back to Running once it is; or set restartPolicy to Always.",
        )
    return waiting(Reason.STARTING, f"Node {node} starts the guest.")


def _follows(work: NodeInstance) -> bool:
    """Whether the agent's report is about the spec as it is now."""
    return work.status.observed_generation == work.metadata.generation


def _told(work: NodeInstance, otherwise: str) -> str:
    return work.status.message or otherwise
