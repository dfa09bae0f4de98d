"""Quantities, durations, ratios and conditions: read, written, compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crds.compute.hosts import Ratio
from crds.conditions import (
    Condition,
    ConditionStatus,
    find_condition,
    format_time,
    is_true,
    remove_condition,
    set_condition,
)
from crds.duration import Duration, format_duration, parse_duration
from crds.quantity import MAXIMUM, Quantity, format_quantity, parse_quantity

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        (0, 0),
        (1501, 1501),
        ("512Mi", 512 * 2**20),
        ("1.5Gi", 1536 * 2**20),
        ("0.5", 1),
        ("1.0001Ki", 1025),
        ("100M", 10**8),
        ("100k", 10**5),
        ("1e9", 10**9),
        ("1E3", 1000),
        ("1E", 10**18),
        ("4Ei", 4 * 2**60),
    ],
)
def test_a_quantity_is_a_whole_number_of_its_unit(text: int | str, number: int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "Gi", "1 Gi", "1GiB", "-1", -1, "100m", "8Ei", "1e99", "\u0661", True, 1.5, None, "1Gi\n"],
)
def test_anything_else_is_no_quantity(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|whole number|out of range"):
        parse_quantity(text)  # type: ignore[arg-type]  # wrong types are among what is refused


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (2**30, "1Gi"), (10**8, "100M"), (1501, "1501"), (1536 * 2**20, "1536Mi")]
)
def test_a_quantity_is_written_in_its_shortest_exact_form(number: int, text: str) -> None:
    assert format_quantity(number) == text


@given(st.integers(min_value=0, max_value=MAXIMUM))
def test_a_quantity_survives_writing_and_reading(number: int) -> None:
    assert parse_quantity(format_quantity(number)) == number


def test_quantities_count_and_stay_quantities_in_models() -> None:
    adapter: TypeAdapter[Quantity] = TypeAdapter(Quantity)
    memory = adapter.validate_python("1Gi")
    assert memory + adapter.validate_python("1024Mi") == 2**31
    assert adapter.dump_python(memory, mode="json") == "1Gi"
    assert adapter.dump_python(adapter.validate_python(0), mode="json") == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("10m", 600), ("45s", 45), ("0s", 0), ("36h", 129600), ("1h1s", 3601)]
)
def test_a_duration_is_hours_minutes_and_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert format_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize("text", ["", "1", "1.5h", "m", "30m1h", "-1m", "1d", "1h 30m", "1h\n"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_survives_writing_and_reading(seconds: int) -> None:
    adapter: TypeAdapter[timedelta] = TypeAdapter(Duration)
    length = timedelta(seconds=seconds)
    assert adapter.validate_python(adapter.dump_python(length, mode="json")) == length


def test_ratios_are_exact() -> None:
    adapter: TypeAdapter[Decimal] = TypeAdapter(Ratio)
    assert adapter.validate_python("1.1") * 10 == 11
    assert adapter.dump_python(Decimal("1.50"), mode="json") == "1.5"
    assert adapter.dump_python(Decimal(16), mode="json") == 16
    for wrong in (0, "0.0", "-1", "many", True):
        with pytest.raises(ValueError, match="is not a ratio"):
            adapter.validate_python(wrong)


def test_times_are_utc_and_exact() -> None:
    assert format_time(NOW) == "2026-01-02T03:04:05.678901Z"
    assert format_time(NOW.replace(microsecond=0)) == "2026-01-02T03:04:05Z"


def test_a_condition_is_added_behind_the_others_and_replaced_in_its_place() -> None:
    first = set_condition([], "Ready", "False", "Waiting", "waits", 1, NOW)
    both = set_condition(first, "Running", ConditionStatus.TRUE, "Running", "", 1, NOW)
    changed = set_condition(both, "Ready", "True", "Done", "", 2, LATER)
    assert [condition.type for condition in changed] == ["Ready", "Running"]
    assert changed[0].last_transition_time == LATER.replace(microsecond=0)
    assert changed[0].observed_generation == 2
    assert [condition.status for condition in both] == ["False", "True"], "the input is not changed"


def test_the_transition_time_stays_while_the_status_stays() -> None:
    before = set_condition([], "Ready", "False", "Waiting", "waits", 1, NOW)
    (after,) = set_condition(before, "Ready", "False", "Failed", "failed", 2, LATER)
    assert after.last_transition_time == NOW.replace(microsecond=0)
    assert (after.reason, after.message, after.observed_generation) == ("Failed", "failed", 2)


def test_setting_the_same_condition_again_changes_nothing() -> None:
    before = set_condition([], "Ready", "True", "Done", "", 1, NOW)
    assert set_condition(before, "Ready", "True", "Done", "", 1, LATER) == before


def test_conditions_are_found_and_removed_by_type() -> None:
    conditions: list[Condition] = set_condition([], "Ready", "True", "Done", "", 1, NOW)
    assert find_condition(conditions, "Ready") == conditions[0]
    assert find_condition(conditions, "Stalled") is None
    assert is_true(conditions, "Ready")
    assert not is_true(conditions, "Stalled")
    assert remove_condition(conditions, "Ready") == []
