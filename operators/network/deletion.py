"""What keeps an object that is to be deleted: the sentence and the conditions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from crds.conditions import Condition, ConditionStatus, set_condition
from operators.network.reasons import Reason
from operators.verdict import summarized, waiting

_NAMED = 3


@dataclass(frozen=True, order=True)
class User:
    """Something that uses an object: kind, namespace, name."""

    kind: str
    namespace: str
    name: str


def in_use(what: str, namespace: str, users: Iterable[User]) -> str | None:
    """`Network internal is used by Port a, Port b and 3 more: it goes when they are gone.`; None when nothing uses it.

    What belongs to other tenants is counted and not named.
    """
    everything = sorted(set(users))
    if not everything:
        return None
    own = [f"{user.kind} {user.name}" for user in everything if user.namespace == namespace]
    parts = own[:_NAMED]
    if len(own) > _NAMED:
        parts.append(f"{len(own) - _NAMED} more")
    foreign = len(everything) - len(own)
    if foreign:
        parts.append(f"{foreign} {'object' if foreign == 1 else 'objects'} of other tenants")
    return f"{what} is used by {_joined(parts)}: it goes when they are gone."


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def in_use_conditions(
    conditions: Sequence[Condition], message: str, generation: int | None, now: datetime
) -> list[Condition]:
    """`conditions` of an object whose deletion waits."""
    result = summarized(conditions, waiting(Reason.IN_USE, message), generation, now)
    return set_condition(result, "InUse", ConditionStatus.TRUE, Reason.DELETING, message, generation, now)
