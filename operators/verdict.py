"""What an object comes to, and its conditions as kstatus reads them.

`Ready` is always there. `Reconciling` and `Stalled` are there only while they hold: work goes on or waits for another
object, or the user must change something. https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from crds.conditions import Condition, ConditionStatus, remove_condition, set_condition

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
