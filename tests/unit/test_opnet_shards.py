"""Items stay in their shards; few shards change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.network.shards import plan_shards

CAPACITY = 4


def plan(current: dict[int, list[str]], desired: set[str]) -> dict[int, list[str]]:
    return plan_shards(current, {item: item for item in desired}, lambda item: item, CAPACITY)


def test_the_first_items_fill_the_first_shard() -> None:
    assert plan({}, {"a", "b"}) == {0: ["a", "b"]}
    assert [len(items) for items in plan({}, set("abcdef")).values()] == [4, 2]


def test_one_more_item_changes_one_shard() -> None:
    current = {0: list("abcd"), 1: list("ef")}
    assert plan(current, set("abcdefg")) == {0: list("abcd"), 1: list("efg")}


def test_what_goes_leaves_room_for_what_comes() -> None:
    assert plan({0: list("abcd"), 1: list("efg")}, set("acdefgx")) == {0: list("acdx"), 1: list("efg")}


def test_a_shard_that_others_can_take_over_is_dissolved() -> None:
    assert plan({0: list("ab"), 1: list("cd"), 2: list("e")}, set("ae")) == {0: list("ae"), 1: [], 2: []}


def test_shrinking_a_little_moves_nothing() -> None:
    assert plan({0: list("abcd"), 1: list("efg")}, set("abcefg")) == {0: list("abc"), 1: list("efg")}


def test_an_item_in_two_shards_is_kept_in_one() -> None:
    assert plan({0: list("ab"), 1: list("bcde")}, set("abcde"))[1] == list("cde")


def test_empty_shards_are_told_so_that_they_are_deleted() -> None:
    assert plan({0: ["a"], 3: ["b"]}, set()) == {0: [], 3: []}


items = st.sets(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=1))


@given(st.lists(items, max_size=12))
def test_every_item_is_in_one_shard_and_the_plan_is_stable(history: list[set[str]]) -> None:
    shards: dict[int, list[str]] = {}
    for desired in history:
        shards = {number: items for number, items in plan(shards, desired).items() if items}
        flat = [item for items in shards.values() for item in items]
        assert sorted(flat) == sorted(desired)
        assert all(len(items) <= CAPACITY for items in shards.values())
        assert plan(shards, desired) == shards
