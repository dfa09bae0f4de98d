"""DHCP as a guest sees it, from dnsmasq on the real kernel."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from network_desired import Cloud, network, port
from network_world import Guest, Node, World

from hostagent.network import names
from hostagent.network.model import HostRoute

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]

MAC_A, MAC_B = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


def ask(guest: Guest, directory: Path, *options: str) -> dict[str, str]:
    """One lease by busybox's client: what it hands to its script. Empty when nobody answers."""
    script, answer = directory / "udhcpc.script", directory / "answer"
    script.write_text(f'#!/bin/sh\n[ "$1" = bound ] && env > {answer}\nexit 0\n')
    script.chmod(0o755)
    answer.unlink(missing_ok=True)
    asked = [each for option in options for each in ("-O", option)]
    client = ["busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "3", "-T", "1", "-s", str(script)]
    guest.run(*client, *asked, check=False)
    lines = answer.read_text().splitlines() if answer.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line)


def dnsmasq_pid(node: Node, network_uid: str) -> int:
    return int((node.config.run_dir / "dhcp" / names.short_id(network_uid) / "dnsmasq.pid").read_text())


async def test_a_guest_gets_its_address_and_options_from_its_own_node(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue", mtu=1400)
    subnet = replace(net.subnets[0], host_routes=(HostRoute("10.9.0.0/16", "10.0.1.5"),))
    net = replace(net, subnets=(subnet,))
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", MAC_B, "open"), two.underlay_ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest = await one.boot(a.uid, MAC_A)
    other = await two.boot(b.uid, MAC_B)

    with other.raw_socket() as heard:
        heard.setblocking(False)
        lease = ask(guest, world.directory, "staticroutes", "mtu", "domain")
        frames = drain(heard)
    assert lease["ip"] == "10.0.1.10"
    assert lease["mask"] == "24"
    assert lease["router"] == "10.0.1.1"
    assert lease["serverid"] == "10.0.1.2"
    assert lease["dns"] == "9.9.9.9"
    assert lease["domain"] == "example.org"
    assert lease["mtu"] == "1400"
    assert lease["hostname"] == "a"
    assert lease["lease"] == "86400"
    assert lease["staticroutes"] == "169.254.169.254/32 10.0.1.2 10.9.0.0/16 10.0.1.5 0.0.0.0/0 10.0.1.1"
    # Neither the guest's broadcast nor the server's answer left the node. (What it says of itself by IPv6 did.)
    assert [frame for frame in frames if frame[12:14] == b"\x08\x00"] == []
    # The server answers pings, and its ARP names the MAC that it has on every node.
    guest.configure("10.0.1.10/24")
    assert guest.pings("10.0.1.2")
    assert "lladdr fa:16:3e:ff:00:02" in guest.run("ip", "neigh", "show", "10.0.1.2").stdout


def drain(heard: object) -> list[bytes]:
    frames = []
    while True:
        try:
            frames.append(heard.recv(65536))  # type: ignore[attr-defined]  # a socket
        except BlockingIOError:
            return frames


async def test_bindings_change_without_a_restart_and_outlive_the_agent(world: World) -> None:
    node = world.node("one")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    pid = dnsmasq_pid(node, net.uid)
    await node.restart_agent()
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).operations == ()
    assert dnsmasq_pid(node, net.uid) == pid

    guest = await node.boot(a.uid, MAC_A)
    guest.run("ip", "link", "set", "eth0", "address", MAC_B)
    assert ask(guest, world.directory) == {}, "a client without a binding got an answer"
    guest.run("ip", "link", "set", "eth0", "address", MAC_A)
    cloud.place(replace(a, fixed_ips=(replace(a.fixed_ips[0], ip="10.0.1.20"),)), node.underlay_ip)
    report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
    assert any(each.startswith("ReloadDhcp") for each in report.operations)
    assert dnsmasq_pid(node, net.uid) == pid
    assert ask(guest, world.directory)["ip"] == "10.0.1.20"

    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        # Readable once it has ended, whether or not somebody has reaped it.
        assert select.select([process], [], [], 10)[0]
    finally:
        os.close(process)
    report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
    assert [each for each in report.operations if "Dhcp" in each] == [f"StartDhcp {child(net.uid)}"]
    assert ask(guest, world.directory)["ip"] == "10.0.1.20"


def child(network_uid: str) -> str:
    return names.child_namespace(network_uid)


async def test_a_subnet_without_gateway_or_dhcp_says_so(world: World) -> None:
    node = world.node("one")
    silent, lonely = network("silent", 7), network("lonely", 8)
    silent = replace(silent, subnets=(replace(silent.subnets[0], dhcp=False),))
    lonely = replace(lonely, subnets=(replace(lonely.subnets[0], gateway=None, dns_servers=()),))
    cloud = Cloud([silent, lonely])
    a = cloud.place(port("a", silent, "10.0.1.10", MAC_A), node.underlay_ip)
    b = cloud.place(port("b", lonely, "10.0.1.10", MAC_B), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert ask(await node.boot(a.uid, MAC_A), world.directory) == {}
    lease = ask(await node.boot(b.uid, MAC_B), world.directory, "staticroutes")
    assert lease["staticroutes"] == "169.254.169.254/32 10.0.1.2"
    assert {"router", "dns"} & lease.keys() == set()


@pytest.mark.parametrize("hostname", ["ignore", "infinite", "1d", "42", "web"])
async def test_a_hostname_is_never_taken_for_an_instruction(world: World, hostname: str) -> None:
    node = world.node("one")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, hostname=hostname), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    lease = ask(await node.boot(a.uid, MAC_A), world.directory)
    assert (lease.get("ip"), lease.get("lease")) == ("10.0.1.10", "86400")


@pytest.mark.parametrize(
    ("domain", "servers", "fit"),
    [
        (None, ("9.9.9.9",), 14),
        (f"{'d' * 60}.example.org", ("9.9.9.9", "9.9.9.10", "9.9.9.11"), 11),
        (".".join(["d" * 50] * 5), ("9.9.9.9",), 0),
    ],
    ids=["no domain", "long names", "names take all"],
)
async def test_routes_that_have_no_room_do_not_break_the_server(
    world: World, domain: str | None, servers: tuple[str, ...], fit: int
) -> None:
    node = world.node("one")
    net = network("blue")
    routes = tuple(HostRoute(f"203.100.{100 + each}.101/32", "10.0.1.105") for each in range(32))
    net = replace(net, dns_domain=domain, subnets=(replace(net.subnets[0], host_routes=routes, dns_servers=servers),))
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, hostname="h" * 63), node.underlay_ip)
    report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
    assert [(each.subject, each.reason) for each in report.problems] == [(net.uid, "TooManyRoutes")]
    assert "203.100.131.101/32" in report.problems[0].message
    assert report.ports[a.uid].programmed
    lease = ask(await node.boot(a.uid, MAC_A), world.directory, "staticroutes")
    assert (lease.get("ip"), lease.get("dns")) == ("10.0.1.10", " ".join(servers))
    told = lease["staticroutes"].split()
    assert told[:2] == ["169.254.169.254/32", "10.0.1.2"]
    assert told[-2:] == ["0.0.0.0/0", "10.0.1.1"]
    assert len(told) == 2 * (fit + 2)
