"""Spreading items over objects of limited size so that a change of one item rewrites one object. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def plan_shards(
    current: Mapping[int, Sequence[T]],
    desired: Mapping[K, T],
    identity: Callable[[T], K],
    capacity: int,
) -> dict[int, list[T]]:
    """The items of each shard: every item of `desired` once, where it is already if it is anywhere.

    Shards that `current` has are all in the answer; an empty one is to be deleted. A shard is dissolved when the others
    have half a shard more room than it needs, so that growing and shrinking by one item moves nothing.
    """
    shards: dict[int, list[T]] = {}
    left = dict(desired)
    for number in sorted(current):
        kept = [left.pop(identity(item)) for item in current[number] if identity(item) in left]
        shards[number] = kept[:capacity]
        left.update({identity(item): item for item in kept[capacity:]})
    _dissolve(shards, left, identity, capacity)
    for item_id in sorted(left, key=str):
        shards[_with_room(shards, capacity)].append(left[item_id])
    return shards


def _dissolve(shards: dict[int, list[T]], left: dict[K, T], identity: Callable[[T], K], capacity: int) -> None:
    while True:
        used = [number for number, items in shards.items() if items]
        if len(used) < 2:
            return
        smallest = min(used, key=lambda number: (len(shards[number]), -number))
        room = sum(capacity - len(shards[number]) for number in used if number != smallest)
        if room < len(shards[smallest]) + len(left) + capacity // 2:
            return
        left.update({identity(item): item for item in shards[smallest]})
        shards[smallest] = []


def _with_room(shards: dict[int, list[T]], capacity: int) -> int:
    """The first used shard with room; else the lowest number that is empty or new."""
    for number in sorted(shards):
        if 0 < len(shards[number]) < capacity:
            return number
    number = 0
    while shards.get(number):
        number += 1
    shards.setdefault(number, [])
    return number
