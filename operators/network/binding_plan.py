"""On which nodes a port is, as their work objects tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from crds.network import BindingState, PortBinding, PortPhase
from crds.node import NodeInstance, NodeInstanceState, NodePortState
from operators.network.names import node_of

BUILD_TOLD_AFTER = timedelta(seconds=3)
"""A port that becomes Active sooner saves the write that says Build."""

_AT_REST = (NodeInstanceState.STOPPED, NodeInstanceState.CRASHED, NodeInstanceState.DELETING)


@dataclass(frozen=True)
class Bound:
    """The bindings of a port, its phase, and the Instance that uses it (None: no node has the port)."""

    bindings: tuple[PortBinding, ...]
    phase: PortPhase
    instance: str | None
    instance_uid: str | None


def bound(port_uid: str, carriers: Iterable[NodeInstance], before: Sequence[PortBinding], now: datetime) -> Bound:
    """`carriers` are the work objects that carry the port; `before` the bindings told so far, for their times."""
    nodes = sorted(carriers, key=lambda c: c.metadata.namespace or "")[:4]
    since = {binding.node_name: binding for binding in before}
    bindings = []
    for carrier in nodes:
        node, state = node_of(carrier.metadata.namespace or "") or "", binding_state(port_uid, carrier)
        old = since.get(node)
        unchanged = old is not None and old.state is state
        at = old.since if old is not None and unchanged else now.replace(microsecond=0)
        bindings.append(PortBinding(node_name=node, state=state, since=at))
    ref = nodes[0].spec.instance_ref if nodes else None
    return Bound(
        tuple(bindings), _phase({b.state for b in bindings}), ref.name if ref else None, ref.uid if ref else None
    )


def binding_state(port_uid: str, carrier: NodeInstance) -> BindingState:
    """How the port is on the carrier's node."""
    told = next((port.state for port in carrier.status.ports if port.uid == port_uid), None)
    if told is NodePortState.ACTIVE:
        return BindingState.ACTIVE
    if told is NodePortState.ERROR:
        return BindingState.ERROR
    return BindingState.INACTIVE if carrier.status.state in _AT_REST else BindingState.BUILD


def _phase(states: set[BindingState]) -> PortPhase:
    for state, phase in (
        (BindingState.ACTIVE, PortPhase.ACTIVE),
        (BindingState.ERROR, PortPhase.ERROR),
        (BindingState.BUILD, PortPhase.BUILD),
    ):
        if state in states:
            return phase
    return PortPhase.DOWN


def wait_before_telling(
    new: Bound, before: Sequence[PortBinding], carriers: Iterable[NodeInstance], now: datetime
) -> float | None:
    """Seconds to wait, if all that is new is that a node has begun to build, and that only just now."""
    told = {binding.node_name for binding in before}
    fresh = [binding for binding in new.bindings if binding.node_name not in told]
    if before or not fresh or any(binding.state is not BindingState.BUILD for binding in fresh):
        return None
    begun = max((c.metadata.creation_timestamp for c in carriers if c.metadata.creation_timestamp), default=now)
    left = (begun + BUILD_TOLD_AFTER - now).total_seconds()
    return left if left > 0 else None
