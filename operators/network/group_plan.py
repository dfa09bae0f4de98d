"""What a SecurityGroup comes to: rules with nothing left to look up, members, and their shards. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from crds.meta import ObjectMeta
from crds.network import Port, SecurityGroup, SecurityGroupRule
from crds.node import SecurityGroupSlice, SecurityGroupSliceSpec, SliceMember, SliceRule
from crds.vocabulary import EtherType, Protocol
from operators.network.names import GROUP_ANNOTATION, slice_name
from operators.network.shards import plan_shards

MEMBERS_PER_SHARD = 500


@dataclass(frozen=True)
class ResolvedRules:
    """`missing` are the names of remote groups that do not exist; the rules that name them are left out."""

    rules: tuple[SliceRule, ...]
    missing: tuple[str, ...]


def resolve_rules(group: SecurityGroup, uid_of: Callable[[str], str | None]) -> ResolvedRules:
    """The group's rules for the nodes; `uid_of` gives the UID of another group of the namespace by its name."""
    rules: list[SliceRule] = []
    missing: list[str] = []
    for rule in group.spec.rules:
        remote: str | None = None
        if rule.remote_group_ref is not None:
            remote = uid_of(rule.remote_group_ref.name)
            if remote is None:
                missing.append(rule.remote_group_ref.name)
                continue
        rules += [_slice_rule(rule, family, remote) for family in families(rule)]
    return ResolvedRules(tuple(rules), tuple(dict.fromkeys(missing)))


def families(rule: SecurityGroupRule) -> tuple[EtherType, ...]:
    """What a rule is about, when it does not say: what its prefix or protocol is of, else both."""
    if rule.ether_type is not None:
        return (rule.ether_type,)
    if rule.remote_ip_prefix is not None:
        return (EtherType.IPV4 if ip_network(rule.remote_ip_prefix).version == 4 else EtherType.IPV6,)
    match rule.protocol:
        case Protocol.ICMP:
            return (EtherType.IPV4,)
        case Protocol.ICMPV6:
            return (EtherType.IPV6,)
        case _:
            return (EtherType.IPV4, EtherType.IPV6)


def _slice_rule(rule: SecurityGroupRule, family: EtherType, remote: str | None) -> SliceRule:
    # Of ICMP the range is type and code, and a code that is not told means any.
    icmp = rule.protocol in (Protocol.ICMP, Protocol.ICMPV6)
    last = rule.port_range_max if rule.port_range_max is not None or icmp else rule.port_range_min
    return SliceRule(
        direction=rule.direction,
        ether_type=family,
        protocol=rule.protocol,
        port_range_min=rule.port_range_min,
        port_range_max=last,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group_uid=remote,
    )


def member_of(port: Port) -> SliceMember | None:
    """What others must know of a port to tell its packets; None before it has an address."""
    ips = [fixed.ip for fixed in port.status.fixed_ips]
    ips += [pair.ip for pair in port.spec.allowed_address_pairs if pair.ip not in ips]
    return SliceMember(port_uid=port.metadata.uid, ips=ips) if port.status.fixed_ips else None


def plan_slices(
    group: SecurityGroup,
    rules: Sequence[SliceRule],
    members: Iterable[SliceMember],
    current: Mapping[int, SecurityGroupSlice],
    namespace: str,
) -> dict[int, SecurityGroupSlice | None]:
    """The slices to write (None: to delete), by shard; those that are right already are left out."""
    desired = {member.port_uid: member for member in members}
    layout = plan_shards(
        {number: shard.spec.members for number, shard in current.items()},
        desired,
        lambda member: member.port_uid,
        MEMBERS_PER_SHARD,
    )
    layout.setdefault(0, [])
    changes: dict[int, SecurityGroupSlice | None] = {}
    for number, items in layout.items():
        if number and not items:
            changes[number] = None
            continue
        new = _slice(group, number, rules if number == 0 else (), items, namespace)
        old = current.get(number)
        if old is None or old.spec != new.spec:
            changes[number] = new
    return changes


def _slice(
    group: SecurityGroup, number: int, rules: Sequence[SliceRule], members: Sequence[SliceMember], namespace: str
) -> SecurityGroupSlice:
    meta = group.metadata
    return SecurityGroupSlice(
        metadata=ObjectMeta(
            name=slice_name(meta.uid, number),
            namespace=namespace,
            annotations={GROUP_ANNOTATION: f"{meta.namespace}/{meta.name}"},
        ),
        spec=SecurityGroupSliceSpec(group_uid=meta.uid, shard=number, rules=list(rules), members=list(members)),
    )
