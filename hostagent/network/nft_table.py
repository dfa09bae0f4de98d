"""An nftables table as a value: what it should hold, what it holds, and the commands from one to the other.

Rules are compared by their comment, a hash of their text, because the kernel gives a rule back in another form than
it was written in. Set elements are compared by value. Texts are in the syntax of nft(8).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Element = tuple[str, ...]
"""One string per field of a concatenation."""


@dataclass(frozen=True)
class Collection:
    """A set, or a map when `value` is given."""

    fields: tuple[str, ...]
    """Types in nft's words; `nd_target` stands for the target address of a neighbour discovery message."""
    value: str | None = None
    """A map's type; `ct_zone` stands for a conntrack zone."""
    interval: bool = False
    elements: Mapping[Element, str] = field(default_factory=dict)
    """Element to value; to "" in a set."""


@dataclass(frozen=True)
class Hook:
    name: str
    priority: int
    policy: str


@dataclass(frozen=True)
class Chain:
    rules: tuple[str, ...] = ()
    """In a desired chain: texts. In an observed one: comments."""
    hook: Hook | None = None


@dataclass(frozen=True)
class Table:
    family: str
    name: str
    collections: Mapping[str, Collection] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)

    def elements(self, name: str) -> Mapping[Element, str]:
        found = self.collections.get(name)
        return found.elements if found else {}


def fingerprint(rule: str) -> str:
    return hashlib.sha256(rule.encode()).hexdigest()[:16]


# nft 1.0.6 has no name for the field yet, but matches its bytes: offset 8 in the ICMPv6 message (RFC 4861, 4.3 and
# 4.4).
ND_TARGET = "@th,64,128"
_TYPEOF = {
    "ifname": "iifname",
    "ether_addr": "ether saddr",
    "nd_target": ND_TARGET,
    "ct_zone": "ct zone",
}


def _declaration(table: Table, name: str, wanted: Collection) -> str:
    types = [*wanted.fields, *([wanted.value] if wanted.value else [])]
    if "nd_target" in types or "ct_zone" in types:
        key = "typeof " + " . ".join(_TYPEOF[each] for each in wanted.fields)
        value = f" : {_TYPEOF[wanted.value]}" if wanted.value else ""
    else:
        key = "type " + " . ".join(wanted.fields)
        value = f" : {wanted.value}" if wanted.value else ""
    kind = "map" if wanted.value else "set"
    flags = " flags interval;" if wanted.interval else ""
    return f"add {kind} {table.family} {table.name} {name} {{ {key}{value};{flags} }}"


def _text(wanted: Collection, element: Element, value: str = "") -> str:
    parts = [f'"{part}"' if kind == "ifname" else part for kind, part in zip(wanted.fields, element, strict=True)]
    return " . ".join(parts) + (f" : {value}" if value else "")


def _element_commands(table: Table, name: str, wanted: Collection, observed: Mapping[Element, str]) -> Iterator[str]:
    """Commands for the elements of one collection.

    A change of the value is a deletion and an addition. Sets of plain intervals are refilled as a whole, since nft
    checks an added interval for overlaps before it looks at the deletions of the same transaction. So are those of
    intervals by mark: the kernel does not find their elements when they are to be deleted (seen of nft 1.0.6).
    """
    target = f"{table.family} {table.name} {name}"
    gone = sorted(each for each, value in observed.items() if wanted.elements.get(each) != value)
    new = sorted(each for each, value in wanted.elements.items() if observed.get(each) != value)
    if not gone and not new:
        return
    if gone and wanted.interval and (len(wanted.fields) == 1 or wanted.fields[0] == "mark"):
        yield f"flush set {target}"
        new = sorted(wanted.elements)
    elif gone:
        yield f"delete element {target} {{ {', '.join(_text(wanted, each) for each in gone)} }}"
    if new:
        yield f"add element {target} {{ {', '.join(_text(wanted, each, wanted.elements[each]) for each in new)} }}"


def _same_shape(desired: Table, observed: Table) -> bool:
    """Whether `observed` can be changed into `desired` in place: same kind of sets and hooks where both have one."""
    for name, wanted in desired.collections.items():
        found = observed.collections.get(name)
        if found and (found.fields, found.value, found.interval) != (wanted.fields, wanted.value, wanted.interval):
            return False
    return all(
        name not in observed.chains or observed.chains[name].hook == wanted.hook
        for name, wanted in desired.chains.items()
    )


