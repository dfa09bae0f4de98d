"""Frames between guests of two nodes on the real kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from network_desired import Cloud, network, port, uid
from network_world import World

from hostagent.network.addresses import link_local
from hostagent.network.model import FixedIP

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


async def test_guests_of_two_nodes_reach_each_other_over_vxlan(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", "fa:16:3e:00:00:0a", "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b", "open"), two.underlay_ip)
    for node in (one, two):
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert report.ok, report.problems
    guest_a, guest_b = await one.boot(a.uid, a.mac), await two.boot(b.uid, b.mac)
    guest_a.configure("10.0.1.10/24")
    guest_b.configure("10.0.1.11/24")
    assert guest_a.pings("10.0.1.11", 3)
    for node in (one, two):
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert report.operations == ()
        assert {each.state for each in report.ports.values()} == {"Active"}


async def test_equal_addresses_in_two_networks_never_meet(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    blue, red = network("blue", 7), network("red", 8)
    cloud = Cloud([blue, red])
    ports = {}
    for name, net, ip, mac, node in (
        ("blue-a", blue, "10.0.1.10", "fa:16:3e:00:00:0a", one),
        ("blue-b", blue, "10.0.1.11", "fa:16:3e:00:00:0b", two),
        ("red-a", red, "10.0.1.10", "fa:16:3e:00:00:0a", one),
        ("red-b", red, "10.0.1.12", "fa:16:3e:00:00:0b", two),
    ):
        ports[name] = (cloud.place(port(name, net, ip, mac, "open"), node.underlay_ip), node, ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guests = {}
    for name, (each, node, ip) in ports.items():
        guests[name] = await node.boot(each.uid, each.mac)
        guests[name].configure(f"{ip}/24")
    for name, neighbour, stranger in (("blue-a", "10.0.1.11", "10.0.1.12"), ("red-a", "10.0.1.12", "10.0.1.11")):
        assert guests[name].pings(neighbour)
        assert not guests[name].pings(stranger)


async def test_frames_as_long_as_the_network_says_pass_whole(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue", mtu=1500)  # the underlay takes 1600
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", "fa:16:3e:00:00:0a", "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b", "open"), two.underlay_ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest_a, guest_b = await one.boot(a.uid, a.mac, 1500), await two.boot(b.uid, b.mac, 1500)
    guest_a.configure("10.0.1.10/24")
    guest_b.configure("10.0.1.11/24")
    longest = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(1500 - 28), "10.0.1.11"]
    assert guest_a.run(*longest, check=False).returncode == 0


def drain(heard: socket.socket) -> list[bytes]:
    """What a non-blocking socket has received."""
    frames: list[bytes] = []
    while True:
        try:
            frames.append(heard.recv(65536))
        except BlockingIOError:
            return frames


async def test_ipv6_works_across_nodes_with_neighbours_answered_on_the_spot(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue")
    subnet = replace(net.subnets[0], uid=uid("blue-v6"), cidr="fd00:1::/64", gateway=None, dhcp=False)
    net = replace(net, subnets=(net.subnets[0], subnet))
    cloud = Cloud([net])
    places = {}
    for name, number, node in (("a", 10, one), ("b", 11, two)):
        made = port(name, net, f"10.0.1.{number}", f"fa:16:3e:00:00:{number:02x}", "open")
        made = replace(made, fixed_ips=(*made.fixed_ips, FixedIP(subnet.uid, f"fd00:1::{number}")))
        places[name] = (cloud.place(made, node.underlay_ip), node)
    for node in (one, two):
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert report.ok, report.problems
    guests = {}
    for name, (each, node) in places.items():
        guests[name] = await node.boot(each.uid, each.mac)
        guests[name].configure(f"{each.fixed_ips[0].ip}/24", f"{each.fixed_ips[1].ip}/64")
    with guests["b"].raw_socket() as heard:
        heard.setblocking(False)
        assert guests["a"].pings("10.0.1.11")
        assert guests["a"].pings("fd00:1::11")
        frames = drain(heard)
    from_a = [frame for frame in frames if frame[6:12] == bytes.fromhex("fa163e00000a")]
    assert [frame for frame in from_a if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01"] == [], (
        "ARP requests"
    )
    assert [frame for frame in from_a if frame[12:14] == b"\x86\xdd" and frame[54] == 135 and frame[0] == 0x33] == []
    # Link-local addresses are in no forwarding entry; they are asked for across the overlay.
    assert guests["a"].pings(f"{link_local('fa:16:3e:00:00:0b')}%eth0")
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).operations == ()


async def test_a_port_that_moves_is_reached_at_its_new_node(world: World) -> None:
    one, two, three = world.node("one"), world.node("two"), world.node("three")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", "fa:16:3e:00:00:0a", "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b", "open"), two.underlay_ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest = await one.boot(a.uid, a.mac)
    guest.configure("10.0.1.10/24")
    old = await two.boot(b.uid, b.mac)
    old.configure("10.0.1.11/24")
    assert guest.pings("10.0.1.11")

    old.pull_the_plug()
    cloud.place(b, three.underlay_ip)
    for node in (one, two, three):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    new = await three.boot(b.uid, b.mac)
    new.configure("10.0.1.11/24")
    assert guest.pings("10.0.1.11")
    assert (await two.dataplane.tap_state(b.uid)).place == "Absent"
