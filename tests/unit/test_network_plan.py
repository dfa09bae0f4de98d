"""The planner of the data plane on values alone."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.network import names, ruleset
from hostagent.network.addresses import collapse, link_local
from hostagent.network.allocate import Numbers, allocate
from hostagent.network.check import checked
from hostagent.network.dhcp import configuration_name, dhcp_files, loaded_hash
from hostagent.network.links import PARENT_SYSCTLS, may_suppress, planned_networks, vteps
from hostagent.network.losses import pending, stale_connections, with_pending
from hostagent.network.model import (
    AddressPair,
    DesiredNode,
    FixedIP,
    ForwardingEntry,
    HostRoute,
    Network,
    NetworkEntries,
    NetworkType,
    Port,
    Rule,
    SecurityGroup,
    Subnet,
)
from hostagent.network.nft_table import Chain, Table, fingerprint
from hostagent.network.operations import (
    DeleteLink,
    DetachLink,
    EndConnections,
    Filter,
    ReloadDhcp,
    SetLink,
    StartDhcp,
)
from hostagent.network.plan import Places, plan
from hostagent.network.state import Child, DhcpProcess, ForwardingDatabaseEntry, Link, Neighbour, NodeState
from hostagent.network.tables import build, port_addresses
from hostagent.network.underlay import underlay_table

PLACES = Places(Path("/run/k"), Path("/var/k"))
BLUE = "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a"
RED = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b"
ONE = "10000000-0000-0000-0000-000000000001"
TWO = "20000000-0000-0000-0000-000000000002"
WEB = "aaaaaaaa-0000-0000-0000-000000000003"
SSH = Rule("Ingress", "IPv4", "tcp", 22, 22)
HTTP = Rule("Ingress", "IPv4", "tcp", 80, 80)


def subnet(**changes: object) -> Subnet:
    made = Subnet("s1", "10.0.1.0/24", "10.0.1.1", True, "10.0.1.2", "fa:16:3e:ff:00:02", ("9.9.9.9",))
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Subnet


def network(uid: str = BLUE, **changes: object) -> Network:
    made = Network(uid, NetworkType.VXLAN, 1450, segmentation_id=7 if uid == BLUE else 8, subnets=(subnet(),))
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Network


def port(uid: str = ONE, **changes: object) -> Port:
    made = Port(
        uid, BLUE, "i", f"fa:16:3e:00:00:{uid[:2]}", (FixedIP("s1", f"10.0.1.{uid[:2]}"),), security_groups=(WEB,)
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields of Port


def node(**changes: object) -> DesiredNode:
    made = DesiredNode(
        "172.30.0.1",
        networks=(network(),),
        ports=(port(),),
        groups=(SecurityGroup(WEB, (SSH,), ("10.0.1.10",)),),
        entries=(NetworkEntries(BLUE, (ForwardingEntry("fa:16:3e:00:00:20", "172.30.0.2", ("10.0.1.20",)),)),),
    )
    result, problems = checked(replace(made, **changes))  # type: ignore[arg-type]  # fields of DesiredNode
    assert problems == ()
    return result


def read_back(table: Table) -> Table:
    chains = {
        name: Chain(tuple(fingerprint(rule) for rule in chain.rules), chain.hook)
        for name, chain in table.chains.items()
    }
    return replace(table, chains=chains)


def realised(desired: DesiredNode, *, taps: bool = True) -> NodeState:
    """What is observed once `desired` has been realised, with every tap attached."""
    networks = planned_networks(desired, PLACES.run_dir, PLACES.state_dir, PLACES.namespace)
    numbers = allocate(
        (names.tap(each.uid) for each in desired.ports),
        (names.bridge(each.uid) for each in desired.networks),
        Numbers(),
    )
    tables = build(desired, numbers)
    links: dict[str, Link] = {}
    children: dict[str, Child] = {}
    for each in networks:
        links |= {device.name: replace(device, mac=None) for device in each.devices}
        if taps:
            links |= {name: replace(tap, held=True) for name, tap in each.taps.items()}
        process = None
        if each.child.dhcp:
            process = DhcpProcess(42, configuration_name(each.child.dhcp), loaded_hash(each.child.dhcp))
        children[each.child.namespace] = replace(each.child, dhcp=None, process=process)
    return NodeState(
        namespace=True,
        sysctls=PARENT_SYSCTLS,
        bridge_table=read_back(tables.bridge),
        inet_table=read_back(tables.inet),
        underlay_table=read_back(
            underlay_table(PLACES.underlay_table, desired.vxlan_port, ["eth0"], vteps(desired)),
        ),
        links=links,
        forwarding=frozenset(
            entry for each in networks for entry in each.forwarding if taps or not entry.device.startswith("tap")
        ),
        neighbours=frozenset(entry for each in networks for entry in each.neighbours),
        children=children,
        host_links={"eth0": Link("eth0", "", 1500, addresses=("172.30.0.1",))},
        stray_directories=frozenset(names.short_id(each.uid) for each in networks if each.child.dhcp),
    )


def test_what_is_realised_needs_no_step() -> None:
    desired = node(ports=(port(), port(TWO, port_security=False, security_groups=())))
    made = plan(desired, realised(desired), PLACES)
    assert made.operations == ()
    assert made.problems == ()


def test_rules_come_before_devices_and_taps_last() -> None:
    desired = node()
    before = replace(realised(desired, taps=False), bridge_table=None, inet_table=None)
    tap = names.tap(ONE)
    before = replace(before, links=dict(before.links) | {tap: Link(tap, "tun", 1500, up=False, held=True)})
    steps = plan(desired, before, PLACES).operations
    kinds = [type(each) for each in steps]
    assert kinds.index(Filter) < kinds.index(SetLink)
    (change,) = (each for each in steps if isinstance(each, SetLink))
    assert (change.name, change.mtu, change.master, change.up) == (tap, 1450, names.bridge(BLUE), True)


def test_a_tap_that_nobody_holds_is_left_as_it_is() -> None:
    desired = node()
    before = realised(desired)
    tap = names.tap(ONE)
    idle = replace(before.links[tap], held=False, up=False, master=None)
    before = replace(before, links=dict(before.links) | {tap: idle})
    assert plan(desired, before, PLACES).operations == ()


def test_an_undesired_tap_is_deleted_or_cut_off_when_held() -> None:
    before = realised(node(ports=(port(), port(TWO))))
    after = plan(node(), before, PLACES)
    assert after.lingering == (names.tap(TWO),)
    assert DetachLink("", names.tap(TWO)) in after.operations
    free = replace(before.links[names.tap(TWO)], held=False)
    after = plan(node(), replace(before, links=dict(before.links) | {free.name: free}), PLACES)
    assert after.lingering == ()
    assert DeleteLink("", names.tap(TWO)) in after.operations


def test_a_changed_vni_replaces_the_device() -> None:
    before = realised(node())
    steps = plan(node(networks=(network(segmentation_id=9),)), before, PLACES).operations
    vx = names.vxlan(BLUE)
    assert [
        type(each).__name__ for each in steps if getattr(each, "name", "") == vx or "Create" in type(each).__name__
    ] == [
        "DeleteLink",
        "CreateLink",
        "SetLink",
    ]


def test_dhcp_is_reloaded_for_bindings_and_restarted_for_ranges() -> None:
    before = realised(node())
    steps = plan(node(ports=(port(), port(TWO))), before, PLACES).operations
    assert any(isinstance(each, ReloadDhcp) and each.pid == 42 for each in steps)
    steps = plan(node(networks=(network(mtu=1400),)), before, PLACES).operations
    assert any(isinstance(each, StartDhcp) and each.replace_pid == 42 for each in steps)


def test_the_missing_underlay_address_is_told() -> None:
    desired = node()
    made = plan(desired, replace(realised(desired), host_links={}), PLACES)
    assert [problem.reason for problem in made.problems] == ["UnderlayAddressMissing"]


# What may no longer pass leaves conntrack.


def losses(old: DesiredNode, new: DesiredNode) -> set[tuple[int, str]]:
    before = realised(old)
    numbers = plan(new, before, PLACES).numbers
    tables = build(new, numbers)
    return stale_connections(before.bridge_table, before.inet_table, tables.bridge, tables.inet)


WHOLE = {(1, "10.0.1.10"), (1, link_local("fa:16:3e:00:00:10"))}
FRIENDS = "bbbbbbbb-0000-0000-0000-000000000004"
BY_FRIENDS = Rule("Ingress", "IPv4", remote_group=FRIENDS)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (node(), node(), set()),
        (node(), node(groups=(SecurityGroup(WEB, (SSH, HTTP)),)), set()),
        (node(groups=(SecurityGroup(WEB, (SSH, HTTP)),)), node(), WHOLE),
        (node(), node(groups=()), WHOLE),
        (node(), node(ports=(port(security_groups=()),)), WHOLE),
        (node(), node(ports=(port(port_security=False),)), WHOLE),
        (node(ports=(port(), port(TWO))), node(ports=(port(TWO),)), WHOLE),
        (
            node(ports=(port(allowed_address_pairs=(AddressPair("10.0.9.0/24"),)),)),
            node(),
            {(1, "10.0.9.0/24")},
        ),
        (
            node(groups=(SecurityGroup(WEB, (BY_FRIENDS,)), SecurityGroup(FRIENDS, (), ("10.0.7.7", "10.0.7.8")))),
            node(groups=(SecurityGroup(WEB, (BY_FRIENDS,)), SecurityGroup(FRIENDS, (), ("10.0.7.8",)))),
            {(1, "10.0.7.7")},
        ),
        (node(), DesiredNode("172.30.0.1"), WHOLE | {(1, "0.0.0.0/0"), (1, "::/0")}),
    ],
)
def test_losses(old: DesiredNode, new: DesiredNode, expected: set[tuple[int, str]]) -> None:
    assert losses(old, new) == expected


def test_what_an_earlier_agent_left_to_end_is_ended() -> None:
    desired = node()
    before = realised(desired)
    assert before.bridge_table is not None
    noted = with_pending(before.bridge_table, {(1, "10.0.1.10"), (1, "fe80::1")})
    assert pending(noted) == {(1, "10.0.1.10"), (1, "fe80::1")}
    made = plan(desired, replace(before, bridge_table=noted), PLACES)
    assert made.operations == (EndConnections("", ((1, "10.0.1.10"), (1, "fe80::1"))),)


# Numbers.


def test_numbers_are_kept_and_freed_ones_not_given_again_at_once() -> None:
    seen = Numbers({"tapa": 1, "tapb": 2}, {"brx": 1})
    made = allocate(["tapb", "tapc"], ["brx", "bry"], seen)
    assert made.indices == {"tapb": 2, "tapc": 3}
    assert made.zones == {"brx": 1, "bry": 2}


@given(st.integers(1, ruleset.MAX_INDEX))
def test_metadata_addresses_are_numbers(index: int) -> None:
    address = ruleset.metadata_address(index)
    assert ipaddress.ip_address(address) in ipaddress.ip_network(ruleset.METADATA_RANGE)
    assert ruleset.metadata_index(address) == index


# Addresses.


@given(st.lists(st.integers(0, 255), max_size=20))
def test_collapse_covers_the_same_addresses(hosts: list[int]) -> None:
    given_ = [f"10.0.0.{each}" for each in hosts]
    found = collapse(given_)
    assert {str(ip) for each in found for ip in ipaddress.ip_network(each)} == set(given_)
    assert collapse(found) == found


def test_a_port_may_send_from_its_addresses_and_pairs() -> None:
    pairs = (AddressPair("10.0.1.0/28"), AddressPair("fd00::5", "fa:16:3e:00:00:99"))
    assert port_addresses(port(allowed_address_pairs=pairs)) == {
        "fa:16:3e:00:00:10": ["10.0.1.0/28", "fe80::f816:3eff:fe00:10"],
        "fa:16:3e:00:00:99": ["fd00::5", "fe80::f816:3eff:fe00:99"],
    }


# Devices.


def test_forwarding_knows_remote_ports_alone() -> None:
    mine = ForwardingEntry("fa:16:3e:00:00:10", "172.30.0.1", ("10.0.1.10",))
    moving = [ForwardingEntry("fa:16:3e:00:00:33", f"172.30.0.{n}", ("10.0.1.33",)) for n in (3, 2)]
    desired = node(entries=(NetworkEntries(BLUE, (mine, *moving)),))
    (planned,) = planned_networks(desired, PLACES.run_dir, PLACES.state_dir, "kumulus")
    vx = names.vxlan(BLUE)
    assert {each for each in planned.forwarding if each.device == vx} == {
        ForwardingDatabaseEntry(vx, "00:00:00:00:00:00", "172.30.0.2"),
        ForwardingDatabaseEntry(vx, "00:00:00:00:00:00", "172.30.0.3"),
        ForwardingDatabaseEntry(vx, "fa:16:3e:00:00:33", "172.30.0.2"),
        ForwardingDatabaseEntry(vx, "fa:16:3e:00:00:33"),
    }
    assert planned.neighbours == {Neighbour(names.bridge(BLUE), "10.0.1.33", "fa:16:3e:00:00:33")}
    assert vteps(desired) == {"172.30.0.2", "172.30.0.3"}


def test_addresses_that_may_move_are_not_answered_for() -> None:
    holder = port(allowed_address_pairs=(AddressPair("10.0.1.16/28"),))
    (planned,) = planned_networks(node(ports=(holder,)), PLACES.run_dir, PLACES.state_dir, "kumulus")
    assert planned.neighbours == frozenset()
    assert not may_suppress([holder])
    assert not may_suppress([port(port_security=False)])
    assert may_suppress([port()])


# DHCP.


def test_dhcp_files() -> None:
    net = network(subnets=(subnet(host_routes=(HostRoute("10.9.0.0/16", "10.0.1.5"),)),), dns_domain="example.org")
    found = dhcp_files(net, [port(hostname="web"), port(TWO)], PLACES.run_dir, PLACES.state_dir)
    assert found
    assert found.hosts == ("fa:16:3e:00:00:10,id:*,10.0.1.10,web,86400\nfa:16:3e:00:00:20,id:*,10.0.1.20,86400\n")
    routes = "169.254.169.254/32,10.0.1.2,10.9.0.0/16,10.0.1.5,0.0.0.0/0,10.0.1.1"
    assert [line.partition(",")[2] for line in found.options.splitlines()] == [
        "option:router,10.0.1.1",
        f"option:classless-static-route,{routes}",
        f"249,{routes}",
        "option:dns-server,9.9.9.9",
        "option:domain-name,example.org",
    ]
    assert "dhcp-option-force=option:mtu,1450\n" in found.arguments
    assert dhcp_files(network(subnets=(subnet(dhcp=False),)), [], PLACES.run_dir, PLACES.state_dir) is None


# What enters.


@pytest.mark.parametrize(
    ("changes", "subject", "reason"),
    [
        ({"ports": (port(mac='fa:16:3e:00:00:10"; drop'),)}, ONE, "InvalidPort"),
        ({"ports": (port(mac="01:00:5e:00:00:01"),)}, ONE, "InvalidPort"),
        ({"ports": (port(fixed_ips=(FixedIP("s1", "10.0.1.10,evil"),)),)}, ONE, "InvalidPort"),
        ({"ports": (port(network_uid=RED),)}, ONE, "NetworkFailed"),
        ({"ports": (port(), port(ONE[:-1] + "9"))}, ONE[:-1] + "9", "NameCollision"),
        ({"networks": (network(mtu=7),)}, BLUE, "InvalidNetwork"),
        ({"networks": (network(segmentation_id=None),)}, BLUE, "InvalidNetwork"),
        ({"networks": (network(subnets=(subnet(dns_servers=("9.9.9.9\nport=53",)),)),)}, BLUE, "InvalidNetwork"),
        ({"networks": (network(), network(RED, segmentation_id=7))}, RED, "SegmentTaken"),
        (
            {"networks": (network(type=NetworkType.FLAT, segmentation_id=None, physical_network="x"),)},
            BLUE,
            "NoPhysicalNetwork",
        ),
        ({"groups": (SecurityGroup(WEB, (), ("10.0.0.1 }; drop",)),)}, WEB, "InvalidGroup"),
        ({"groups": (SecurityGroup(WEB, (Rule("Ingress", "IPv4", remote_group="x }"),)),)}, WEB, "InvalidGroup"),
        ({"entries": (NetworkEntries(BLUE, (ForwardingEntry("nonsense", "172.30.0.2"),)),)}, BLUE, "InvalidEntry"),
    ],
)
def test_bad_input_is_left_out_alone_and_told(changes: dict[str, object], subject: str, reason: str) -> None:
    desired = replace(node(ports=(port(), port(TWO))), **changes)  # type: ignore[arg-type]  # fields of DesiredNode
    clean, problems = checked(desired)
    assert (subject, reason) in [(problem.subject, problem.reason) for problem in problems]
    assert checked(clean) == (clean, ())
    assert plan(clean, NodeState(), PLACES).operations


def test_names_that_guests_choose_cannot_carry_options() -> None:
    desired = node(networks=(network(dns_domain="evil\nport=53"),), ports=(port(hostname="web\ndhcp-script=/bin/sh"),))
    assert desired.networks[0].dns_domain is None
    assert desired.ports[0].hostname is None


@pytest.mark.parametrize(
    "changes",
    [{"underlay_ip": "nowhere"}, {"vxlan_port": 0}, {"physical_networks": {"public": 'eth0"'}}],
)
def test_a_node_with_wrong_parameters_cannot_be_planned(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not"):
        checked(replace(node(), **changes))  # type: ignore[arg-type]  # fields of DesiredNode
