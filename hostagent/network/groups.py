"""Rules of security groups as nft expressions. Pure; a rule that cannot be expressed raises ValueError and is left
out alone."""

from __future__ import annotations

import ipaddress

from hostagent.network.model import Direction, EtherType, Rule

# IANA protocol numbers: names of /etc/protocols differ between distributions.
PROTOCOLS = {
    "ah": 51,
    "dccp": 33,
    "esp": 50,
    "gre": 47,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "ipip": 4,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
_WITH_PORTS = frozenset({"tcp", "udp", "sctp", "dccp", "udplite"})


def members_set(group_uid: str, ether_type: EtherType) -> str:
    return f"m{'4' if ether_type is EtherType.IPV4 else '6'}-{compact(group_uid)}"


def compact(uid: str) -> str:
    return uid.replace("-", "")


def expression(rule: Rule) -> str:
    """The match of one rule, with `accept`. Remote groups are named sets, see `members_set`."""
    direction = Direction(rule.direction)
    ether_type = EtherType(rule.ether_type or "")
    family = "ip" if ether_type is EtherType.IPV4 else "ip6"
    side = "saddr" if direction is Direction.INGRESS else "daddr"
    parts = [f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'}"]
    if rule.remote_ip_prefix is not None and rule.remote_group is not None:
        raise ValueError("a rule names a prefix or a group, not both")
    if rule.remote_ip_prefix is not None:
        prefix = ipaddress.ip_network(rule.remote_ip_prefix)
        if prefix.version != (4 if family == "ip" else 6):
            raise ValueError(f"{prefix} is not an {ether_type.value} prefix")
        if prefix.prefixlen:
            parts.append(f"{family} {side} {prefix}")
    if rule.remote_group is not None:
        parts.append(f"{family} {side} @{members_set(rule.remote_group, ether_type)}")
    parts += _layer4(rule, ether_type)
    return " ".join([*parts, "accept"])


def _layer4(rule: Rule, ether_type: EtherType) -> list[str]:
    low, high = rule.port_range_min, rule.port_range_max
    if rule.protocol is None:
        if low is not None or high is not None:
            raise ValueError("ports need a protocol")
        return []
    name = rule.protocol
    if name == "icmp" and ether_type is EtherType.IPV6:
        name = "icmpv6"  # as Neutron reads it
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {rule.protocol!r}")
    match = [f"meta l4proto {PROTOCOLS[name]}"]
    if name in ("icmp", "icmpv6"):
        if name == "icmpv6" and ether_type is EtherType.IPV4:
            raise ValueError("icmpv6 is not an IPv4 protocol")
        # Raw bytes, as nft would print and compare the symbolic names of types and codes.
        if high is not None and low is None:
            raise ValueError("an ICMP code needs a type")
        return match + [f"@th,{at},8 {_bounded(each, 255)}" for at, each in ((0, low), (8, high)) if each is not None]
    if low is None and high is None:
        return match
    if name not in _WITH_PORTS:
        raise ValueError(f"{rule.protocol} has no ports")
    first, last = _bounded(low if low is not None else 0, 65535), _bounded(high if high is not None else 65535, 65535)
    if first > last:
        raise ValueError(f"port range {first}-{last} is upside down")
    return [*match, f"th dport {first}" if first == last else f"th dport {first}-{last}"]


def _bounded(value: int, maximum: int) -> int:
    if not 0 <= value <= maximum:
        raise ValueError(f"{value} is not between 0 and {maximum}")
    return value
