"""The metadata service over sockets: who asks is told by the address that the connection came in on, and by
nothing else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from agent_objects import NETWORK, PORT, UID, work_object

from hostagent.errors import NodeError, Reason
from hostagent.metadata.connections import BURST, RATE, Limits
from hostagent.metadata.facts import Guest
from hostagent.metadata.service import MetadataService
from hostagent.network.dataplane import DataPlane

OTHER = "11111111-2222-3333-4444-555555555555"
ADDRESSES = {"127.0.0.2": PORT, "127.0.0.3": OTHER}


class Loopback(DataPlane):
    """A network whose guests' requests arrive at addresses of the loopback device."""

    def __init__(self) -> None:
        self.networks = {NETWORK: 1}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.socket.close()

    def metadata_networks(self) -> dict[str, int]:
        return self.networks

    async def metadata_listener(self, network_uid: str) -> socket.socket:
        assert network_uid == NETWORK
        listener = socket.create_server(("0.0.0.0", self.port))  # noqa: S104 - as in a network's namespace
        listener.setblocking(False)
        return listener

    def port_for_metadata_address(self, address: str) -> str | None:
        return ADDRESSES.get(address)


async def guest_of_port(uid: str) -> Guest | None:
    if uid == OTHER:
        raise NodeError(Reason.USER_DATA_MISSING, "gone")
    return Guest(work_object(), b"#!/bin/sh\n")


@asynccontextmanager
async def service() -> AsyncIterator[tuple[MetadataService, Loopback]]:
    network = Loopback()
    running = MetadataService(network, guest_of_port)
    await running.follow()
    try:
        yield running, network
    finally:
        await running.close()


@pytest.mark.parametrize(
    ("method", "address", "path", "headers", "status"),
    [
        ("GET", "127.0.0.2", "/openstack/latest/meta_data.json", {}, 200),
        ("HEAD", "127.0.0.2", "/latest/user-data", {}, 200),
        ("GET", "127.0.0.2", "/nothing", {}, 404),
        ("POST", "127.0.0.2", "/openstack/latest/password", {}, 405),
        ("PUT", "127.0.0.2", "/latest/api/token", {}, 405),
        ("GET", "127.0.0.3", "/openstack/latest/meta_data.json", {}, 503),
        ("GET", "127.0.0.4", "/openstack/latest/meta_data.json", {}, 404),
        ("GET", "127.0.0.4", "/", {"X-Forwarded-For": "127.0.0.2", "X-Instance-ID": UID, "Host": "127.0.0.2"}, 404),
    ],
)
async def test_answers(method: str, address: str, path: str, headers: dict[str, str], status: int) -> None:
    async with service() as (_, network), aiohttp.ClientSession() as session:
        url = f"http://{address}:{network.port}{path}"
        async with session.request(method, url, headers=headers) as answer:
            assert answer.status == status
            body = await answer.read()
        if status == 200 and method == "GET":
            assert UID.encode() in body


async def test_a_network_that_goes_is_not_listened_for() -> None:
    async with service() as (running, network):
        await asyncio.get_running_loop().run_in_executor(None, socket.create_connection, ("127.0.0.2", network.port))
        network.networks = {}
        await running.follow()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", network.port)


async def cut(reader: asyncio.StreamReader) -> None:
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)


async def test_a_guest_cannot_hold_many_connections_nor_for_long() -> None:
    async with service() as (running, network):
        running._limits = Limits(at_once=2, lifetime=0.3)
        held = [await asyncio.open_connection("127.0.0.2", network.port) for _ in range(2)]
        third, _ = await asyncio.open_connection("127.0.0.2", network.port)
        await cut(third)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.4:{network.port}/") as answer:
            assert answer.status == 404
        async with asyncio.timeout(5):
            for reader, _ in held:
                await cut(reader)
            while "127.0.0.2" in running._limits.open:
                await asyncio.sleep(0.01)


async def test_a_namespace_that_was_made_anew_is_listened_in_anew() -> None:
    async with service() as (running, network):
        (before,) = running._listeners.values()
        await running.follow()
        assert list(running._listeners.values()) == [before]
        network.networks = {NETWORK: 2}
        await running.follow()
        (after,) = running._listeners.values()
        assert after is not before
        assert not before.is_serving()
        reader, writer = await asyncio.open_connection("127.0.0.2", network.port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()


def test_all_guests_together_have_a_limit_too() -> None:
    limits = Limits(at_once=2, in_all=3)
    for address in ("a", "a", "b"):
        limits.open[address] += 1
        assert not limits.exceeded(address)
    limits.open["c"] += 1
    assert limits.exceeded("c")


def test_requests_beyond_a_burst_wait_each_port_for_itself() -> None:
    limits = Limits()
    assert [limits.delay("a", 10.0) for _ in range(BURST)] == pytest.approx([0.0] * BURST, abs=1e-6)
    assert [limits.delay("a", 10.0) for _ in range(3)] == pytest.approx([1 / RATE, 2 / RATE, 3 / RATE])
    assert limits.delay("b", 10.0) == 0.0
    # Nothing is forgiven before its time, and all of it is after.
    assert limits.delay("a", 10.0 + 2 / RATE) > 0
    assert limits.delay("a", 10.0 + 2 * BURST / RATE) == 0.0


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    limits = Limits(in_all=10)
    for number in range(1000):
        limits.delay(str(number), float(number))
    assert len(limits._spent) <= 11