def commands(desired: Table, observed: Table | None) -> list[str]:
    """What changes `observed` into `desired` as one transaction; empty when nothing is to be done."""
    where = f"{desired.family} {desired.name}"
    result: list[str] = []
    if observed is not None and not _same_shape(desired, observed):
        result += [f"delete table {where}"]
        observed = None
    if observed is None:
        result += [f"add table {where}"]
        observed = Table(desired.family, desired.name)

    for name, chain in desired.chains.items():
        if name not in observed.chains:
            hook = chain.hook
            body = (
                f" {{ type filter hook {hook.name} priority {hook.priority}; policy {hook.policy}; }}" if hook else ""
            )
            result.append(f"add chain {where} {name}{body}")
    result += [
        _declaration(desired, name, wanted)
        for name, wanted in desired.collections.items()
        if name not in observed.collections
    ]
    # Elements that jump to a chain go before the chain does, and rules that name a set before the set.
    for name, wanted in desired.collections.items():
        result += _element_commands(desired, name, wanted, observed.elements(name))
    for name, chain in desired.chains.items():
        found = observed.chains[name].rules if name in observed.chains else ()
        if found != tuple(fingerprint(rule) for rule in chain.rules):
            if found:
                result.append(f"flush chain {where} {name}")
            result += [f'add rule {where} {name} {rule} comment "{fingerprint(rule)}"' for rule in chain.rules]
    stale_chains = [name for name in observed.chains if name not in desired.chains]
    result += [f"flush chain {where} {name}" for name in stale_chains]
    for name, found_collection in observed.collections.items():
        if name not in desired.collections:
            result.append(f"delete {'map' if found_collection.value else 'set'} {where} {name}")
    result += [f"delete chain {where} {name}" for name in stale_chains]
    return result


def parse(listing: Mapping[str, Any], names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Table]:
    """The named tables (family, name) out of what `nft -j list ruleset` says."""
    wanted = set(names)
    collections: dict[tuple[str, str], dict[str, Collection]] = {}
    chains: dict[tuple[str, str], dict[str, tuple[Hook | None, list[str]]]] = {}
    for item in listing.get("nftables", ()):
        ((kind, body),) = item.items()
        key = (body.get("family"), body.get("name") if kind == "table" else body.get("table"))
        if key not in wanted:
            continue
        if kind == "table":
            collections.setdefault(key, {})
            chains.setdefault(key, {})
        elif kind in ("set", "map"):
            collections[key][body["name"]] = _collection(body)
        elif kind == "chain":
            hook = Hook(body["hook"], body["prio"], body["policy"]) if "hook" in body else None
            chains[key][body["name"]] = (hook, [])
        elif kind == "rule":
            chains[key][body["chain"]][1].append(body.get("comment", ""))
    return {
        key: Table(
            *key,
            collections=collections[key],
            chains={name: Chain(tuple(rules), hook) for name, (hook, rules) in chains[key].items()},
        )
        for key in collections
    }


def _collection(body: Mapping[str, Any]) -> Collection:
    types = body["type"] if isinstance(body["type"], list) else [body["type"]]
    fields = tuple("nd_target" if each == "integer" else each for each in types)
    value = "ct_zone" if body.get("map") == "integer" else body.get("map")
    elements: dict[Element, str] = {}
    for item in body.get("elem", ()):
        key, mapped = item if value else (item, None)
        parts = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
        element = tuple(_scalar(part, kind) for part, kind in zip(parts, fields, strict=True))
        elements[element] = "" if mapped is None else _value(mapped)
    return Collection(fields, value, "interval" in body.get("flags", ()), elements)


def _scalar(part: Any, kind: str) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{_scalar(part['prefix']['addr'], kind)}/{part['prefix']['len']}"
    if isinstance(part, dict) and "range" in part:
        return "-".join(_scalar(each, kind) for each in part["range"])
    if kind == "nd_target":
        # What fits into 64 bits comes as a number, with a sign; what is greater as hexadecimal text.
        return f"{part % (1 << 64) if isinstance(part, int) else int(part, 16):#x}"
    text = str(part)
    if kind == "ipv6_addr" and "." in text:  # ::ffff:192.0.2.1 has other ways to be written, as `addresses` does
        return str(ipaddress.IPv6Address(text))
    return text


def _value(mapped: Any) -> str:
    if isinstance(mapped, dict):
        ((verdict, target),) = mapped.items()
        return verdict if target is None else f"{verdict} {target['target']}"
    return str(mapped)
