"""Security group and network slices."""

from __future__ import annotations

from typing import Any

import pytest

from crds.network import Port, SecurityGroup
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from operators.network.group_plan import member_of, plan_slices, resolve_rules
from operators.network.network_slices import entries_of, plan_network_slices, shard_of


def group(*rules: dict[str, Any]) -> SecurityGroup:
    named = [{"name": f"r{i}", "direction": "Ingress", **rule} for i, rule in enumerate(rules)]
    return SecurityGroup.model_validate(
        {"metadata": {"name": "web", "namespace": "acme", "uid": "web-uid"}, "spec": {"rules": named}}
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [{"etherType": "IPv4"}, {"etherType": "IPv6"}]),
        ({"etherType": "IPv6"}, [{"etherType": "IPv6"}]),
        ({"remoteIPPrefix": "10.0.0.0/8"}, [{"etherType": "IPv4", "remoteIPPrefix": "10.0.0.0/8"}]),
        ({"protocol": "icmp"}, [{"etherType": "IPv4", "protocol": "icmp"}]),
        ({"protocol": "icmpv6"}, [{"etherType": "IPv6", "protocol": "icmpv6"}]),
        (
            {"protocol": "tcp", "portRangeMin": 22, "etherType": "IPv4"},
            [{"etherType": "IPv4", "protocol": "tcp", "portRangeMin": 22, "portRangeMax": 22}],
        ),
        (
            {"protocol": "icmp", "portRangeMin": 8},
            [{"etherType": "IPv4", "protocol": "icmp", "portRangeMin": 8}],
        ),
        (
            {"remoteGroupRef": {"name": "db"}, "etherType": "IPv4"},
            [{"etherType": "IPv4", "remoteGroupUID": "db-uid"}],
        ),
    ],
)
def test_rules_are_resolved(rule: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    resolved = resolve_rules(group(rule), lambda name: f"{name}-uid")
    assert [r.to_dict() for r in resolved.rules] == [{"direction": "Ingress", **e} for e in expected]
    assert resolved.missing == ()


def test_a_rule_without_its_remote_group_is_left_out_and_told() -> None:
    resolved = resolve_rules(group({"remoteGroupRef": {"name": "nope"}}, {"protocol": "icmp"}), lambda name: None)
    assert resolved.missing == ("nope",)
    assert [rule.protocol for rule in resolved.rules] == ["icmp"]


def port(uid: str, *ips: str, pairs: tuple[str, ...] = ()) -> Port:
    return Port.model_validate(
        {
            "metadata": {"name": uid, "namespace": "acme", "uid": uid},
            "spec": {"networkRef": {"name": "internal"}, "allowedAddressPairs": [{"ip": ip} for ip in pairs]},
            "status": {"fixedIPs": [{"ip": ip} for ip in ips]},
        }
    )


def test_members_are_ports_with_addresses_and_their_pairs() -> None:
    assert member_of(port("p")) is None
    member = member_of(port("p", "10.0.0.5", pairs=("10.0.0.99", "10.0.0.5")))
    assert member is not None
    assert member.ips == ["10.0.0.5", "10.0.0.99"]


def test_group_slices_shard_0_holds_the_rules_and_always_exists() -> None:
    subject = group({"protocol": "icmp"})
    rules = resolve_rules(subject, lambda name: None).rules
    changes = plan_slices(subject, rules, [], {}, "slices")
    first = changes[0]
    assert first is not None
    assert (first.metadata.name, first.metadata.namespace) == ("web-uid-0", "slices")
    assert len(first.spec.rules) == 1
    assert plan_slices(subject, rules, [], {0: first}, "slices") == {}

    members = [m for i in range(501) if (m := member_of(port(f"p{i:03d}", f"10.0.{i // 250}.{i % 250 + 1}")))]
    grown = plan_slices(subject, rules, members, {0: first}, "slices")
    assert {n: len(s.spec.members) for n, s in grown.items() if s} == {0: 500, 1: 1}
    assert [len(s.spec.rules) for s in grown.values() if s] == [1, 0]
    current = {n: SecurityGroupSlice.model_validate(s.to_dict()) for n, s in grown.items() if s}
    assert plan_slices(subject, rules, members, current, "slices") == {}
    shrunk = plan_slices(subject, rules, members[:100], current, "slices")
    assert shrunk[1] is None
    assert shrunk[0] is not None


def carrier(node: str, *ports: tuple[str, str, str], network: str = "net-uid") -> NodeInstance:
    return NodeInstance.model_validate(
        {
            "metadata": {"name": f"i-{node}", "namespace": f"kumulus-node-{node}", "uid": f"i-{node}"},
            "spec": {
                "instanceRef": {"namespace": "acme", "name": "web", "uid": f"i-{node}"},
                "vcpus": 1,
                "memory": "64Mi",
                "rootDisk": {
                    "size": "1Gi",
                    "image": {
                        "name": "tiny",
                        "sha256": "0" * 64,
                        "size": "1Mi",
                        "virtualSize": "1Gi",
                        "format": "qcow2",
                        "url": "https://image/v1/images/0",
                    },
                },
                "metadata": {"hostname": "web", "name": "web", "projectID": "acme"},
                "ports": [
                    {
                        "name": f"eth{i}",
                        "uid": uid,
                        "portName": uid,
                        "macAddress": mac,
                        "network": {
                            "uid": network,
                            "name": "internal",
                            "type": "VXLAN",
                            "segmentationID": 7,
                            "mtu": 1450,
                        },
                        "fixedIPs": [{"ip": ip, "subnetUID": "s"}],
                    }
                    for i, (uid, mac, ip) in enumerate(ports)
                ],
            },
        }
    )


def test_entries_are_the_bound_ports() -> None:
    carriers = [
        carrier("a", ("p1", "fa:16:3e:00:00:01", "10.0.0.1")),
        carrier("b", ("p2", "fa:16:3e:00:00:02", "10.0.0.2")),
    ]
    entries = entries_of("net-uid", carriers, {"a": "192.0.2.1", "b": None})
    assert [(e.port_uid, e.node_name, e.vtep, e.ips) for e in entries] == [
        ("p1", "a", "192.0.2.1", ["10.0.0.1"]),
        ("p2", "b", None, ["10.0.0.2"]),
    ]
    assert entries_of("other", carriers, {}) == []


def test_a_port_that_migrates_has_an_entry_on_each_node() -> None:
    both = [carrier(node, ("p1", "fa:16:3e:00:00:01", "10.0.0.1")) for node in ("a", "b")]
    network = both[0].spec.ports[0].network
    changes = plan_network_slices(network, entries_of("net-uid", both, {}), {}, "slices")
    assert changes[0] is not None
    assert [e.node_name for e in changes[0].spec.entries] == ["a", "b"]


def test_network_slices_are_sharded_and_go_with_the_last_port() -> None:
    ports = [(f"p{i:03d}", f"fa:16:3e:00:00:{i:02x}", f"10.0.{i // 200}.{i % 200 + 1}") for i in range(201)]
    carriers = [carrier("a", port) for port in ports]
    network = carriers[0].spec.ports[0].network
    entries = entries_of("net-uid", carriers, {"a": "192.0.2.1"})
    changes = plan_network_slices(network, entries, {}, "slices")
    current = {n: NetworkSlice.model_validate(s.to_dict()) for n, s in changes.items() if s}
    assert {n: len(s.spec.entries) for n, s in current.items()} == {0: 200, 1: 1}
    assert [shard_of(s) for s in current.values()] == [0, 1]
    assert current[0].spec.segmentation_id == 7
    assert plan_network_slices(network, entries, current, "slices") == {}
    assert plan_network_slices(None, [], current, "slices") == {0: None, 1: None}
    moved = entries_of("net-uid", carriers, {"a": "192.0.2.9"})
    assert set(plan_network_slices(network, moved, current, "slices")) == {0, 1}
