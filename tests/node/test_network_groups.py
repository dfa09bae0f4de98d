"""Security groups between guests, on one node and across nodes, with the kernel's connection tracking."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from network_desired import EGRESS, Cloud, group, ingress, network, port, uid
from network_world import Guest, Node, World

from hostagent.network.model import Port, Rule
from hostagent.network.report import Report

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]

SERVER_IP, NEAR_IP, FAR_IP = "10.0.1.10", "10.0.1.11", "10.0.1.12"


@dataclass
class Stage:
    """A server with the group `server`, a client beside it and one on another node, both with the group `client`."""

    world: World
    cloud: Cloud
    server_port: Port
    server: Guest
    near: Guest
    far: Guest

    async def apply(self) -> dict[str, Report]:
        return {
            node.name: await node.dataplane.reconcile(self.cloud.desired(node.underlay_ip)) for node in self.world.nodes
        }

    async def rules(self, *rules: Rule) -> None:
        self.cloud.set_group(group("server", *rules))
        for report in (await self.apply()).values():
            assert report.ok, report.problems


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    world = World()
    try:
        one, two = world.node("one"), world.node("two")
        net = network("blue")
        cloud = Cloud([net])
        cloud.groups += [group("client", *EGRESS), group("server")]
        server = cloud.place(port("server", net, SERVER_IP, "fa:16:3e:00:00:0a", "server"), one.underlay_ip)
        near = cloud.place(port("near", net, NEAR_IP, "fa:16:3e:00:00:0b", "client"), one.underlay_ip)
        far = cloud.place(port("far", net, FAR_IP, "fa:16:3e:00:00:0c", "client"), two.underlay_ip)
        for node in (one, two):
            assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok

        async def boot(node: Node, each: Port) -> Guest:
            guest = await node.boot(each.uid, each.mac)
            guest.configure(f"{each.fixed_ips[0].ip}/24")
            return guest

        yield Stage(world, cloud, server, await boot(one, server), await boot(one, near), await boot(two, far))
    finally:
        await world.dispose()


class Conversation:
    """A TCP connection between two guests."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server

    def lives(self, wait: float = 3) -> bool:
        """Whether bytes get there and back."""
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            receiver.settimeout(wait)
            try:
                sender.sendall(b"ping")
                if receiver.recv(4) != b"ping":
                    return False
            except OSError:
                return False
        return True

    def close(self) -> None:
        self.client.close()
        self.server.close()


def listen(guest: Guest, number: int) -> socket.socket:
    listener = guest.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", number))
    listener.listen()
    return listener


def connect(
    client: Guest, server: Guest, number: int, wait: float = 3, address: str = SERVER_IP
) -> Conversation | None:
    with listen(server, number) as listener:
        made = client.socket()
        made.settimeout(wait)
        try:
            made.connect((address, number))
        except OSError:
            made.close()
            return None
        accepted, _ = listener.accept()
        return Conversation(made, accepted)


def reaches(client: Guest, server: Guest, number: int, address: str = SERVER_IP) -> bool:
    conversation = connect(client, server, number, 0.4, address)
    if conversation is None:
        return False
    lives = conversation.lives()
    conversation.close()
    return lives


async def test_what_no_rule_allows_is_dropped_in_both_directions(stage: Stage) -> None:
    for client in (stage.near, stage.far):
        assert not client.pings(SERVER_IP)
        assert not reaches(client, stage.server, 22)
    # The clients accept nothing, and the server may send nothing.
    assert not stage.server.pings(NEAR_IP)

    await stage.rules(ingress("tcp", 22))
    for client in (stage.near, stage.far):
        # The answers pass without an egress rule of the server's: the connection is tracked.
        assert reaches(client, stage.server, 22)
        assert not reaches(client, stage.server, 23)
        assert not client.pings(SERVER_IP)
    assert not reaches(stage.server, stage.near, 22, NEAR_IP)


