"""Numbers that last as long as what they number: a port's index, a network's conntrack zone.

They are read back from the nft maps that hold them, so a restarted agent keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hostagent.network.nft_table import Table
from hostagent.network.ruleset import MAX_INDEX, metadata_index

MAX_ZONE = 0xFFFF


@dataclass(frozen=True)
class Numbers:
    indices: Mapping[str, int] = field(default_factory=dict)
    """Tap to port index."""
    zones: Mapping[str, int] = field(default_factory=dict)
    """Bridge to conntrack zone."""


def observed_numbers(bridge: Table | None, inet: Table | None) -> Numbers:
    metadata = bridge.elements("metadata") if bridge else {}
    zones = inet.elements("zones") if inet else {}
    return Numbers(
        {tap: metadata_index(address) for (tap,), address in metadata.items()},
        {device: int(zone) for (device,), zone in zones.items()},
    )


def allocate(taps: Iterable[str], bridges: Iterable[str], observed: Numbers) -> Numbers:
    """Keep what is numbered, give the lowest free numbers to the rest. Raises ValueError when there are too many."""
    return Numbers(
        _numbered(taps, observed.indices, MAX_INDEX, "ports"),
        _numbered(bridges, observed.zones, MAX_ZONE, "networks"),
    )


def _numbered(names: Iterable[str], observed: Mapping[str, int], maximum: int, what: str) -> dict[str, int]:
    wanted = sorted(set(names))
    result = {name: observed[name] for name in wanted if name in observed}
    # A number is not given anew in the transaction that frees it: connections of the old holder may still be tracked.
    taken = set(observed.values())
    number = 0
    for name in wanted:
        if name in result:
            continue
        number = next((n for n in range(number + 1, maximum + 1) if n not in taken), 0)
        if not number:
            raise ValueError(f"more than {maximum} {what} on one node")
        result[name] = number
    return result
