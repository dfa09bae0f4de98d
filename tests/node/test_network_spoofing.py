"""A guest that forges its addresses gets nothing through, to its own node or another. Honest frames are the control."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import network_frames as frames
import pytest
from network_desired import AddressPair, Cloud, network, port
from network_world import Guest, World, within

from hostagent.network.addresses import link_local
from hostagent.network.model import NetworkType

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]

EVIL, NEAR, FAR = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b", "fa:16:3e:00:00:0c"
OTHER = "fa:16:3e:00:00:99"
SERVER = "fa:16:3e:ff:00:02"
ANY = "0.0.0.0"  # noqa: S104 (an address in a frame, nothing is bound)
MARK = b"kumulus-forgery-test"
LL = link_local(EVIL)
FRAGMENT_FIRST, FRAGMENT_LAST = 0x2000, 0x0003  # more to come; at offset 24


@dataclass
class Stage:
    evil: Guest
    receivers: list[Guest]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


async def staged(world: World, **changes: object) -> Stage:
    one, two = world.node("one"), world.node("two")
    net = network("blue")
    cloud = Cloud([net])
    evil = cloud.place(port("evil", net, "10.0.1.10", EVIL, "open", **changes), one.underlay_ip)
    near = cloud.place(port("near", net, "10.0.1.11", NEAR, "open"), one.underlay_ip)
    far = cloud.place(port("far", net, "10.0.1.12", FAR, "open"), two.underlay_ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest = await one.boot(evil.uid, EVIL)
    receivers = [await one.boot(near.uid, NEAR), await two.boot(far.uid, FAR)]
    for each in (guest, *receivers):
        each.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    return Stage(guest, receivers)


def udp(mac: str, ip: str, sport: int = 1000, dport: int = 2000, to: str = frames.BROADCAST) -> bytes:
    return frames.udp4(mac, to, ip, "10.0.1.255" if to == frames.BROADCAST else "10.0.1.11", sport, dport, MARK)


HONEST = {
    "broadcast datagram": udp(EVIL, "10.0.1.10"),
    "ARP request": frames.arp(EVIL, 1, (EVIL, "10.0.1.10"), (OTHER, "10.0.1.77")),
    "ARP probe for its own address": frames.arp(EVIL, 1, (EVIL, ANY), (OTHER, "10.0.1.10")),
    "IPv6 from its link-local address": frames.ethernet(
        EVIL, "33:33:00:00:00:01", 0x86DD, frames.ipv6(LL, "ff02::1", 17, frames.udp(1, 2, MARK))
    ),
    "neighbour advertisement of its own": frames.ethernet(
        EVIL, "33:33:00:00:00:01", 0x86DD, frames.neighbour_advertisement(LL, "ff02::1", LL, EVIL)
    ),
}

# What the bridge keeps on the node while it answers for the far ports.
SUPPRESSED = {"ARP probe for its own address", "neighbour advertisement of its own"}

WHOLE_ANSWER = frames.udp(67, 68, MARK + bytes(16))
FORGED = {
    "source MAC": udp(OTHER, "10.0.1.10"),
    "another port's MAC": udp(NEAR, "10.0.1.11"),
    "the DHCP server's MAC": udp(SERVER, "10.0.1.2"),
    "source IP": udp(EVIL, "10.0.1.11"),
    "source IP of the server": udp(EVIL, "10.0.1.2"),
    "no source IP": udp(EVIL, ANY),
    "ARP reply for another": frames.arp(EVIL, 2, (EVIL, "10.0.1.11"), (FAR, "10.0.1.12")),
    "ARP reply for the gateway": frames.arp(EVIL, 2, (EVIL, "10.0.1.1"), (NEAR, "10.0.1.11"), NEAR),
    "ARP with another's MAC inside": frames.arp(EVIL, 2, (NEAR, "10.0.1.10"), (FAR, "10.0.1.12")),
    "gratuitous ARP for another": frames.arp(EVIL, 1, (EVIL, "10.0.1.11"), (EVIL, "10.0.1.11")),
    "ARP probe for another's address": frames.arp(EVIL, 1, (EVIL, ANY), (OTHER, "10.0.1.11")),
    "DHCP server's answer": udp(EVIL, "10.0.1.10", 67, 68),
    "DHCP server's answer, unicast": udp(EVIL, "10.0.1.10", 67, 68, NEAR),
    "DHCP server's answer in fragments": frames.ethernet(
        EVIL, NEAR, 0x0800, frames.ipv4("10.0.1.10", "10.0.1.11", 17, WHOLE_ANSWER[:24], fragment=FRAGMENT_FIRST)
    ),
    "its second fragment": frames.ethernet(
        EVIL, NEAR, 0x0800, frames.ipv4("10.0.1.10", "10.0.1.11", 17, WHOLE_ANSWER[24:], fragment=FRAGMENT_LAST)
    ),
    "router advertisement": frames.ethernet(EVIL, "33:33:00:00:00:01", 0x86DD, frames.router_advertisement(LL)),
    "advertisement of another's address": frames.ethernet(
        EVIL, "33:33:00:00:00:01", 0x86DD, frames.neighbour_advertisement(LL, "ff02::1", "fe80::1", EVIL)
    ),
    "advertisement from another's address": frames.ethernet(
        EVIL, "33:33:00:00:00:01", 0x86DD, frames.neighbour_advertisement("fe80::1", "ff02::1", LL, EVIL)
    ),
    "advertisement behind a fragment header": frames.ethernet(
        EVIL,
        "33:33:00:00:00:01",
        0x86DD,
        frames.ipv6(LL, "ff02::1", 44, struct.pack("!BBHI", 60, 0, 1, 7) + b"\x3a\x00\x01\x04\x00\x00\x00\x00"),
    ),
    "IPv6 source": frames.ethernet(
        EVIL, "33:33:00:00:00:01", 0x86DD, frames.ipv6("fe80::1", "ff02::1", 17, frames.udp(1, 2, MARK))
    ),
    "802.1Q tag": frames.tagged(udp(EVIL, "10.0.1.10"), 5),
    "802.1Q tag around ARP": frames.tagged(frames.arp(EVIL, 2, (EVIL, "10.0.1.11"), (FAR, "10.0.1.12")), 0),
    "other ethertype": frames.ethernet(EVIL, frames.BROADCAST, 0x88CC, MARK),
    "loopback as source": udp(EVIL, "127.0.0.1"),
}


async def received(sender: socket.socket, receiver: socket.socket, frame: bytes) -> int:
    """How many frames with the sender's traces arrive, until a control frame that was sent afterwards does."""
    control = udp(EVIL, "10.0.1.10", 7, 7)
    control = control.replace(MARK, b"kumulus-control-frame")
    sender.send(frame)
    sender.send(control)
    count, deadline = 0, time.monotonic() + 3
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = await asyncio.to_thread(select.select, [receiver], [], [], left)
        if not ready:
            break
        got = receiver.recv(65536)
        if b"kumulus-control" in got:
            return count
        if MARK in got or frames.mac_bytes(EVIL) in got or frames.mac_bytes(OTHER) in got:
            count += 1
    raise AssertionError("the control frame did not arrive")