async def test_prefixes_icmp_and_fragments(stage: Stage) -> None:
    echo = ingress("icmp", port_range_min=8, port_range_max=0, remote_ip_prefix=f"{FAR_IP}/32")
    await stage.rules(echo, ingress("udp", 5000), Rule("Egress", "IPv4", "udp"))
    assert stage.far.pings(SERVER_IP)
    assert not stage.near.pings(SERVER_IP)
    big = stage.far.run("ping", "-n", "-c", "1", "-W", "2", "-s", "5000", SERVER_IP, check=False)
    assert big.returncode == 0, "a datagram in fragments is one datagram"
    payload = os.urandom(4000)
    with stage.server.socket(socket.SOCK_DGRAM) as server, stage.near.socket(socket.SOCK_DGRAM) as client:
        server.bind(("", 5000))
        client.sendto(payload, (SERVER_IP, 5000))
        received, sender = await asyncio.to_thread(server.recvfrom, 65536)
        assert received == payload
        server.sendto(payload, sender)
        assert await asyncio.to_thread(client.recv, 65536) == payload


async def test_a_removed_rule_ends_its_connections_and_leaves_the_others(stage: Stage) -> None:
    await stage.rules(ingress("tcp", 22), ingress("tcp", 80))
    doomed = [connect(client, stage.server, 22) for client in (stage.near, stage.far)]
    kept = [connect(client, stage.server, 80) for client in (stage.near, stage.far)]
    everyone = [each for each in (*doomed, *kept) if each is not None]
    try:
        assert len(everyone) == 4
        assert all(each.lives() for each in everyone)
        await stage.rules(ingress("tcp", 80))
        assert not any(each.lives(0.4) for each in everyone[:2])
        assert all(each.lives() for each in everyone[2:])
    finally:
        for each in everyone:
            each.close()


async def test_remote_groups_follow_their_members(stage: Stage) -> None:
    friends = group("friends", members=[FAR_IP])
    stage.cloud.set_group(friends)
    await stage.rules(ingress("tcp", 22, remote_group=friends.uid))
    assert reaches(stage.far, stage.server, 22)
    assert not reaches(stage.near, stage.server, 22)

    stage.cloud.set_group(group("friends", members=[FAR_IP, NEAR_IP, "10.0.9.0/24"]))
    await stage.apply()
    conversation = connect(stage.near, stage.server, 22)
    assert conversation is not None
    assert conversation.lives()
    stage.cloud.set_group(group("friends", members=[FAR_IP]))
    await stage.apply()
    assert not conversation.lives(0.4)
    conversation.close()
    assert reaches(stage.far, stage.server, 22)

    # A remote group whose slices are not known (any more) has no members.
    stage.cloud.groups = [each for each in stage.cloud.groups if each.uid != friends.uid]
    await stage.apply()
    assert not reaches(stage.far, stage.server, 22)


async def test_a_group_that_is_not_known_yet_gives_nothing(stage: Stage) -> None:
    await stage.rules(ingress("tcp", 22))
    assert reaches(stage.near, stage.server, 22)
    stage.cloud.groups = [each for each in stage.cloud.groups if each.uid != uid("server")]
    await stage.apply()
    assert not reaches(stage.near, stage.server, 22)


async def test_a_bad_rule_is_told_and_does_not_hinder_the_others(stage: Stage) -> None:
    bad = (
        ingress("tcp", remote_ip_prefix="10.0.0.0/8; drop"),
        ingress("teleport"),
        ingress("tcp", port_range_min=9, port_range_max=1),
        ingress("tcp", remote_ip_prefix="fd00::/8"),
        Rule("Sideways", "IPv4"),
        Rule("Ingress", None),
    )
    stage.cloud.set_group(group("server", *bad, ingress("tcp", 22)))
    report = (await stage.apply())["one"]
    assert [problem.reason for problem in report.problems] == ["InvalidRule"] * len(bad)
    assert all(each.programmed for each in report.ports.values())
    assert reaches(stage.near, stage.server, 22)


async def test_an_agent_that_dies_between_rules_and_connections_ends_them_later(stage: Stage) -> None:
    await stage.rules(ingress("tcp", 22))
    conversation = connect(stage.near, stage.server, 22)
    assert conversation is not None
    node = stage.world.nodes[0]

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    stage.cloud.set_group(group("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hostagent.network.execute.end_connections", die)
        with pytest.raises(Died):
            await node.dataplane.reconcile(stage.cloud.desired(node.underlay_ip))
    assert conversation.lives(), "the point of the test: the rule is gone, the connection is not"
    await node.restart_agent()
    await node.dataplane.reconcile(stage.cloud.desired(node.underlay_ip))
    assert not conversation.lives(0.4)
    assert (await node.dataplane.reconcile(stage.cloud.desired(node.underlay_ip))).operations == ()
    conversation.close()
