"""What is planned for an instance, from tables; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.compute import Allocation, EffectiveFlavor, Flavor, Instance, InstancePhase, InstanceStatus
from crds.conditions import ConditionStatus, find_condition
from crds.identity import Tenant
from crds.image import Image
from crds.network import Network, Port, PortAddress, SecurityGroup, Subnet
from crds.node import NodeInstance
from crds.vocabulary import PowerState, RestartPolicy
from operators.compute.instance import deletion as gone
from operators.compute.instance import plan as todo
from operators.compute.instance.events import events_between
from operators.compute.instance.ports import desired_port
from operators.compute.instance.rollup import roll_up
from operators.compute.instance.status import waits_for_room
from operators.compute.instance.support import unsupported_change, unsupported_spec
from operators.compute.instance.workobject import build, updated
from operators.compute.instance.world import Card, World
from operators.compute.names import FINALIZER, port_name
from operators.compute.scheduler import Amount, Host
from operators.verdict import State
from runtime.cache import Key

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GI = 2**30
HOSTS = (Host("node1", Amount(8, 16 * GI, 100 * GI)), Host("node2", Amount(8, 16 * GI, 100 * GI)))
SUBNET = Subnet.model_validate(
    {
        "metadata": {"name": "v4", "namespace": "acme", "uid": "subnet-uid"},
        "spec": {"networkRef": {"name": "internal"}, "cidr": "10.0.1.0/24", "dnsNameservers": ["9.9.9.9"]},
        "status": {
            "cidr": "10.0.1.0/24",
            "gatewayIP": "10.0.1.1",
            "dhcpServer": {"ip": "10.0.1.2", "mac": "fa:16:3e:00:00:02"},
        },
    }
)
NETWORK = Network.model_validate(
    {
        "metadata": {"name": "internal", "namespace": "acme", "uid": "network-uid"},
        "status": {"type": "VXLAN", "segmentationID": 10000, "mtu": 1450},
    }
)
GROUP = SecurityGroup.model_validate(
    {"metadata": {"name": "default", "namespace": "acme", "uid": "group-uid"}, "spec": {"rules": []}}
)
FLAVOR = Flavor.model_validate(
    {"metadata": {"name": "small"}, "spec": {"vcpus": 1, "memory": "1Gi", "rootDisk": "2Gi"}}
)
IMAGE = Image.model_validate(
    {
        "metadata": {"name": "tiny", "namespace": "acme", "uid": "image-uid"},
        "spec": {
            "source": {"upload": {}},
            "diskFormat": "raw",
            "properties": {"hwDiskBus": "scsi", "osType": "windows"},
        },
        "status": {"phase": "Active", "size": 4096, "virtualSize": "1Gi", "storedSha256": "ab" * 32},
    }
)


def instance(status: dict[str, Any] | None = None, **spec: Any) -> Instance:
    """As it was made ten seconds ago, with the finalizer."""
    return Instance.model_validate(
        {
            "metadata": {
                "name": "web",
                "namespace": "acme",
                "uid": "uid-1",
                "generation": 1,
                "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T11:59:50Z",
                "finalizers": [FINALIZER],
            },
            "spec": {
                "flavorRef": {"name": "small"},
                "imageRef": {"name": "tiny"},
                "networks": [{"name": "eth0", "networkRef": {"name": "internal"}}],
                **spec,
            },
            "status": status or {},
        }
    )


def port(of: Instance, *, ready: bool = True) -> Port:
    card = Card(of.spec.networks[0], port_name(of.metadata.name, "eth0"))
    made = desired_port(of, card)
    made.metadata.uid = "port-uid"
    if ready:
        made.status.mac_address = "fa:16:3e:00:00:50"
        made.status.fixed_ips = [PortAddress(ip="10.0.1.50", subnet="v4")]
    return made


def world(of: Instance | None = None, with_port: bool | None = True, **changes: Any) -> World:
    """Everything is there, and nothing done yet but the port. `with_port`: None for one that is not ready."""
    of = of or instance()
    made = port(of, ready=with_port is True) if with_port is not False and of.spec.networks else None
    cards = tuple(
        Card(entry, "web-eth0", Key("acme", "internal"), made, NETWORK, (SUBNET,), {"default": GROUP})
        for entry in of.spec.networks
    )
    given: dict[str, Any] = {
        "instance": of,
        "now": NOW,
        "image_service_url": "https://image:8774/",
        "flavor": FLAVOR,
        "image_key": Key("acme", "tiny"),
        "image": IMAGE,
        "cards": cards,
        "own_ports": (made,) if made else (),
        "hosts": HOSTS,
    }
    return World(**(given | changes))


def allocation(vcpus: int = 1) -> Allocation:
    return Allocation(uid="uid-1", namespace="acme", name="web", vcpus=vcpus, memory=GI, disk=2 * GI)


def on_node(**spec: Any) -> Instance:
    flavor = {"name": "small", "vcpus": 1, "memory": "1Gi", "rootDisk": "2Gi"}
    return instance({"nodeName": "node1", "phase": "Building", "flavor": flavor, "image": "tiny"}, **spec)


def work(node: str = "node1", state: str = "Running", **status: Any) -> NodeInstance:
    given = EffectiveFlavor(name="small", vcpus=1, memory=GI, root_disk=2 * GI)
    made = build(world(), node, given, IMAGE)
    ports = [{"uid": "port-uid", "state": "Active" if state == "Running" else "Down"}]
    return NodeInstance.model_validate(
        made.to_dict()
        | {"status": {"state": state, "observedGeneration": 1, "ports": ports, **status}}
        | {"metadata": made.metadata.to_dict() | {"generation": 1, "uid": "work-uid", "resourceVersion": "9"}}
    )


def names(actions: Iterable[object]) -> list[str]:
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize(
    ("seen", "actions"),
    [
        (world(with_port=False), ["MakePort"]),
        (world(), ["Allocate"]),
        (world(allocations={"node2": allocation()}), ["Bind"]),
        (world(allocations={"node2": allocation(vcpus=4)}), ["Release"]),  # flavorRef changed before the node was fixed
        (world(on_node(), allocations={"node1": allocation()}), ["MakeWork"]),
        (world(on_node(), allocations={"node1": allocation(), "node2": allocation()}), ["Release"]),
        (world(on_node()), ["Allocate"]),
        (world(on_node(), allocations={"node1": allocation()}, work=(work(),)), []),
        (world(on_node(), work=(work(),)), ["Allocate"]),
        (world(on_node(powerState="Stopped"), allocations={"node1": allocation()}, work=(work(),)), ["UpdateWork"]),
        (world(instance(powerState="Paused"), with_port=False), []),
        (world(instance(serverGroupRef={"name": "x"}), with_port=False), []),
        (world(with_port=None), []),
        (world(image=None), []),
    ],
)
def test_one_step_after_the_other(seen: World, actions: list[str]) -> None:
    assert names(todo.plan(seen).actions) == actions


def test_the_finalizer_comes_before_all_that_is_made() -> None:
    bare = instance()
    bare.metadata.finalizers = []
    assert names(todo.plan(world(bare, with_port=False)).actions) == ["AddFinalizer"]


def test_the_node_is_fixed_together_with_what_the_user_sees() -> None:
    planned = todo.plan(world(allocations={"node2": allocation()}, scheduling_since=NOW - timedelta(seconds=1)))
    (bind,) = planned.actions
    assert isinstance(bind, todo.Bind)
    status = bind.status
    assert (status.node_name, status.phase, status.image) == ("node2", InstancePhase.BUILDING, "tiny")
    assert status.flavor == EffectiveFlavor(name="small", vcpus=1, memory=GI, root_disk=2 * GI)
    assert [(t.phase, t.at) for t in status.phase_transitions] == [
        (InstancePhase.SCHEDULING, NOW - timedelta(seconds=1)),
        (InstancePhase.BUILDING, NOW),
    ]
    assert [a.ip for a in status.addresses] == ["10.0.1.50"]


def test_once_the_node_is_fixed_a_full_one_is_waited_for_and_no_other_taken() -> None:
    full = (replace(HOSTS[0], allocated=Amount(8, 16 * GI, 0)), HOSTS[1])
    planned = todo.plan(world(on_node(), hosts=full))
    assert not planned.actions
    assert planned.status is not None
    assert planned.status.node_name == "node1"
    told = find_condition(planned.status.conditions, "Ready")
    assert told is not None
    assert told.reason == "NoValidHost"
    assert waits_for_room(planned.status)
    assert not waits_for_room(on_node().status)


@given(st.sets(st.sampled_from(["node1", "node2", "node3"])), st.booleans(), st.booleans(), st.booleans())
def test_never_a_work_object_without_its_entry_nor_one_beside_another(
    entries: set[str], is_bound: bool, has_work: bool, disabled: bool
) -> None:
    of = on_node() if is_bound or has_work else instance()
    seen = world(of, allocations={node: allocation() for node in entries}, work=(work(),) if has_work else ())
    if disabled:
        tenant = {"metadata": {"name": "acme"}, "spec": {"enabled": False}}
        seen = replace(seen, tenant=Tenant.model_validate(tenant))
    for action in todo.plan(seen).actions:
        if isinstance(action, todo.MakeWork):
            assert not has_work
            assert entries == {"node1"}
            assert is_bound
        if isinstance(action, todo.Bind):
            assert not is_bound
            assert action.status.node_name in entries
        if isinstance(action, todo.Release):
            assert action.node != of.status.node_name
        if isinstance(action, todo.Allocate):
            assert not entries - {action.node}


def test_waiting_is_told_when_it_lasts_and_trouble_at_once() -> None:
    fresh = instance()
    fresh.metadata.creation_timestamp = NOW - timedelta(seconds=1)
    planned = todo.plan(world(fresh, image=None))
    assert (planned.status, planned.again) == (None, 2.0)
    stuck = todo.plan(
        world(fresh, flavor=FLAVOR.model_copy(update={"spec": FLAVOR.spec.model_copy(update={"swap": GI})}))
    )
    assert stuck.status is not None
    assert stuck.status.phase is InstancePhase.ERROR


def test_a_retry_of_the_same_changes_nothing_in_the_status() -> None:
    seen = world(image=None)
    first = todo.plan(seen).status
    assert first is not None
    later = replace(seen, instance=seen.instance.model_copy(update={"status": first}), now=NOW + timedelta(minutes=5))
    assert todo.plan(later).status == first


def test_every_problem_is_told_at_once() -> None:
    planned = todo.plan(world(flavor=None, image=None))
    assert planned.status is not None
    told = find_condition(planned.status.conditions, "Ready")
    assert told is not None
    assert told.reason == "FlavorNotFound"
    assert "Flavor small does not exist" in told.message
    assert "Image tiny does not exist in namespace acme: create it" in told.message


@pytest.mark.parametrize(
    ("changes", "status", "phase", "verdict", "reason"),
    [
        ({}, {"state": "Running"}, "Active", State.READY, "Running"),
        ({}, {"state": "Building"}, "Building", State.WAITING, "Building"),
        ({}, {"state": "Downloading", "progress": 40}, "Building", State.WAITING, "Downloading"),
        ({}, {"state": "Running", "observedGeneration": 0}, "Active", State.WAITING, "Applying"),
        ({}, {"state": "Running", "ports": []}, "Active", State.WAITING, "NetworkNotReady"),
        ({"power_state": PowerState.STOPPED}, {"state": "Running"}, "Active", State.WAITING, "Stopping"),
        ({"power_state": PowerState.STOPPED}, {"state": "Stopped"}, "Stopped", State.READY, "Stopped"),
        ({}, {"state": "Stopped"}, "Stopped", State.WAITING, "Starting"),
        ({"restart_policy": RestartPolicy.NEVER}, {"state": "Stopped"}, "Stopped", State.STALLED, "GuestStopped"),
        ({}, {"state": "Crashed"}, "Error", State.WAITING, "GuestCrashed"),
        ({"restart_policy": RestartPolicy.NEVER}, {"state": "Crashed"}, "Error", State.STALLED, "GuestCrashed"),
        ({}, {"state": "Error", "reason": "NoSpace", "message": "disk full"}, "Error", State.STALLED, "NoSpace"),
        ({}, {"state": "Paused"}, "Paused", State.WAITING, "Applying"),
    ],
)
def test_roll_up(changes: dict, status: dict, phase: str, verdict: State, reason: str) -> None:
    seen = work(**status)
    seen.spec = seen.spec.model_copy(update=changes)
    found = roll_up(seen)
    assert (found.phase, found.verdict.state, found.verdict.reason) == (phase, verdict, reason)


def test_an_unreachable_node_makes_everything_unknown() -> None:
    planned = todo.plan(
        world(on_node(), allocations={"node1": allocation()}, work=(work(),), nodes_up={"node1": False})
    )
    assert planned.status is not None
    for type_ in ("Ready", "Running", "NetworkReady"):
        told = find_condition(planned.status.conditions, type_)
        assert told is not None
        assert (told.status, told.reason) == (ConditionStatus.UNKNOWN, "NodeUnreachable")
    assert planned.status.phase is InstancePhase.ACTIVE


def test_the_work_object_is_complete() -> None:
    of = instance(hostname="www", metadata={"a": "b"}, userData="hi")
    spec = build(world(of), "node1", EffectiveFlavor(name="small", vcpus=1, memory=GI, root_disk=2 * GI), IMAGE).spec
    assert spec.machine.disk_bus == "scsi"
    assert spec.machine.os_type == "windows"
    assert spec.machine.vif_model == "virtio"
    assert spec.root_disk.image.url == "https://image:8774/v1/images/" + "ab" * 32
    assert spec.metadata.hostname == "www"
    (nic,) = spec.ports
    assert nic.to_dict() == {
        "name": "eth0",
        "uid": "port-uid",
        "portName": "web-eth0",
        "macAddress": "fa:16:3e:00:00:50",
        "portSecurity": True,
        "network": {
            "uid": "network-uid",
            "name": "internal",
            "type": "VXLAN",
            "segmentationID": 10000,
            "mtu": 1450,
        },
        "fixedIPs": [{"ip": "10.0.1.50", "subnetUID": "subnet-uid"}],
        "subnets": [
            {
                "uid": "subnet-uid",
                "name": "v4",
                "cidr": "10.0.1.0/24",
                "gateway": "10.0.1.1",
                "dhcp": True,
                "dhcpServerIP": "10.0.1.2",
                "dhcpServerMAC": "fa:16:3e:00:00:02",
                "dnsNameservers": ["9.9.9.9"],
                "hostRoutes": [],
            }
        ],
        "allowedAddressPairs": [],
        "securityGroupUIDs": ["group-uid"],
    }


def test_what_is_gone_is_not_taken_from_a_guest_that_has_it() -> None:
    present = work()
    without = world(on_node(metadata={"new": "value"}), image=None, flavor=None)
    lost = replace(without, cards=(replace(without.cards[0], network=None, subnets=(), port=None),))
    spec = updated(lost, present)
    assert spec.ports == present.spec.ports
    assert spec.root_disk == present.spec.root_disk
    assert spec.metadata.properties == {"new": "value"}


def test_a_subnets_change_reaches_the_guest() -> None:
    changed = SUBNET.model_copy(deep=True)
    changed.spec.dns_nameservers = ["1.1.1.1"]
    seen = world(on_node())
    seen = replace(seen, cards=(replace(seen.cards[0], subnets=(changed,)),))
    assert updated(seen, work()).ports[0].subnets[0].dns_nameservers == ["1.1.1.1"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"flavorRef": {"name": "large"}}, "spec.flavorRef: .* set it back to small"),
        ({"networks": []}, "spec.networks: .* set them back to eth0"),
        ({"requestedNode": "node2"}, "spec.requestedNode: .* set it back to node1"),
        ({"requestedNode": "node1"}, None),
        ({"powerState": "Stopped"}, None),
    ],
)
def test_changes_that_cannot_be_made(spec: dict, says: str | None) -> None:
    found = unsupported_change(world(on_node(**spec)), work())
    if says is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(says, found.verdict.message)


def test_another_image_cannot_be_had() -> None:
    found = unsupported_change(world(on_node(), image_key=Key("acme", "other")), work())
    assert found is not None
    assert "set it back to acme/tiny" in found.verdict.message


def test_a_plain_spec_is_supported() -> None:
    assert unsupported_spec(instance(schedulerHints={"differentHost": ["db"]}, requestedNode="node1")) is None


def deleted() -> Instance:
    of = on_node()
    of.metadata.deletion_timestamp = NOW - timedelta(seconds=10)
    return of


@pytest.mark.parametrize(
    ("seen", "steps", "says"),
    [
        (world(deleted(), work=(work(),), allocations={"node1": allocation()}), ["DropWork"], "Node node1 removes"),
        (world(deleted(), allocations={"node1": allocation()}), ["ConfirmGone", "Release"], None),
        (world(deleted()), ["DropPort"], "waits for its ports to go: web-eth0"),
        (world(deleted(), with_port=False), ["ConfirmGone", "RemoveFinalizer"], None),
        (
            world(deleted(), work=(work(),), nodes_up={"node1": False}),
            ["DropWork"],
            "remove the finalizer node.kumulus.dev/agent from NodeInstance uid-1",
        ),
    ],
)
def test_deletion_goes_step_by_step(seen: World, steps: list[str], says: str | None) -> None:
    planned = gone.plan_deletion(seen)
    assert names(planned.steps) == steps
    if says is None:
        assert planned.status is None
    else:
        assert planned.status is not None
        assert planned.status.phase is InstancePhase.DELETING
        told = find_condition(planned.status.conditions, "Ready")
        assert told is not None
        assert says in told.message


def test_events_are_of_transitions() -> None:
    def status(phase: str, reason: str, *, node: str | None = "node1", stalled: bool = False) -> InstanceStatus:
        shared = {"reason": reason, "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        conditions = [{"type": "Ready", "status": "False", **shared}]
        if stalled:
            conditions.append({"type": "Stalled", "status": "True", **shared})
        return InstanceStatus.model_validate({"phase": phase, "nodeName": node, "conditions": conditions})

    fresh, built = status("Pending", "Pending", node=None), status("Building", "Building")
    active, failed = status("Active", "Running"), status("Error", "NoSpace", stalled=True)

    def told(old: InstanceStatus, new: InstanceStatus) -> list[str]:
        return [story.reason for story in events_between(old, new)]

    assert told(fresh, built) == ["Scheduled"]
    assert told(built, active) == ["Started"]
    assert told(active, active) == []
    assert told(active, failed) == ["NoSpace"]
    assert told(failed, failed) == []
    assert told(active, status("Stopped", "Stopped")) == ["Stopped"]


def test_long_names_of_ports_stay_valid_and_distinct() -> None:
    long = "i" * 63
    assert port_name("web-1", "eth0") == "web-1-eth0"
    made = {port_name(long, card) for card in ("eth0", "eth1", "e" * 63)}
    assert len(made) == 3
    assert max(map(len, made)) <= 63