async def test_nothing_forged_arrives_while_honest_frames_do(world: World) -> None:
    stage = await staged(world)
    for receiver in stage.receivers:
        with stage.evil.raw_socket() as sender, receiver.raw_socket() as heard:
            for name, frame in HONEST.items():
                if receiver.mac == FAR and name in SUPPRESSED:
                    continue
                assert await received(sender, heard, frame) == 1, name
            for name, frame in FORGED.items():
                assert await received(sender, heard, frame) == 0, name


async def test_allowed_address_pairs_may_be_sent_from_and_announced_to_other_nodes(world: World) -> None:
    pairs = (AddressPair("10.0.1.99"), AddressPair("10.0.2.0/24"), AddressPair("10.0.1.98", OTHER))
    stage = await staged(world, allowed_address_pairs=pairs)
    allowed = {
        "the address": udp(EVIL, "10.0.1.99"),
        "one of the range": udp(EVIL, "10.0.2.7"),
        "the other MAC": udp(OTHER, "10.0.1.98"),
        "gratuitous ARP": frames.arp(EVIL, 1, (EVIL, "10.0.1.99"), (EVIL, "10.0.1.99")),
        "gratuitous ARP reply": frames.arp(EVIL, 2, (EVIL, "10.0.1.99"), (frames.BROADCAST, "10.0.1.99")),
    }
    refused = {
        "the pair's MAC with its own address": udp(OTHER, "10.0.1.99"),
        "its own MAC with that pair's address": udp(EVIL, "10.0.1.98"),
        "outside the range": udp(EVIL, "10.0.3.7"),
    }
    for receiver in stage.receivers:
        with stage.evil.raw_socket() as sender, receiver.raw_socket() as heard:
            for name, frame in allowed.items():
                assert await received(sender, heard, frame) == 1, name
            for name, frame in refused.items():
                assert await received(sender, heard, frame) == 0, name


