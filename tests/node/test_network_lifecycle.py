"""The data plane through time: repeated, interrupted, killed, adopted, removed."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from network_desired import Cloud, network, port
from network_world import Guest, Node, World, within

from hostagent.network import names, netns
from hostagent.network.errors import NotProgrammed, TapInUse, TapMissing
from hostagent.network.execute import Executor
from hostagent.network.model import DesiredNode, NetworkType
from hostagent.network.nft_table import commands
from hostagent.network.observe import observe
from hostagent.network.operations import Operation
from hostagent.network.report import PortState, TapPlace
from hostagent.network.sockets import Sockets
from hostagent.network.state import Child, NodeState

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(90),
]

MAC_A, MAC_B, MAC_C = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b", "fa:16:3e:00:00:0c"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


def busy_cloud(node: Node) -> Cloud:
    """A VXLAN network with a port here and one elsewhere, a second without DHCP, and a flat one."""
    blue, red, public = network("blue", 7), network("red", 8), network("public")
    red = replace(red, subnets=(replace(red.subnets[0], dhcp=False),))
    public = replace(public, type=NetworkType.FLAT, segmentation_id=None, physical_network="public", mtu=1500)
    cloud = Cloud([blue, red, public])
    cloud.place(port("a", blue, "10.0.1.10", MAC_A, "open"), node.underlay_ip)
    cloud.place(port("b", red, "10.0.1.10", MAC_B, "open"), node.underlay_ip)
    cloud.place(port("c", public, "10.0.1.12", MAC_C, "open"), node.underlay_ip)
    cloud.place(port("d", blue, "10.0.1.13", "fa:16:3e:00:00:0d", "open"), "172.30.0.99")
    return cloud


async def state_of(node: Node) -> NodeState:
    """As it is read from the kernel, without what differs from one run to the next."""

    def read() -> NodeState:
        sockets = Sockets(node.config.netns_dir, node.config.namespace, node.path)
        with netns.inside(node.path):
            try:
                return observe(sockets, node.config.run_dir, node.config.underlay_table)
            finally:
                sockets.close()

    found = await node.dataplane._run(read)
    return replace(
        found,
        children={name: without_pid(child) for name, child in found.children.items()},
        host_links={name: replace(link, addresses=()) for name, link in found.host_links.items()},
    )


def without_pid(child: Child) -> Child:
    return replace(child, process=replace(child.process, pid=0) if child.process else None)


async def test_a_repeat_changes_nothing_and_a_restarted_agent_adopts_everything(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", MAC_B, "open"), two.underlay_ip)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    guest, other = await one.boot(a.uid, MAC_A), await two.boot(b.uid, MAC_B)
    guest.configure("10.0.1.10/24")
    other.configure("10.0.1.11/24")
    assert guest.pings("10.0.1.11")
    with guest.start("ping", "-n", "-i", "0.01", "-c", "100", "-W", "1", "10.0.1.11") as ping:
        for _ in range(3):
            for node in (one, two):
                await node.restart_agent()
                report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
                assert report.operations == ()
                assert [each.state for each in report.ports.values()] == [PortState.ACTIVE]
                assert await node.dataplane.leftovers(cloud.desired(node.underlay_ip)) == ()
        output, _ = ping.communicate(timeout=20)
    assert " 0% packet loss" in output


async def test_dying_after_any_step_ends_in_the_same_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    node = world.node("one")
    desired = busy_cloud(node).desired(node.underlay_ip)
    steps = len((await node.dataplane.reconcile(desired)).operations)
    whole = await state_of(node)
    await node.dataplane.teardown()
    nothing = await state_of(node)
    assert steps > 20

    class Died(BaseException):
        pass

    carry_out = Executor.do
    left = 0

    def do(self: Executor, operation: Operation) -> None:
        nonlocal left
        carry_out(self, operation)
        left -= 1
        if left == 0:
            raise Died

    for step in range(1, steps + 1, 2):
        left = step
        with monkeypatch.context() as patch:
            patch.setattr(Executor, "do", do)
            with pytest.raises(Died):
                await node.dataplane.reconcile(desired)
        await node.restart_agent()
        report = await node.dataplane.reconcile(desired)
        assert report.ok, (step, report.problems)
        assert await state_of(node) == whole, step
        assert (await node.dataplane.reconcile(desired)).operations == (), step
        if step % 4 == 1:
            await node.dataplane.teardown()
        else:
            # Removal step by step, interrupted once, too.
            left = step // 2
            with monkeypatch.context() as patch:
                patch.setattr(Executor, "do", do)
                with pytest.raises(Died):
                    await node.dataplane.reconcile(DesiredNode(node.underlay_ip))
            await node.restart_agent()
            assert (await node.dataplane.reconcile(DesiredNode(node.underlay_ip))).ok
            assert await node.dataplane.leftovers(DesiredNode(node.underlay_ip)) == ()
            await node.dataplane.teardown()
        assert await state_of(node) == nothing, step


AGENT = """
import asyncio, pickle, sys
from hostagent.network.dataplane import DataPlane

