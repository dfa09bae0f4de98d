"""Kubernetes quantities as whole numbers of their base unit: bytes of a size, bits per second of a bandwidth.

Source: k8s.io/apimachinery/pkg/api/resource/quantity.go. Our sizes have no use for fractions of the base unit: `100m`
is refused, and what comes to a fraction otherwise (`0.5`, `1.0001Ki`) is rounded up. Negative numbers are refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import ceil
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from crds.markers import FORM_KEY, RULES_KEY, Rule

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_FORM = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?")
MAXIMUM = 2**63 - 1  # the apiserver's own limit


def parse_quantity(value: int | str) -> int:
    """Bytes (or bits per second) of `512Mi`, `100M`, `1.5Gi`, `1e9` or a plain number; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a quantity: use a number or a string such as 512Mi or 10Gi")
    if isinstance(value, int):
        number = Decimal(value)
    else:
        match = _FORM.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a quantity: use a whole number with a suffix such as Mi, Gi, M or G")
        digits, suffix = match.group(1), match.group(2) or ""
        if suffix in _BINARY or suffix in _DECIMAL:
            number = Decimal(digits) * (_BINARY.get(suffix) or _DECIMAL[suffix])
        else:
            number = Decimal(digits) * 10 ** int(suffix[1:])
    if not 0 <= number <= MAXIMUM:
        raise ValueError(f"{value!r} is out of range: a quantity is between 0 and 2^63-1")
    return ceil(number)


def format_quantity(number: int) -> str:
    """The shortest exact form: `512Mi` of 536870912, `100M` of 100000000, `1501` of 1501."""
    for suffix, factor in reversed(_BINARY.items()):
        if number and number % factor == 0:
            return f"{number // factor}{suffix}"
    for suffix, factor in reversed(_DECIMAL.items()):
        if number and number % factor == 0:
            return f"{number // factor}{suffix}"
    return str(number)


# CEL sees an int-or-string as a dynamic value.
_CEL_VALID = (
    "type(self) == int ? self >= 0 :"
    r" self.matches('^[0-9]{1,19}([.][0-9]{1,9})?([KMGTPE]i|[kMGTPE]|[eE][0-9]{1,2})?$')"
)
_RULE = Rule(
    _CEL_VALID,
    "'{string(self)}' is not a quantity: it must be a number with an optional suffix, for example 512Mi, 10Gi or 100M",
)
# What is stored must be readable by `parse_quantity`. The apiserver takes what is larger than 2^63-1 to be just that.
_LARGE_RULE = Rule(
    f"!({_CEL_VALID}) || quantity(string(self)).isLessThan(quantity('9223372036854775807'))",
    "'{string(self)}' is too large: it must be less than 8Ei",
)


class Quantity(int):
    """A whole number of the base unit that the API writes as `10Gi`. Arithmetic gives plain ints."""

    def __new__(cls, value: int | str = 0) -> Quantity:
        return super().__new__(cls, parse_quantity(value))

    def __str__(self) -> str:
        return format_quantity(int(self))

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(cls._serialize)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            RULES_KEY: [_RULE.to_dict(), _LARGE_RULE.to_dict()],
            FORM_KEY: "A quantity, for example 512Mi or 10Gi.",
        }

    @classmethod
    def _validate(cls, value: Any) -> Quantity:
        return cls(value)

    @staticmethod
    def _serialize(value: int) -> int | str:
        # A plain number stays a number: `ephemeralDisk: 0` reads better than "0".
        text = format_quantity(value)
        return int(text) if text.isdigit() else text


PositiveQuantity = Annotated[
    Quantity,
    Rule(
        f"!({_CEL_VALID}) || quantity(string(self)).isGreaterThan(quantity('0'))",
        "'{string(self)}' is too small: it must be more than 0",
    ),
]
