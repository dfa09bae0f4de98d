"""Networks, subnets and ports on the real apiserver: what they are given, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
from opnet_cloud import (
    GROUP,
    HYPERVISOR,
    IP_ALLOCATION,
    MAC_ALLOCATION,
    NETWORK,
    PHYSICAL_NETWORK,
    PORT,
    SEGMENT,
    SUBNET,
    TENANT,
    Cloud,
    Operators,
    addresses,
    told,
)

from lab.api import ApiServer
from runtime.client import Client, Invalid, NotFound
from runtime.kind import NAMESPACE


@pytest.fixture
async def running(apiserver: ApiServer) -> AsyncIterator[Operators]:
    async with Operators(apiserver) as operators:
        yield operators


@pytest.fixture
def cloud(client: Client, running: Operators) -> Cloud:
    return Cloud(client)


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_applying_and_deleting(cloud: Cloud, seed: int) -> None:
    tenant = f"order-{seed}"
    await cloud.create(NAMESPACE, tenant, metadata={"labels": {"kumulus.dev/tenant": tenant}})
    rules = [{"name": "in", "direction": "Ingress", "remoteGroupRef": {"name": "web"}}]
    objects = [
        (TENANT, tenant, None, {}),
        (NETWORK, "internal", tenant, {}),
        (SUBNET, "v4", tenant, {"networkRef": {"name": "internal"}, "cidr": "10.0.1.0/24"}),
        (GROUP, "web", tenant, {"rules": rules}),
        (GROUP, "app", tenant, {"rules": rules}),
        (
            PORT,
            "a",
            tenant,
            {"networkRef": {"name": "internal"}, "securityGroupRefs": [{"name": "web"}, {"name": "app"}]},
        ),
        (PORT, "b", tenant, {"networkRef": {"name": "internal"}, "fixedIPs": [{"ip": "10.0.1.50"}]}),
    ]
    order = random.Random(seed)
    order.shuffle(objects)
    for kind, name, namespace, spec in objects:
        await cloud.create(kind, name, namespace, spec=spec)
        await asyncio.sleep(order.choice((0, 0, 0.3)))
    for kind, name, namespace, _ in objects:
        await cloud.ready(kind, name, namespace)
    ports = [await cloud.client.get(PORT, name, tenant) for name in "ab"]
    assert addresses(ports[1]) == ["10.0.1.50"]
    assert ip_address(addresses(ports[0])[0]) in [ip_address(f"10.0.1.{n}") for n in range(2, 255)]
    assert len(await cloud.list(IP_ALLOCATION, tenant)) == 3  # two ports and the DHCP server
    assert len(await cloud.list(MAC_ALLOCATION, tenant)) == 3

    order.shuffle(objects)
    for kind, name, namespace, _ in objects:
        await cloud.delete(kind, name, namespace)
        await asyncio.sleep(order.choice((0, 0, 0.3)))
    for kind, name, namespace, _ in objects:
        await cloud.gone(kind, name, namespace)
    await cloud.gone(NAMESPACE, tenant)
    assert await cloud.leaks(tenant, [port["metadata"]["uid"] for port in ports]) == []


async def test_a_network_and_subnet_tell_what_they_have(cloud: Cloud) -> None:
    await cloud.tenant("tells")
    await cloud.network("tells", "10.0.1.0/24")
    network = await cloud.ready(NETWORK, "internal", "tells")
    assert network["status"]["type"] == "VXLAN"
    assert 10_000 <= network["status"]["segmentationID"] <= 99_999
    assert (network["status"]["mtu"], network["status"]["phase"]) == (1450, "Active")
    await cloud.until(NETWORK, "internal", "tells", lambda n: n["status"].get("subnets") == ["internal-v4"])
    segment = await cloud.client.get(SEGMENT, f"vxlan-{network['status']['segmentationID']}")
    assert segment["spec"]["holder"]["uid"] == network["metadata"]["uid"]
    subnet = await cloud.client.get(SUBNET, "internal-v4", "tells")
    assert subnet["status"]["gatewayIP"] == "10.0.1.1"
    assert subnet["status"]["dhcpServer"]["ip"] == "10.0.1.2"
    assert subnet["status"]["dhcpServer"]["mac"].startswith("fa:16:3e:")
    assert subnet["status"]["observedGeneration"] == subnet["metadata"]["generation"]
    # dhcp: false gives the server's address back.
    await cloud.client.merge_patch(SUBNET, "internal-v4", "tells", {"spec": {"dhcp": False}})
    await cloud.until(SUBNET, "internal-v4", "tells", lambda s: "dhcpServer" not in s["status"])
    await cloud.gone(IP_ALLOCATION, "internal.10.0.1.2", "tells")


async def test_few_writes(cloud: Cloud, running: Operators) -> None:
    await cloud.tenant("thrift")
    await cloud.network("thrift")
    group = {"rules": [{"name": "ssh", "direction": "Ingress", "protocol": "tcp", "portRangeMin": 22}]}
    await cloud.create(GROUP, "web", "thrift", spec=group)
    await cloud.ready(GROUP, "web", "thrift")
    await cloud.node("thrift-1", "192.0.2.1")
    await asyncio.sleep(1)
    running.writes.clear()
    await cloud.create(
        PORT,
        "a",
        "thrift",
        metadata={"finalizers": ["network.kumulus.dev/operator"]},
        spec={"networkRef": {"name": "internal"}, "securityGroupRefs": [{"name": "web"}]},
    )
    port = await cloud.ready(PORT, "a", "thrift")
    work = await cloud.bind("thrift-1", port)
    await asyncio.sleep(0.5)
    await cloud.report("thrift-1", work, "Running", port["metadata"]["uid"], "Active")
    await cloud.until(PORT, "a", "thrift", lambda p: p["status"]["phase"] == "Active")
    await asyncio.sleep(1)
    kinds = [write.split("/")[-1 if write.startswith("POST") else -2] for write in running.writes]
    # Two allocations, the status that tells of them, the forwarding entry, and the binding once it is Active.
    assert sorted(kinds) == ["a", "a", "ipallocations", "macallocations", "networkslices"], running.writes


@pytest.mark.parametrize(
    ("name", "spec", "reason", "words"),
    [
        ("overlap", {"cidr": "10.0.1.128/25"}, "Overlap", "internal-v4"),
        (
            "pools",
            {
                "cidr": "10.0.2.0/24",
                "allocationPools": [
                    {"start": "10.0.2.10", "end": "10.0.2.20"},
                    {"start": "10.0.2.15", "end": "10.0.2.30"},
                ],
            },
            "PoolsOverlap",
            "10.0.2.15-10.0.2.30",
        ),
        (
            "swapped",
            {"cidr": "fd00::/64", "allocationPools": [{"start": "fd00::9", "end": "fd00::5"}]},
            "PoolInvalid",
            "behind",
        ),
        (
            "gateway",
            {"cidr": "10.0.2.0/24", "gateway": {"mode": "Static", "ip": "10.0.2.255"}},
            "GatewayInvalid",
            "10.0.2.255",
        ),
        (
            "inpool",
            {"cidr": "10.0.2.0/24", "allocationPools": [{"start": "10.0.2.1", "end": "10.0.2.9"}]},
            "GatewayInPool",
            "10.0.2.1",
        ),
        ("nonet", {"cidr": "10.0.2.0/24", "networkRef": {"name": "nope"}}, "NetworkNotFound", "nope"),
    ],
)
async def test_a_bad_subnet_says_why(cloud: Cloud, name: str, spec: dict[str, object], reason: str, words: str) -> None:
    tenant = f"bad-{name}"
    await cloud.tenant(tenant)
    await cloud.network(tenant, "10.0.1.0/24")
    await cloud.create(SUBNET, name, tenant, spec={"networkRef": {"name": "internal"}, **spec})
    assert words in await cloud.because(SUBNET, name, tenant, reason)
    subnet = await cloud.client.get(SUBNET, name, tenant)
    assert told(subnet, "Reconciling" if name == "nonet" else "Stalled")["status"] == "True"
    # A port does well without it.
    await cloud.port(tenant, "a")
    await cloud.ready(PORT, "a", tenant)


async def test_a_gateway_outside_the_subnet_is_refused(cloud: Cloud) -> None:
    await cloud.tenant("outside")
    with pytest.raises(Invalid, match="outside the subnet"):
        await cloud.network("outside", gateway={"mode": "Static", "ip": "10.9.9.9"})


async def test_a_taken_address_is_told_and_given_when_it_is_free(cloud: Cloud) -> None:
    await cloud.tenant("taken")
    await cloud.network("taken")
    await cloud.port("taken", "first", fixedIPs=[{"ip": "10.0.1.50"}], macAddress="fa:16:3e:00:00:50")
    await cloud.ready(PORT, "first", "taken")
    await cloud.port("taken", "second", fixedIPs=[{"ip": "10.0.1.50"}])
    await cloud.port("taken", "third", macAddress="fa:16:3e:00:00:50")
    assert "10.0.1.50 is held by Port first" in await cloud.because(PORT, "second", "taken", "AddressTaken")
    assert "held by Port first" in await cloud.because(PORT, "third", "taken", "MACTaken")
    second = await cloud.client.get(PORT, "second", "taken")
    assert (second["status"]["phase"], told(second, "Stalled")["status"]) == ("Error", "True")
    await cloud.delete(PORT, "first", "taken")
    assert addresses(await cloud.ready(PORT, "second", "taken")) == ["10.0.1.50"]
    third = await cloud.ready(PORT, "third", "taken")
    assert third["status"]["macAddress"] == "fa:16:3e:00:00:50"


async def test_an_exhausted_pool_is_told_and_used_again(cloud: Cloud) -> None:
    await cloud.tenant("full")
    pools = [{"start": "10.0.1.10", "end": "10.0.1.13"}]  # one of them for the DHCP server
    await cloud.network("full", allocationPools=pools)
    for name in "abc":
        await cloud.port("full", name)
        await cloud.ready(PORT, name, "full")
    await cloud.port("full", "d")
    assert "internal-v4 (10.0.1.0/24)" in await cloud.because(PORT, "d", "full", "NoFreeAddress")
    freed = addresses(await cloud.client.get(PORT, "b", "full"))
    await cloud.delete(PORT, "b", "full")
    assert addresses(await cloud.ready(PORT, "d", "full")) == freed
    # More room helps as well.
    await cloud.port("full", "e")
    await cloud.because(PORT, "e", "full", "NoFreeAddress")
    wider = [{"start": "10.0.1.10", "end": "10.0.1.20"}]
    await cloud.client.merge_patch(SUBNET, "internal-v4", "full", {"spec": {"allocationPools": wider}})
    await cloud.ready(PORT, "e", "full")


async def test_dual_stack(cloud: Cloud) -> None:
    await cloud.tenant("dual")
    await cloud.network("dual")
    await cloud.create(
        SUBNET,
        "v6",
        "dual",
        spec={"networkRef": {"name": "internal"}, "cidr": "fd00::/64", "ipv6": {"addressMode": "SLAAC"}},
    )
    await cloud.ready(SUBNET, "v6", "dual")
    await cloud.port("dual", "a", macAddress="fa:16:3e:12:34:56")
    port = await cloud.ready(PORT, "a", "dual")
    assert [ip_address(ip).version for ip in addresses(port)] == [4, 6]
    assert addresses(port)[1] == "fd00::f816:3eff:fe12:3456"
    assert await cloud.client.get(IP_ALLOCATION, "internal.fd00-0000-0000-0000-f816-3eff-fe12-3456", "dual")


async def test_segments_and_mtu(cloud: Cloud) -> None:
    await cloud.tenant("seg")
    vni = {"provider": {"type": "VXLAN", "segmentationID": 4242}}
    await cloud.create(NETWORK, "one", "seg", spec=vni)
    await cloud.ready(NETWORK, "one", "seg")
    await cloud.create(NETWORK, "two", "seg", spec=vni)
    assert "VNI 4242 is held by Network one" in await cloud.because(NETWORK, "two", "seg", "SegmentTaken")
    await cloud.create(NETWORK, "big", "seg", spec={"mtu": 1500})
    assert "1450" in await cloud.because(NETWORK, "big", "seg", "MTUTooLarge")
    await cloud.client.merge_patch(NETWORK, "big", "seg", {"spec": {"mtu": 1400}})
    assert (await cloud.ready(NETWORK, "big", "seg"))["status"]["mtu"] == 1400
    await cloud.delete(NETWORK, "one", "seg")
    await cloud.ready(NETWORK, "two", "seg")


async def test_a_flat_network_waits_for_its_physical_network(cloud: Cloud) -> None:
    await cloud.tenant("flat")
    flat = {"provider": {"type": "Flat", "physicalNetworkRef": {"name": "wire"}}}
    await cloud.create(NETWORK, "a", "flat", spec=flat)
    assert "PhysicalNetwork wire" in await cloud.because(NETWORK, "a", "flat", "PhysicalNetworkNotFound")
    await cloud.create(PHYSICAL_NETWORK, "wire", spec={"mtu": 9000})
    network = await cloud.ready(NETWORK, "a", "flat")
    assert (network["status"]["physicalNetwork"], network["status"]["mtu"]) == ("wire", 9000)
    await cloud.create(NETWORK, "b", "flat", spec=flat)
    assert "already carries Network a" in await cloud.because(NETWORK, "b", "flat", "SegmentTaken")
    await cloud.because(PHYSICAL_NETWORK, "wire", None, "OnNoNode")
    await cloud.ensure(HYPERVISOR, "wired", spec={})
    await cloud.client.merge_patch(HYPERVISOR, "wired", None, {"status": {"physicalNetworks": ["wire"]}}, "status")
    assert (await cloud.ready(PHYSICAL_NETWORK, "wire"))["status"]["nodes"] == ["wired"]


async def test_missing_and_not_shared_networks_look_the_same(cloud: Cloud) -> None:
    await cloud.tenant("owner")
    await cloud.tenant("guest")
    await cloud.network("owner")
    for name, network in (("hidden", "internal"), ("missing", "nope")):
        await cloud.create(PORT, name, "guest", spec={"networkRef": {"name": network, "namespace": "owner"}})
    hidden = await cloud.because(PORT, "hidden", "guest", "NetworkNotFound")
    missing = await cloud.because(PORT, "missing", "guest", "NetworkNotFound")
    assert hidden.replace("internal", "nope") == missing
    access = {"spec": {"access": {"scope": "Shared", "tenants": ["guest"]}}}
    await cloud.client.merge_patch(NETWORK, "internal", "owner", access)
    port = await cloud.ready(PORT, "hidden", "guest")
    allocation = await cloud.client.get(IP_ALLOCATION, f"internal.{addresses(port)[0]}", "owner")
    assert allocation["spec"]["holder"]["namespace"] == "guest"
    # Who wants the same address in the owner's tenant is not told who has it.
    await cloud.port("owner", "rival", fixedIPs=[{"ip": addresses(port)[0]}])
    message = await cloud.because(PORT, "rival", "owner", "AddressTaken")
    assert "in use" in message
    assert "hidden" not in message
    # Access withdrawn: what is there stays, and holds the network.
    await cloud.client.merge_patch(
        NETWORK, "internal", "owner", {"spec": {"access": {"scope": "Private", "tenants": None}}}
    )
    await cloud.delete(PORT, "rival", "owner")
    await cloud.gone(PORT, "rival", "owner")
    await cloud.delete(NETWORK, "internal", "owner")
    message = await cloud.because(NETWORK, "internal", "owner", "InUse")
    assert "1 object of other tenants" in message
    assert told(await cloud.client.get(PORT, "hidden", "guest"), "Ready")["status"] == "True"
    for name in ("hidden", "missing"):
        await cloud.delete(PORT, name, "guest")
    await cloud.delete(SUBNET, "internal-v4", "owner")
    await cloud.gone(NETWORK, "internal", "owner")
    await cloud.delete(TENANT, "owner")
    await cloud.gone(TENANT, "owner")
    assert await cloud.leaks("owner") == []


async def test_a_stranger_cannot_hold_up_a_network(cloud: Cloud) -> None:
    await cloud.tenant("calm")
    await cloud.tenant("stranger")
    await cloud.network("calm")
    await cloud.create(PORT, "x", "stranger", spec={"networkRef": {"name": "internal", "namespace": "calm"}})
    await cloud.because(PORT, "x", "stranger", "NetworkNotFound")
    await cloud.delete(TENANT, "calm")
    await cloud.gone(TENANT, "calm")


async def test_other_addresses_for_an_unbound_port(cloud: Cloud) -> None:
    await cloud.tenant("moving")
    await cloud.network("moving")
    await cloud.port("moving", "a", fixedIPs=[{"ip": "10.0.1.50"}])
    await cloud.ready(PORT, "a", "moving")
    await cloud.client.merge_patch(PORT, "a", "moving", {"spec": {"fixedIPs": [{"ip": "10.0.1.60"}]}})
    await cloud.until(PORT, "a", "moving", lambda port: addresses(port) == ["10.0.1.60"])
    await cloud.gone(IP_ALLOCATION, "internal.10.0.1.50", "moving")


async def test_a_deleted_allocation_comes_back_to_its_port(cloud: Cloud) -> None:
    await cloud.tenant("repair")
    await cloud.network("repair")
    await cloud.port("repair", "a", fixedIPs=[{"ip": "10.0.1.50"}])
    port = await cloud.ready(PORT, "a", "repair")
    before = await cloud.client.get(IP_ALLOCATION, "internal.10.0.1.50", "repair")
    await cloud.delete(IP_ALLOCATION, "internal.10.0.1.50", "repair")
    await cloud.until(
        IP_ALLOCATION,
        "internal.10.0.1.50",
        "repair",
        lambda a: a["metadata"]["uid"] != before["metadata"]["uid"]
        and a["spec"]["holder"]["uid"] == port["metadata"]["uid"],
    )


async def test_allocations_of_the_dead_are_taken_back(cloud: Cloud) -> None:
    await cloud.tenant("dead")
    await cloud.network("dead")
    await cloud.port("dead", "a", fixedIPs=[{"ip": "10.0.1.50"}])
    await cloud.ready(PORT, "a", "dead")
    # Somebody takes the finalizer off by force.
    await cloud.client.merge_patch(PORT, "a", "dead", {"metadata": {"finalizers": None}})
    await cloud.delete(PORT, "a", "dead")
    with contextlib.suppress(NotFound):  # gone before the operator put its finalizer back
        await cloud.client.merge_patch(PORT, "a", "dead", {"metadata": {"finalizers": None}})
    await cloud.gone(IP_ALLOCATION, "internal.10.0.1.50", "dead")