async def main(config, desired):
    dataplane = DataPlane(config)
    print("ready", flush=True)
    sys.stdin.readline()
    await dataplane.reconcile(desired)
    print("done", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*pickle.load(sys.stdin.buffer.raw)))
"""


def die_at_work(node: Node, desired: DesiredNode, after: float) -> None:
    """An agent's process that is killed some seconds after its reconcile began."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as agent:
        assert agent.stdin
        assert agent.stdout
        agent.stdin.write(pickle.dumps((node.config, desired)))
        agent.stdin.flush()
        assert agent.stdout.readline() == b"ready\n"
        agent.stdin.write(b"\n")
        agent.stdin.flush()
        time.sleep(after)
        agent.kill()


async def test_kill_9_at_random_times(world: World) -> None:
    node = world.node("one")
    desired = busy_cloud(node).desired(node.underlay_ip)
    assert (await node.dataplane.reconcile(desired)).ok
    whole = await state_of(node)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for _ in range(5):
        await node.dataplane.teardown()
        await asyncio.to_thread(die_at_work, node, desired, chance.uniform(0, 0.08))
        report = await node.dataplane.reconcile(desired)
        # A dnsmasq that the killed agent had just started may still be on its way; then the next look settles it.
        if not report.ok:
            report = await node.dataplane.reconcile(desired)
        assert report.ok, (seed, report.problems)
        assert await state_of(node) == whole, seed
        assert (await node.dataplane.reconcile(desired)).operations == (), seed


async def test_a_tap_is_made_anew_for_each_start_and_never_taken_from_a_running_guest(world: World) -> None:
    node = world.node("one")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, "open"), node.underlay_ip)
    plane = node.dataplane
    with pytest.raises(NotProgrammed):
        await plane.attach_tap(a.uid)
    desired = cloud.desired(node.underlay_ip)
    assert (await plane.reconcile(desired)).ports[a.uid].reason == "TapAbsent"
    with pytest.raises(TapMissing):
        await plane.attach_tap(a.uid)

    assert await plane.create_tap(a.uid) == names.tap(a.uid)
    state = await plane.tap_state(a.uid)
    assert (state.place, state.held) == (TapPlace.HOST, False)
    assert (await plane.reconcile(desired)).operations == (), "a tap that waits for its QEMU is left alone"
    guest = await node.boot(a.uid, MAC_A)
    guest.configure("10.0.1.10/24")
    state = await plane.tap_state(a.uid)
    assert (state.place, state.held, state.attached) == (TapPlace.DATA_PLANE, True, True)
    await plane.attach_tap(a.uid)
    with pytest.raises(TapInUse):
        await plane.create_tap(a.uid)
    with pytest.raises(TapInUse):
        await plane.delete_tap(a.uid)

    guest.pull_the_plug()
    assert (await plane.reconcile(desired)).ports[a.uid].reason == "NoCarrier"
    again = await node.boot(a.uid, MAC_A)
    again.configure("10.0.1.10/24")
    assert again.pings("10.0.1.2")
    await plane.detach_tap(a.uid)
    assert not again.pings("10.0.1.2")
    await plane.attach_tap(a.uid)
    assert again.pings("10.0.1.2")

    # No longer desired, but held: cut off and told. Gone with its holder.
    nothing = DesiredNode(node.underlay_ip)
    assert (await plane.reconcile(nothing)).lingering == (names.tap(a.uid),)
    assert not again.pings("10.0.1.2")
    assert (await plane.reconcile(nothing)).operations == ()
    again.pull_the_plug()
    assert (await plane.reconcile(nothing)).lingering == ()
    assert (await plane.tap_state(a.uid)).place == TapPlace.ABSENT
    await plane.delete_tap(a.uid)


