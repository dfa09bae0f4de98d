"""Durations as users write them: `1h30m`, `10m`, `45s`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from crds.markers import FORM_KEY, RULES_KEY, Rule

_FORM = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def parse_duration(value: str) -> timedelta:
    """The length of `1h30m`; hours, minutes and seconds in this order, at least one of them. ValueError otherwise."""
    match = _FORM.fullmatch(value)
    if match is None or not value:
        raise ValueError(f"{value!r} is not a duration: use hours, minutes and seconds, for example 1h30m")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """`1h30m` of ninety minutes; `0s` of nothing. Parts of a second are cut off."""
    total = int(duration.total_seconds())
    if total < 0:
        raise ValueError(f"{duration!r} is negative")
    hours, rest = divmod(total, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def _validate(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else parse_duration(value)


_RULE = Rule(
    "self != '' && self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$')",
    "'{self}' is not a duration: it must be hours, minutes and seconds, for example 1h30m",
)

Duration = Annotated[
    timedelta,
    BeforeValidator(_validate),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {"type": "string", "maxLength": 24, RULES_KEY: [_RULE.to_dict()], FORM_KEY: "A duration, for example 1h30m."}
    ),
]
