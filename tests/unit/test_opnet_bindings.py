"""Where a port is, as work objects tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from crds.network import BindingState, PortBinding, PortPhase
from crds.node import NodeInstanceState, NodePortState
from operators.network.binding_plan import bound, wait_before_telling

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def carrier(
    node: str,
    told: NodePortState | None = None,
    state: NodeInstanceState = NodeInstanceState.BUILDING,
    created: datetime = NOW,
) -> Any:
    """What the planner reads of a NodeInstance."""
    return SimpleNamespace(
        metadata=SimpleNamespace(namespace=f"kumulus-node-{node}", creation_timestamp=created),
        spec=SimpleNamespace(instance_ref=SimpleNamespace(name="web-1", uid="i-1")),
        status=SimpleNamespace(state=state, ports=[SimpleNamespace(uid="p", state=told)] if told is not None else []),
    )


@pytest.mark.parametrize(
    ("carriers", "states", "phase"),
    [
        ([], [], PortPhase.DOWN),
        ([carrier("a")], [BindingState.BUILD], PortPhase.BUILD),
        ([carrier("a", NodePortState.ACTIVE)], [BindingState.ACTIVE], PortPhase.ACTIVE),
        ([carrier("a", NodePortState.ERROR)], [BindingState.ERROR], PortPhase.ERROR),
        ([carrier("a", NodePortState.DOWN)], [BindingState.BUILD], PortPhase.BUILD),
        (
            [carrier("a", NodePortState.DOWN, NodeInstanceState.STOPPED)],
            [BindingState.INACTIVE],
            PortPhase.DOWN,
        ),
        (
            [carrier("b"), carrier("a", NodePortState.ACTIVE)],
            [BindingState.ACTIVE, BindingState.BUILD],
            PortPhase.ACTIVE,
        ),
    ],
)
def test_states(carriers: list[Any], states: list[BindingState], phase: PortPhase) -> None:
    found = bound("p", carriers, [], NOW)
    assert ([b.state for b in found.bindings], found.phase) == (states, phase)
    assert found.instance == ("web-1" if carriers else None)


def test_the_time_stays_while_the_state_does() -> None:
    before = [PortBinding(node_name="a", state=BindingState.ACTIVE, since=NOW)]
    later = NOW + timedelta(minutes=5)
    assert bound("p", [carrier("a", NodePortState.ACTIVE)], before, later).bindings[0].since == NOW
    assert bound("p", [carrier("a", NodePortState.ERROR)], before, later).bindings[0].since == later


def test_the_beginning_of_a_build_is_told_a_little_later() -> None:
    carriers = [carrier("a")]
    new = bound("p", carriers, [], NOW)
    assert wait_before_telling(new, [], carriers, NOW + timedelta(seconds=1)) == 2
    assert wait_before_telling(new, [], carriers, NOW + timedelta(seconds=3)) is None
    assert wait_before_telling(new, list(new.bindings), carriers, NOW) is None


def test_everything_else_is_told_at_once() -> None:
    for carriers in ([], [carrier("a", NodePortState.ACTIVE)], [carrier("a", NodePortState.ERROR)]):
        assert wait_before_telling(bound("p", carriers, [], NOW), [], carriers, NOW) is None