def start_qemu(node: Node, tap: str) -> subprocess.Popen[bytes]:
    """Paused, with nothing but a network card."""
    netdev = f"tap,id=n,ifname={tap},script=no,downscript=no,vhost=off"
    machine = ["-M", "q35", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-S"]
    argv = ["qemu-system-x86_64", *machine, "-netdev", netdev, "-device", f"virtio-net-pci,netdev=n,mac={MAC_A}"]
    return within(node.path, lambda: subprocess.Popen(argv))


async def test_a_real_qemu_opens_the_tap_and_does_not_notice_the_move(world: World) -> None:
    node = world.node("one")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, "open"), node.underlay_ip)
    desired = cloud.desired(node.underlay_ip)
    assert (await node.dataplane.reconcile(desired)).ok
    for _ in range(2):
        tap = await node.dataplane.create_tap(a.uid)
        qemu = start_qemu(node, tap)
        try:
            async with asyncio.timeout(20):
                while not (await node.dataplane.tap_state(a.uid)).held:
                    assert qemu.poll() is None
                    await asyncio.sleep(0.05)
            await node.dataplane.attach_tap(a.uid)
            assert (await node.dataplane.reconcile(desired)).ports[a.uid].state is PortState.ACTIVE
            assert qemu.poll() is None
        finally:
            qemu.kill()
            qemu.wait()
        assert (await node.dataplane.reconcile(desired)).ports[a.uid].reason == "NoCarrier"


async def test_a_flat_network_takes_its_nic_and_gives_it_back(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    public = network("public")
    public = replace(public, type=NetworkType.FLAT, segmentation_id=None, physical_network="public", mtu=1500)
    cloud = Cloud([public])
    a = cloud.place(port("a", public, "10.0.1.10", MAC_A, "open"), one.underlay_ip)
    two.run("ip", "addr", "add", "10.0.1.77/24", "dev", "eth1")

    one.run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth1")
    report = await one.dataplane.reconcile(cloud.desired(one.underlay_ip))
    assert [problem.reason for problem in report.problems] == ["NicInUse"]
    assert "192.0.2.1" in report.problems[0].message
    assert report.ports[a.uid].state is PortState.ERROR
    assert "eth1" in one.run("ip", "link", "show", "eth1")

    one.run("ip", "addr", "del", "192.0.2.1/24", "dev", "eth1")
    desired = cloud.desired(one.underlay_ip)
    assert (await one.dataplane.reconcile(desired)).ok
    guest = await one.boot(a.uid, MAC_A, 1500)
    guest.configure("10.0.1.10/24")
    # The world outside: a host on the same wire. Its DHCP requests are not answered here.
    assert guest.pings("10.0.1.77")
    assert (await one.dataplane.reconcile(desired)).operations == ()
    script = world.directory / "never"
    script.write_text(f"#!/bin/sh\n[ $1 = bound ] && touch {world.directory}/answered\nexit 0\n")
    script.chmod(0o755)
    client = ["busybox", "udhcpc", "-i", "eth1", "-f", "-n", "-q", "-t", "1", "-T", "1", "-s", str(script)]
    two.run(*client, check=False)
    assert not (world.directory / "answered").exists()

    guest.pull_the_plug()
    assert (await one.dataplane.reconcile(DesiredNode(one.underlay_ip))).ok
    assert "eth1" in one.run("ip", "link", "show", "eth1")


async def test_a_network_that_fails_does_not_take_the_others_along(world: World) -> None:
    node = world.node("one")
    cloud = busy_cloud(node)
    cloud.physical_networks = {"public": "nosuchnic"}
    blue, red, _ = cloud.networks
    cloud.networks[1] = replace(red, segmentation_id=blue.segmentation_id)
    report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
    assert sorted(problem.reason for problem in report.problems) == ["DataPlaneError", "NetworkFailed", "SegmentTaken"]
    states = sorted(each.state for each in report.ports.values())
    assert states == [PortState.DOWN, PortState.ERROR, PortState.ERROR]
    refused = next(each for each in report.ports.values() if each.reason == "NetworkFailed")
    with pytest.raises(NotProgrammed):
        await node.dataplane.attach_tap(refused.uid)


async def test_ports_and_networks_leave_nothing_behind(world: World) -> None:
    node = world.node("one")
    before = await state_of(node)
    cloud = busy_cloud(node)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    for each in [found for found, _ in cloud.placed.values()]:
        leavers = await node.dataplane.leftovers(cloud.desired(node.underlay_ip))
        assert leavers == ()
        cloud.remove(each)
        expected = bool(await node.dataplane.leftovers(cloud.desired(node.underlay_ip)))
        assert expected or each.mac.endswith("0d")
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert await node.dataplane.leftovers(cloud.desired(node.underlay_ip)) == ()
    assert list((node.config.run_dir / "dhcp").iterdir()) == []
    assert list((node.config.state_dir / "leases").iterdir()) == []
    await node.dataplane.teardown()
    assert await state_of(node) == before


def hears(heard: socket.socket, mac: str) -> bool:
    try:
        while bytes.fromhex(mac.replace(":", "")) not in heard.recv(65536):
            continue
    except TimeoutError:
        return False
    return True


async def test_the_underlay_takes_vxlan_from_known_end_points_alone(world: World) -> None:
    one, two, three = world.node("one"), world.node("two"), world.node("three")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A, "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", MAC_B, "open"), two.underlay_ip)
    assert (await one.dataplane.reconcile(cloud.desired(one.underlay_ip))).ok
    assert (await two.dataplane.reconcile(cloud.desired(two.underlay_ip))).ok
    # The third knows of the others, but they do not know of it.
    c = cloud.place(port("c", net, "10.0.1.12", MAC_C, "open"), three.underlay_ip)
    assert (await three.dataplane.reconcile(cloud.desired(three.underlay_ip))).ok
    guests: dict[str, Guest] = {}
    for node, each in ((one, a), (two, b), (three, c)):
        guests[each.uid] = await node.boot(each.uid, each.mac)
        guests[each.uid].configure(f"{each.fixed_ips[0].ip}/24")
    assert guests[a.uid].pings("10.0.1.11")
    with guests[a.uid].raw_socket() as heard:
        heard.settimeout(0.5)
        assert not guests[c.uid].pings("10.0.1.10")
        assert not hears(heard, MAC_C)
    for node in (one, two):
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert guests[c.uid].pings("10.0.1.10")


