"""The status of an Instance, put together from what was found. Conditions always come in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from crds.compute import EffectiveFlavor, InstanceAddress, InstancePhase, InstanceStatus, PhaseTransition
from crds.conditions import Condition, ConditionStatus, remove_condition, set_condition
from operators.compute.instance.rollup import RollUp
from operators.compute.instance.world import Card, Problem, World
from operators.compute.reasons import Reason
from operators.verdict import READY, RECONCILING, STALLED, State, Verdict, summarized, waiting

SCHEDULED, NETWORK_READY, VOLUMES_READY = "Scheduled", "NetworkReady", "VolumesReady"
RUNNING, LIVE_MIGRATABLE = "Running", "LiveMigratable"

_ORDER = (READY, SCHEDULED, NETWORK_READY, VOLUMES_READY, RUNNING, LIVE_MIGRATABLE, RECONCILING, STALLED)
_MOST_TRANSITIONS = 32
_NO_MIGRATION = "This release moves no running instance to another node."


@dataclass(frozen=True)
class Aspect:
    """A condition beside the summary."""

    status: ConditionStatus
    reason: str
    message: str


def pending(world: World, problems: Sequence[Problem]) -> InstanceStatus:
    """Of an instance that has no node yet, and why."""
    verdict = worst(problems) or waiting(Reason.PENDING, "The instance's ports are being made.")
    no_host = any(problem.about == SCHEDULED for problem in problems)
    network = [problem for problem in problems if problem.about == NETWORK_READY]
    phase = InstancePhase.SCHEDULING if no_host else InstancePhase.PENDING
    if verdict.state is State.STALLED:
        phase = InstancePhase.ERROR
    told = worst(network)
    aspects = {
        SCHEDULED: _false(verdict),
        NETWORK_READY: _false(told) if told is not None else _false(verdict),
        RUNNING: _false(verdict),
    }
    return _compose(world, phase, verdict, aspects)


def bound(world: World, node: str, flavor: EffectiveFlavor, image: str, found: RollUp) -> InstanceStatus:
    """Of an instance at the moment when its node is fixed: two phases in one write."""
    status = with_node(world, node, found, ())
    began = [*world.instance.status.phase_transitions]
    if not began or began[-1].phase is not InstancePhase.SCHEDULING:
        began.append(PhaseTransition(phase=InstancePhase.SCHEDULING, at=world.scheduling_since or world.now))
    began.append(PhaseTransition(phase=found.phase, at=world.now))
    return status.model_copy(update={"flavor": flavor, "image": image, "phase_transitions": began[-_MOST_TRANSITIONS:]})


def with_node(world: World, node: str, found: RollUp, problems: Sequence[Problem]) -> InstanceStatus:
    """Of an instance that has a node. `problems` are changes that cannot be made; the guest goes on as it is."""
    unreachable = world.nodes_up.get(node) is False
    verdict = worst(problems) or found.verdict
    scheduled = Aspect(ConditionStatus.TRUE, Reason.SCHEDULED, f"The instance has its place on node {node}.")
    aspects = {SCHEDULED: scheduled, NETWORK_READY: _false(found.verdict), RUNNING: _false(found.verdict)}
    if found.connected:
        aspects[NETWORK_READY] = Aspect(ConditionStatus.TRUE, Reason.CONNECTED, "Every network card is connected.")
    if found.running:
        aspects[RUNNING] = Aspect(ConditionStatus.TRUE, Reason.RUNNING, f"The guest runs on node {node}.")
    if unreachable:
        verdict = waiting(
            Reason.NODE_UNREACHABLE,
            f"Node {node} does not answer; the guest there may still run. Nothing is started elsewhere:"
            " look at the node and its agent.",
        )
        aspects[RUNNING] = Aspect(ConditionStatus.UNKNOWN, verdict.reason, verdict.message)
        aspects[NETWORK_READY] = Aspect(ConditionStatus.UNKNOWN, verdict.reason, verdict.message)
    status = _compose(world, found.phase, verdict, aspects, unknown=unreachable)
    return status.model_copy(
        update={"node_name": node, "progress": found.progress, "addresses": addresses(world.cards) or status.addresses}
    )


def deleting(world: World, message: str) -> InstanceStatus:
    """Of an instance that is going, and what it waits for."""
    verdict = waiting(Reason.DELETING, message)
    old = world.instance.status
    status = _transition(world, old, InstancePhase.DELETING)
    generation = world.instance.metadata.generation
    return status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": _ordered(summarized(old.conditions, verdict, generation, world.now)),
        }
    )


def waits_for_room(status: InstanceStatus) -> bool:
    """Whether an instance goes on as soon as a node can take it: any node, or the one where its place is."""
    return any(
        one.type in (READY, SCHEDULED) and one.reason in (Reason.NO_VALID_HOST, Reason.FLAVOR_TOO_LARGE)
        for one in status.conditions
    )


def addresses(cards: Sequence[Card]) -> list[InstanceAddress]:
    """The addresses of all cards, in their order."""
    return [
        InstanceAddress(
            name=card.entry.name,
            network=card.port.spec.network_ref.name,
            ip=one.ip,
            mac=card.port.status.mac_address,
            port=card.port.metadata.name,
        )
        for card in cards
        if card.port is not None and card.port.status.mac_address is not None and card.used_by is None
        for one in card.port.status.fixed_ips
    ]


def worst(problems: Sequence[Problem]) -> Verdict | None:
    """One verdict for several problems: stalled if any is, with the first such reason and all their messages."""
    if not problems:
        return None
    stuck = [problem.verdict for problem in problems if problem.verdict.state is State.STALLED]
    chosen = stuck or [problem.verdict for problem in problems]
    messages = dict.fromkeys(verdict.message for verdict in chosen)
    return Verdict(chosen[0].state, chosen[0].reason, " ".join(messages))


def _compose(
    world: World, phase: InstancePhase, verdict: Verdict, aspects: dict[str, Aspect], *, unknown: bool = False
) -> InstanceStatus:
    generation, now, old = world.instance.metadata.generation, world.now, world.instance.status
    conditions = list(old.conditions)
    aspects = {
        **aspects,
        VOLUMES_READY: Aspect(ConditionStatus.TRUE, Reason.NO_VOLUMES, "The instance has no volumes."),
        LIVE_MIGRATABLE: Aspect(ConditionStatus.FALSE, Reason.NOT_SUPPORTED, _NO_MIGRATION),
    }
    for type_, aspect in aspects.items():
        conditions = set_condition(conditions, type_, aspect.status, aspect.reason, aspect.message, generation, now)
    if unknown:
        conditions = _unknown(conditions, verdict, generation, now)
    else:
        conditions = summarized(conditions, verdict, generation, now)
    return _transition(world, old, phase).model_copy(
        update={"observed_generation": generation, "conditions": _ordered(conditions), "progress": None}
    )


def _unknown(conditions: list[Condition], verdict: Verdict, generation: int | None, now: datetime) -> list[Condition]:
    told = (verdict.reason, verdict.message, generation, now)
    conditions = set_condition(conditions, READY, ConditionStatus.UNKNOWN, *told)
    conditions = set_condition(conditions, RECONCILING, ConditionStatus.TRUE, *told)
    return remove_condition(conditions, STALLED)


def _transition(world: World, old: InstanceStatus, phase: InstancePhase) -> InstanceStatus:
    began = list(old.phase_transitions)
    if (began[-1].phase if began else InstancePhase.PENDING) is not phase:
        began.append(PhaseTransition(phase=phase, at=world.now))
    return old.model_copy(update={"phase": phase, "phase_transitions": began[-_MOST_TRANSITIONS:]})


def _ordered(conditions: Sequence[Condition]) -> list[Condition]:
    return sorted(conditions, key=lambda one: _ORDER.index(one.type) if one.type in _ORDER else len(_ORDER))


def _false(verdict: Verdict) -> Aspect:
    return Aspect(ConditionStatus.FALSE, verdict.reason, verdict.message)
