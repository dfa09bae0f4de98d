"""Allocations under races and kills: every value once, and nothing left over. On the real apiserver."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from opnet_cloud import (
    IP_ALLOCATION,
    MAC_ALLOCATION,
    NETWORK,
    PORT,
    SEGMENT,
    SUBNET,
    TENANT,
    Cloud,
    Object,
    Operators,
    addresses,
)

from lab.api import ApiServer
from runtime.client import Client, NotFound

PORTS = 24


async def check_allocations(cloud: Cloud, tenant: str, ports: list[Object]) -> None:
    """Every address and MAC that a status tells of is allocated to that port, once; nothing else is allocated."""
    held = Counter((a["spec"]["holder"]["uid"], a["spec"]["address"]) for a in await cloud.list(IP_ALLOCATION, tenant))
    macs = Counter((a["spec"]["holder"]["uid"], a["spec"]["address"]) for a in await cloud.list(MAC_ALLOCATION, tenant))
    told = Counter((port["metadata"]["uid"], ip) for port in ports for ip in addresses(port))
    told_macs = Counter((port["metadata"]["uid"], port["status"]["macAddress"]) for port in ports)
    for subnet in await cloud.list(SUBNET, tenant):
        server = subnet["status"]["dhcpServer"]
        told[subnet["metadata"]["uid"], server["ip"]] += 1
        told_macs[subnet["metadata"]["uid"], server["mac"]] += 1
    assert held == told
    assert macs == told_macs
    assert len({ip for _, ip in told}) == sum(told.values())


async def test_two_operators_at_once_give_every_address_once(client: Client, apiserver: ApiServer) -> None:
    """Two that both believe to lead: what a lost Lease makes possible for a moment."""
    cloud = Cloud(client)
    pools = [{"start": "10.0.1.10", "end": f"10.0.1.{10 + PORTS}"}]  # every port, and the DHCP server
    async with Operators(apiserver), Operators(apiserver):
        await cloud.tenant("race")
        await cloud.network("race", allocationPools=pools)
        names = [f"p{i}" for i in range(PORTS)]
        await asyncio.gather(*(cloud.port("race", name) for name in names))
        ports = [await cloud.ready(PORT, name, "race") for name in names]

        async def settled() -> None:
            seen = [await cloud.client.get(PORT, name, "race") for name in names]
            await check_allocations(cloud, "race", seen)

        assert len({addresses(port)[0] for port in ports}) == PORTS
        await cloud.eventually(settled)
        await cloud.delete(TENANT, "race")
        await cloud.gone(TENANT, "race", 60)
        assert await cloud.leaks("race") == []


async def test_networks_at_once_have_different_vnis(client: Client, apiserver: ApiServer) -> None:
    cloud = Cloud(client)
    async with Operators(apiserver), Operators(apiserver):
        await cloud.tenant("vnis")
        await asyncio.gather(*(cloud.create(NETWORK, f"n{i}", "vnis", spec={}) for i in range(12)))
        networks = [await cloud.ready(NETWORK, f"n{i}", "vnis") for i in range(12)]
        segments = [s for s in await cloud.list(SEGMENT) if s["spec"]["holder"]["namespace"] == "vnis"]
        assert len({network["status"]["segmentationID"] for network in networks}) == 12
        assert len(segments) == 12


@pytest.mark.parametrize("seed", range(2))
async def test_kills_at_random_points_leave_nothing_behind(client: Client, apiserver: ApiServer, seed: int) -> None:
    cloud = Cloud(client)
    tenant = f"kills-{seed}"
    moments = random.Random(seed)

    async def killing(until: asyncio.Event) -> None:
        """Starts operators and kills them, again and again, each some writes after its start."""
        while not until.is_set():
            operators = await Operators(apiserver).start()
            enough = moments.randrange(1, 25)
            begun = asyncio.get_running_loop().time()
            while len(operators.writes) < enough and asyncio.get_running_loop().time() - begun < 2:
                await asyncio.sleep(0.001)
            await operators.kill()

    async def while_killing(body: asyncio.Task[None]) -> None:
        done = asyncio.Event()
        killer = asyncio.create_task(killing(done))
        try:
            await body
        finally:
            done.set()
            await killer

    names = [f"p{i}" for i in range(PORTS)]

    async def build() -> None:
        await cloud.create(TENANT, tenant, spec={})
        await cloud.ready(TENANT, tenant)
        await cloud.network(tenant)
        await asyncio.gather(*(cloud.port(tenant, name) for name in names))
        for name in names:
            await cloud.until(PORT, name, tenant, lambda port: bool(addresses(port)), 60)

    await while_killing(asyncio.create_task(build()))
    async with Operators(apiserver):
        await cloud.ready(PORT, names[-1], tenant)

        async def settled() -> None:
            await check_allocations(cloud, tenant, [await cloud.client.get(PORT, name, tenant) for name in names])

        await cloud.eventually(settled)
    before = {name: addresses(await cloud.client.get(PORT, name, tenant)) for name in names}

    async def destroy() -> None:
        await asyncio.gather(*(cloud.delete(PORT, name, tenant) for name in names[: PORTS // 2]))
        for name in names[: PORTS // 2]:
            await cloud.gone(PORT, name, tenant, 60)

    await while_killing(asyncio.create_task(destroy()))
    async with Operators(apiserver):
        for name in names[PORTS // 2 :]:
            port = await cloud.ready(PORT, name, tenant)
            assert addresses(port) == before[name], "an address stays with its port for life"
        await cloud.delete(TENANT, tenant)
        await cloud.gone(TENANT, tenant, 60)
    assert await cloud.leaks(tenant) == []
    with pytest.raises(NotFound):
        await cloud.client.get(NETWORK, "internal", tenant)
