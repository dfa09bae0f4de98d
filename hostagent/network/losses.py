"""Which tracked connections a change of rules takes the ground from.

An established connection passes without its rule being asked again, so what the new rules might no longer allow has
to leave conntrack. What they do allow is tracked anew with its next packet. The list is kept in the sets `stale4`
and `stale6`, written in the same transaction as the rules, so that an agent that dies in between does not forget
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostagent.network.addresses import collapse, split
from hostagent.network.nft_table import Collection, Element, Table, fingerprint

Stale = tuple[int, str]
"""Conntrack zone, and an address or prefix: connections from or to it."""


def stale_connections(old_bridge: Table | None, old_inet: Table | None, bridge: Table, inet: Table) -> set[Stale]:
    """What is to be removed once `bridge` and `inet` have replaced the old tables."""
    if old_bridge is None or old_inet is None:
        return set()
    result: set[Stale] = set()
    for (device,), zone in old_inet.elements("zones").items():
        if inet.elements("zones").get((device,)) != zone:
            result |= {(int(zone), "0.0.0.0/0"), (int(zone), "::/0")}
    restricted = _restricted_taps(old_bridge, old_inet, bridge, inet)
    addresses = _addresses(old_bridge)
    for (tap,), zone in old_bridge.elements("zones").items():
        moved = bridge.elements("zones").get((tap,)) != zone
        if tap in restricted or moved:
            result |= {(int(zone), each) for each in addresses.get(tap, ())}
        else:
            kept = bridge.elements
            result |= {
                (int(zone), each)
                for name in ("src4", "src6")
                for (owner, mac, each) in old_bridge.elements(name)
                if owner == tap and (owner, mac, each) not in kept(name)
            }
    guarded_zones = {
        int(zone)
        for (tap,), zone in bridge.elements("zones").items()
        if bridge.elements("roles").get((tap,)) == "goto from_guarded"
    }
    result |= {(zone, each) for zone in guarded_zones for each in _lost_members(old_inet, inet)}
    return result


def pending(bridge: Table | None) -> set[Stale]:
    """What an earlier change left to be removed."""
    if bridge is None:
        return set()
    return {(int(zone), each) for name in ("stale4", "stale6") for zone, each in bridge.elements(name)}


def with_pending(bridge: Table, stale: Iterable[Stale]) -> Table:
    by_zone: dict[int, list[str]] = {}
    for zone, each in stale:
        by_zone.setdefault(zone, []).append(each)
    collections: dict[str, Collection] = dict(bridge.collections)
    for number, name in ((4, "stale4"), (6, "stale6")):
        elements: dict[Element, str] = {
            (str(zone), each): "" for zone, found in by_zone.items() for each in split(collapse(found))[number]
        }
        collections[name] = replace(collections[name], elements=elements)
    return replace(bridge, collections=collections)


def _addresses(bridge: Table) -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for name in ("src4", "src6"):
        for tap, _mac, address in bridge.elements(name):
            result.setdefault(tap, set()).add(address)
    return result


def _restricted_taps(old_bridge: Table, old_inet: Table, bridge: Table, inet: Table) -> set[str]:
    """Taps that had a rule that they no longer have, or no rules at all before and have now."""
    result = set()
    for (tap,), role in old_bridge.elements("roles").items():
        if bridge.elements("roles").get((tap,)) != role:
            result.add(tap)
            continue
        mark = old_bridge.elements("marks").get((tap,), "")
        for direction in ("ingress", "egress"):
            before = _rules(old_inet, direction, mark, observed=True)
            after = _rules(inet, direction, bridge.elements("marks").get((tap,), ""), observed=False)
            if not before <= after:
                result.add(tap)
    return result


def _rules(inet: Table, direction: str, mark: str, *, observed: bool) -> set[str]:
    """Fingerprints of the rules of the groups that a mark leads to."""
    verdict = inet.elements(direction).get((mark,))
    if verdict is None:
        return set()
    combination = inet.chains[verdict.removeprefix("goto ")].rules
    jumps = set(combination) if observed else {fingerprint(each) for each in combination}
    result: set[str] = set()
    for name, chain in inet.chains.items():
        if fingerprint(f"jump {name}") in jumps:
            result |= set(chain.rules) if observed else {fingerprint(each) for each in chain.rules}
    return result


def _lost_members(old_inet: Table, inet: Table) -> set[str]:
    result: set[str] = set()
    for name, before in old_inet.collections.items():
        if name.startswith(("m4-", "m6-")):
            after = inet.elements(name)
            result |= {each for (each,) in before.elements if (each,) not in after}
    return result