async def test_no_helper_processes_or_descriptors_are_left_by_many_reconciles(world: World) -> None:
    node = world.node("one")
    cloud = busy_cloud(node)
    desired, nothing = cloud.desired(node.underlay_ip), DesiredNode(node.underlay_ip)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    ours = children()

    async def turn() -> None:
        assert (await node.dataplane.reconcile(desired)).ok
        assert (await node.dataplane.reconcile(nothing)).ok

    await turn()
    before, threads = descriptors(), len(list(Path("/proc/self/task").iterdir()))
    for _ in range(5):
        await turn()
    assert descriptors() <= before
    assert len(list(Path("/proc/self/task").iterdir())) <= threads
    assert children() <= ours


async def test_rules_that_nft_refuses_open_nothing_and_stop_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = world.node("one")
    blue, red = network("blue", 7), network("red", 8)
    cloud = Cloud([blue, red])
    cloud.place(port("a", blue, "10.0.1.10", MAC_A, "open"), node.underlay_ip)

    def refused(*tables: object) -> list[str]:
        return [*commands(*tables), "add rule bridge kumulus nowhere drop"]  # type: ignore[arg-type]  # passed on

    with monkeypatch.context() as patched:
        patched.setattr("hostagent.network.plan.commands", refused)
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert not report.filtered
        assert not any(each.programmed for each in report.ports.values())
        # Without rules nothing is joined to anything.
        assert "br" + names.short_id(blue.uid) not in node.inside("ip", "link")

    report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
    assert report.ok
    assert report.filtered
    guest = await node.boot(port("a", blue, "10.0.1.10", MAC_A).uid, MAC_A)
    guest.configure("10.0.1.10/24")
    assert guest.pings("10.0.1.2")
    before = node.inside("nft", "list", "ruleset")

    b = cloud.place(port("b", red, "10.0.1.10", MAC_B, "open"), node.underlay_ip)
    with monkeypatch.context() as patched:
        patched.setattr("hostagent.network.plan.commands", refused)
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert not report.filtered
        assert not report.ports[b.uid].programmed
        assert node.inside("nft", "list", "ruleset") == before
        await node.dataplane.create_tap(b.uid)
        with pytest.raises(NotProgrammed):
            await node.dataplane.attach_tap(b.uid)
        assert guest.pings("10.0.1.2")
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok


async def test_the_file_of_a_namespace_that_was_never_mounted_is_removed(world: World) -> None:
    """What an agent leaves that is killed between making the file and mounting, or unmounting and removing it."""
    node = world.node("one")
    net = network("blue", 7)
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC_A), node.underlay_ip)
    empty = DesiredNode(underlay_ip=node.underlay_ip)
    assert (await node.dataplane.reconcile(empty)).ok
    file = node.config.netns_dir / names.child_namespace(net.uid)
    file.touch()
    assert await node.dataplane.leftovers(empty) == (f"DeleteChild {file.name}",)
    assert (await node.dataplane.reconcile(empty)).ok
    assert not file.exists()

    file.touch()
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert netns.exists(file)
    first = node.dataplane.metadata_networks()
    assert first == {net.uid: netns.inode(file)}

    # A network that comes back has a namespace of its own, told apart from the first while that is listened in.
    with await node.dataplane.metadata_listener(net.uid):
        cloud.remove(a)
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
        assert node.dataplane.metadata_networks() == {}
        cloud.place(a, node.underlay_ip)
        assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
        assert node.dataplane.metadata_networks().keys() == {net.uid}
        assert node.dataplane.metadata_networks() != first
