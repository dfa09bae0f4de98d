"""Conditions, as metav1.Condition of the Kubernetes API conventions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, PlainSerializer, WithJsonSchema

from crds.markers import ListMap
from crds.model import Model


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC, with microseconds only if there are any: `2026-01-02T03:04:05Z`."""
    text = at.astimezone(UTC).isoformat(timespec="microseconds" if at.microsecond else "seconds")
    return text.replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the object's state."""

    type: str = Field(max_length=316, description="What is told, in CamelCase: Ready is the summary.")
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    reason: str = Field(max_length=1024, description="Why, as one CamelCase word for programs.")
    message: str = Field(max_length=32768, description="Why, as a sentence for people, with what to do about it.")
    last_transition_time: Time = Field(description="When the status last changed.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation that the condition was computed from."
    )


Conditions = Annotated[list[Condition], Field(max_length=16), ListMap("type")]


def set_condition(
    conditions: Sequence[Condition],
    type: str,
    status: ConditionStatus | str,
    reason: str,
    message: str,
    generation: int | None,
    now: datetime,
) -> list[Condition]:
    """`conditions` with the one of this type added or replaced in its place; the input is not changed.

    `lastTransitionTime` becomes `now`, cut to the second, only if the status changes.
    """
    status = ConditionStatus(status)
    old = find_condition(conditions, type)
    unchanged = old is not None and old.status == status
    new = Condition(
        type=type,
        status=status,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and unchanged else now.replace(microsecond=0),
    )
    if old is None:
        return [*conditions, new]
    return [new if condition.type == type else condition for condition in conditions]


def find_condition(conditions: Sequence[Condition], type: str) -> Condition | None:
    """The condition of this type, if it is there."""
    return next((condition for condition in conditions if condition.type == type), None)


def is_true(conditions: Sequence[Condition], type: str) -> bool:
    """Whether the condition of this type is there and True."""
    found = find_condition(conditions, type)
    return found is not None and found.status == ConditionStatus.TRUE


def remove_condition(conditions: Sequence[Condition], type: str) -> list[Condition]:
    """`conditions` without the one of this type."""
    return [condition for condition in conditions if condition.type != type]
