"""What a reconcile comes to: per port, and what is left that nobody wants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostagent.network import names
from hostagent.network.model import DesiredNode
from hostagent.network.operations import (
    DeleteChild,
    DeleteDirectory,
    DeleteForwarding,
    DeleteLink,
    DeleteNeighbour,
    DetachLink,
    Filter,
    ReturnNic,
    StopDhcp,
    describe,
)
from hostagent.network.plan import Plan
from hostagent.network.report import PortReport, PortState, Problem, Report
from hostagent.network.state import Link, NodeState

_REMOVALS = (
    DeleteChild,
    DeleteDirectory,
    DeleteForwarding,
    DeleteLink,
    DeleteNeighbour,
    DetachLink,
    ReturnNic,
    StopDhcp,
)


@dataclass(frozen=True)
class Context:
    desired: DesiredNode
    """As it was given."""
    observed: NodeState
    problems: tuple[Problem, ...]
    """Found in it."""


def report(
    context: Context,
    plan: Plan,
    failures: Iterable[Problem],
    links: Mapping[str, Link],
    operations: Iterable[str],
    *,
    filtered: bool,
) -> Report:
    """`links` are those of `kumulus` now; `filtered` says whether the rules of this plan are in the kernel."""
    failures = list(failures)
    failed = {problem.subject: problem for problem in failures}
    invalid = {problem.subject: problem for problem in context.problems}
    planned = {uid for network in plan.networks for uid in network.ports.values()}
    ports = {}
    for port in context.desired.ports:
        problem = failed.get(port.network_uid) or (invalid.get(port.uid) if port.uid not in planned else None)
        if problem is None and not filtered:
            problem = failed.get("node")
        ports[port.uid] = _port(port.uid, problem, links)
    problems = (*context.problems, *plan.problems, *failures)
    return Report(ports, problems, plan.lingering, tuple(operations), filtered)


def _port(uid: str, problem: Problem | None, links: Mapping[str, Link]) -> PortReport:
    try:
        tap = names.tap(uid)
    except ValueError:
        tap = ""
    if problem is not None:
        return PortReport(uid, tap, PortState.ERROR, problem.reason, problem.message)
    link = links.get(tap)
    if link is None:
        return PortReport(uid, tap, PortState.DOWN, "TapAbsent", "the tap is not attached yet")
    if not link.up or link.master is None:
        return PortReport(uid, tap, PortState.DOWN, "TapNotAttached", "the tap is not joined to its bridge")
    if not link.held:
        return PortReport(uid, tap, PortState.DOWN, "NoCarrier", "no process holds the tap")
    return PortReport(uid, tap, PortState.ACTIVE)


def leftovers(plan: Plan) -> tuple[str, ...]:
    """Lines for what the plan would remove."""
    found = [describe(each) for each in plan.operations if isinstance(each, _REMOVALS)]
    found += [f"tap {name} held by a process" for name in plan.lingering]
    for operation in plan.operations:
        if isinstance(operation, Filter):
            found += [each[:200] for each in operation.commands if each.startswith(("delete ", "flush "))]
    return tuple(found)
