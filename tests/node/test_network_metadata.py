"""The way to the metadata service: who asks is known from the tap alone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from network_desired import Cloud, network, port
from network_world import Guest, World

from hostagent.network.dataplane import DataPlane

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]

MAC = "fa:16:3e:00:00:0a"
BODY = b"x" * 200_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


async def serve(dataplane: DataPlane, listener: socket.socket) -> asyncio.Server:
    """Answers a line with the UID of the port that asked, and a body longer than a segment."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        local = writer.get_extra_info("sockname")[0]
        writer.write((dataplane.port_for_metadata_address(local) or "nobody").encode() + b"\n" + BODY)
        writer.close()

    return await asyncio.start_server(answer, sock=listener)


async def ask(guest: Guest, address: str = "169.254.169.254", source: str = "", wait: float = 5) -> str:
    def exchange() -> str:
        with guest.socket() as client:
            client.settimeout(wait)
            if source:
                client.bind((source, 0))
            client.connect((address, 80))
            client.sendall(b"who am I?\n")
            received = b""
            while chunk := client.recv(65536):
                received += chunk
        line, _, body = received.partition(b"\n")
        assert body == BODY
        return line.decode()

    return await asyncio.to_thread(exchange)


async def test_requests_are_told_apart_by_tap_even_with_equal_addresses(world: World) -> None:
    node = world.node("one")
    blue, red = network("blue", 7), network("red", 8)
    cloud = Cloud([blue, red])
    a = cloud.place(port("a", blue, "10.0.1.10", MAC), node.underlay_ip)
    b = cloud.place(port("b", red, "10.0.1.10", MAC), node.underlay_ip)
    c = cloud.place(port("c", red, "10.0.1.12", "fa:16:3e:00:00:0c", port_security=False), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert node.dataplane.metadata_networks().keys() == {blue.uid, red.uid}
    servers = [await serve(node.dataplane, await node.dataplane.metadata_listener(each.uid)) for each in (blue, red)]
    try:
        guests = {each.uid: await node.boot(each.uid, each.mac) for each in (a, b, c)}
        for each in (a, b, c):
            guest = guests[each.uid]
            guest.configure(f"{each.fixed_ips[0].ip}/24")
            guest.run("ip", "route", "add", "169.254.169.254", "via", "10.0.1.2")
            assert await ask(guest) == each.uid
        # A gateway that nobody is: the request is for this node all the same, once the guest can send it.
        guests[a.uid].run("ip", "route", "replace", "169.254.169.254", "via", "10.0.1.1")
        guests[a.uid].run("ip", "neigh", "replace", "10.0.1.1", "lladdr", "fa:16:3e:12:34:56", "dev", "eth0")
        assert await ask(guests[a.uid]) == a.uid
        # On the link, as with a link-local address of the guest's.
        guests[a.uid].run("ip", "route", "replace", "169.254.169.254", "dev", "eth0")
        assert await ask(guests[a.uid]) == a.uid
        # An open port may send from anywhere; it stays itself.
        guests[c.uid].configure("10.0.1.99/24")
        assert await ask(guests[c.uid], source="10.0.1.99") == c.uid
        # The addresses behind it cannot be asked for directly, nor the server's own.
        for number in (1, 2, 3):
            guests[c.uid].run("ip", "route", "replace", f"240.65.0.{number}", "via", "10.0.1.2")
            with pytest.raises(OSError, match=r"timed out|No route"):
                await ask(guests[c.uid], f"240.65.0.{number}", wait=0.4)
        with pytest.raises(OSError, match=r"timed out|No route"):
            await ask(guests[b.uid], "10.0.1.2", wait=0.4)
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


async def test_a_port_keeps_its_metadata_address_over_restart_and_neighbours_leaving(world: World) -> None:
    node = world.node("one")
    net = replace(network("blue", 7))
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", MAC), node.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b"), node.underlay_ip)
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    addresses = {
        uid: address
        for address in ("240.65.0.1", "240.65.0.2")
        if (uid := node.dataplane.port_for_metadata_address(address))
    }
    assert addresses.keys() == {a.uid, b.uid}
    gone, kept = sorted((a, b), key=lambda each: addresses[each.uid])
    cloud.remove(gone)
    await node.restart_agent()
    assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
    assert node.dataplane.port_for_metadata_address(addresses[kept.uid]) == kept.uid
    assert node.dataplane.port_for_metadata_address(addresses[gone.uid]) is None
