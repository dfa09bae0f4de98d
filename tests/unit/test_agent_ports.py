"""From work objects and slices to the data plane's input."""

from __future__ import annotations

from typing import Any

from agent_objects import NETWORK, PORT, SUBNET, UID, port, work_object

from crds.node import NetworkSlice, SecurityGroupSlice
from hostagent.network.model import ForwardingEntry, NetworkType
from hostagent.ports import desired_node

HERE = {"underlay_ip": "10.10.0.11", "physical_networks": {"public": "eth1"}}


def network_slice(name: str, *entries: dict[str, Any]) -> NetworkSlice:
    spec = {"networkUID": NETWORK, "type": "VXLAN", "segmentationID": 10001, "entries": list(entries)}
    return NetworkSlice.model_validate({"metadata": {"name": name}, "spec": spec})


def entry(mac: str, vtep: str, ip: str) -> dict[str, Any]:
    return {"portUID": mac, "mac": mac, "ips": [ip], "nodeName": "n", "vtep": vtep}


def group(uid: str, shard: int, rules: list[dict[str, Any]], *ips: str) -> SecurityGroupSlice:
    members = [{"portUID": ip, "ips": [ip]} for ip in ips]
    spec = {"groupUID": uid, "shard": shard, "rules": rules, "members": members}
    return SecurityGroupSlice.model_validate({"metadata": {"name": f"{uid}-{shard}"}, "spec": spec})


def test_a_guest_with_one_card() -> None:
    made = desired_node([work_object()], [], [], **HERE)
    (network,) = made.networks
    assert (network.uid, network.type, network.segmentation_id, network.mtu) == (
        NETWORK,
        NetworkType.VXLAN,
        10001,
        1450,
    )
    assert network.subnets[0].dhcp_server_ip == "10.0.1.2"
    (found,) = made.ports
    assert (found.uid, found.instance_uid, found.mac, found.hostname) == (PORT, UID, "fa:16:3e:00:00:50", "web-1")
    assert [(fixed.subnet_uid, fixed.ip) for fixed in found.fixed_ips] == [(SUBNET, "10.0.1.50")]
    assert made.physical_networks == {"public": "eth1"}


def test_entries_are_of_other_nodes_and_of_networks_that_are_here() -> None:
    far = entry("fa:16:3e:00:00:01", "10.10.0.12", "10.0.1.51")
    own = entry("fa:16:3e:00:00:50", "10.10.0.11", "10.0.1.50")
    (entries,) = desired_node([work_object()], [network_slice("b", far), network_slice("a", own)], [], **HERE).entries
    assert entries.entries == (ForwardingEntry("fa:16:3e:00:00:01", "10.10.0.12", ("10.0.1.51",)),)
    assert desired_node([], [network_slice("b", far)], [], **HERE).entries == ()


def test_groups_take_members_of_all_shards_and_rules_of_the_first() -> None:
    rules = [{"direction": "Ingress", "etherType": "IPv4", "remoteGroupUID": "sg2"}]
    slices = [group("sg1", 1, [], "10.0.1.9"), group("sg1", 0, rules, "10.0.1.8"), group("sg2", 0, [], "10.0.1.7")]
    other = group("sg3", 0, [], "10.0.1.6")
    made = desired_node([work_object()], [], [*slices, other], **HERE)
    assert [(each.uid, each.members) for each in made.groups] == [
        ("sg1", ("10.0.1.8", "10.0.1.9")),
        ("sg2", ("10.0.1.7",)),
    ]


def test_a_group_without_its_rules_is_not_known() -> None:
    made = desired_node([work_object()], [], [group("sg1", 1, [], "10.0.1.9")], **HERE)
    assert made.groups == ()
    assert made.ports[0].security_groups == ("sg1",)


def test_order_of_input_does_not_matter() -> None:
    other = work_object(ports=[port(uid="1234567890ab", macAddress="fa:16:3e:00:00:51")])
    assert desired_node([work_object(), other], [], [], **HERE) == desired_node([other, work_object()], [], [], **HERE)