async def test_a_port_without_port_security_may_forge_but_not_be_the_server(world: World) -> None:
    stage = await staged(world, port_security=False, security_groups=())
    near = stage.receivers[0]
    with stage.evil.raw_socket() as sender, near.raw_socket() as heard:
        assert await received(sender, heard, udp(OTHER, "10.0.7.7")) == 1
        assert await received(sender, heard, udp(SERVER, "10.0.1.2")) == 0
        assert await received(sender, heard, frames.tagged(udp(OTHER, "10.0.7.7"), 5)) == 0, "past its rules"


@pytest.mark.parametrize(("dhcp", "heard"), [(True, 0), (False, 1)])
async def test_a_dhcp_server_on_the_provider_s_wire_is_heard_only_where_it_is_the_server(
    world: World, dhcp: bool, heard: int
) -> None:
    node = world.node("one")
    net = network("public")
    subnet = replace(net.subnets[0], dhcp=dhcp)
    net = replace(net, type=NetworkType.FLAT, segmentation_id=None, physical_network="public", subnets=(subnet,))
    cloud = Cloud([net])
    near = cloud.place(port("near", net, "10.0.1.11", NEAR, "open"), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest = await node.boot(near.uid, NEAR)

    def on_the_wire() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        made.bind(("public", 0))
        return made

    with within(world.switch_path, on_the_wire) as wire, guest.raw_socket() as receiver:
        assert await received(wire, receiver, udp(OTHER, "10.0.1.200")) == 1
        assert await received(wire, receiver, udp(OTHER, "10.0.1.200", 67, 68)) == heard


async def test_a_device_without_rules_passes_nothing(world: World) -> None:
    """Even one that somebody joined to the bridge by hand."""
    stage = await staged(world)
    node, near = world.nodes[0], stage.receivers[0]
    bridge = next(word for word in node.inside("ip", "-br", "link").split() if word.startswith("br"))
    stage.evil.run("ip", "link", "add", "rogue", "type", "veth", "peer", "name", "rogue0", "netns", str(node.inner))
    node.inside("ip", "link", "set", "rogue0", "master", bridge, "up")
    stage.evil.run("ip", "link", "set", "rogue", "up")
    with stage.evil.raw_socket() as honest, stage.evil.raw_socket() as rogue, near.raw_socket() as heard:
        rogue.bind(("rogue", 0))
        rogue.send(udp(EVIL, "10.0.1.10"))
        assert await received(honest, heard, udp(OTHER, "10.0.1.10")) == 0
        honest.send(udp(EVIL, "10.0.1.10"))
        assert await received(honest, heard, udp(OTHER, "10.0.1.10")) == 1
