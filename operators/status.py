"""Conditions as kstatus reads them, written only when they differ.

`Ready` is always there. `Reconciling` and `Stalled` are there only while they hold: work goes on or waits for another
object, or the user must change something. https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from crds.conditions import Condition, ConditionStatus, find_condition, remove_condition, set_condition
from crds.meta import Resource, Status
from runtime.cluster import Cluster
from runtime.events import Recorder
from runtime.kind import kind_of

READY, RECONCILING, STALLED = "Ready", "Reconciling", "Stalled"


class State(Enum):
    """What the summary of an object comes to."""

    READY = "ready"
    """The spec is realised."""
    WAITING = "waiting"
    """Work goes on, or another object must come or go first."""
    STALLED = "stalled"
    """Somebody must change something."""


@dataclass(frozen=True)
class Verdict:
    """An object's state, why as one CamelCase word, and why as a sentence with its remedy."""

    state: State
    reason: str
    message: str


def ready(reason: str, message: str) -> Verdict:
    return Verdict(State.READY, reason, message)


def waiting(reason: str, message: str) -> Verdict:
    return Verdict(State.WAITING, reason, message)


def stalled(reason: str, message: str) -> Verdict:
    return Verdict(State.STALLED, reason, message)


def summarized(
    conditions: Sequence[Condition], verdict: Verdict, generation: int | None, now: datetime
) -> list[Condition]:
    """`conditions` with Ready, Reconciling and Stalled as `verdict` has them."""

    def told(of: Sequence[Condition], type: str, holds: bool) -> list[Condition]:
        status = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        return set_condition(of, type, status, verdict.reason, verdict.message, generation, now)

    result = told(conditions, READY, verdict.state is State.READY)
    for type_, state in ((RECONCILING, State.WAITING), (STALLED, State.STALLED)):
        result = told(result, type_, True) if verdict.state is state else remove_condition(result, type_)
    return result


async def write_status(
    cluster: Cluster, resource: Resource, status: Status, *, only_if_unchanged: bool = False
) -> bool:
    """Writes what differs from the status that `resource` was seen with; True if anything did.

    With `only_if_unchanged` the write fails with Conflict if the object is another one, or changed, since it was seen.
    """
    old = _without_empty(resource.status.to_dict())  # type: ignore[attr-defined]  # callers pass kinds with a status
    meta = resource.metadata
    seen = meta.resource_version if only_if_unchanged else None
    return await cluster.patch_status(
        kind_of(type(resource)), meta.name, meta.namespace, old, _without_empty(status.to_dict()), seen
    )


async def announce(recorder: Recorder, resource: Resource, verdict: Verdict) -> None:
    """An Event, if the verdict is that the user must act, and the object was not seen to say so already."""
    before = find_condition(resource.status.conditions, STALLED)  # type: ignore[attr-defined]  # as above
    if verdict.state is State.STALLED and (before is None or before.reason != verdict.reason):
        meta = resource.metadata.to_dict()
        await recorder.record(kind_of(type(resource)), meta, verdict.reason, verdict.message, warning=True)


def _without_empty(status: Mapping[str, Any]) -> dict[str, Any]:
    """An empty list or map means the same as none; the API has no null."""
    return {name: value for name, value in status.items() if value not in ([], {})}
