"""What the nodes are told of ports and groups, and what ports are told of nodes, on the real apiserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opnet_cloud import (
    GROUP,
    GROUP_SLICE,
    HYPERVISOR,
    IP_ALLOCATION,
    NETWORK,
    NETWORK_SLICE,
    PORT,
    SLICES,
    SUBNET,
    Cloud,
    Operators,
    addresses,
    told,
)

from crds.compute import Instance
from lab.api import ApiServer
from runtime.client import Client, NotFound
from runtime.kind import kind_of

Object = dict[str, Any]


@pytest.fixture
async def cloud(client: Client, apiserver: ApiServer) -> AsyncIterator[Cloud]:
    async with Operators(apiserver):
        yield Cloud(client)


async def members(cloud: Cloud, group: Object) -> dict[str, list[str]]:
    """Addresses by port UID, over all shards."""
    slices = [s for s in await cloud.list(GROUP_SLICE, SLICES) if s["spec"]["groupUID"] == group["metadata"]["uid"]]
    return {m["portUID"]: m["ips"] for s in slices for m in s["spec"].get("members", [])}


async def entries(cloud: Cloud, network: Object) -> list[Object]:
    uid = network["metadata"]["uid"]
    slices = [s for s in await cloud.list(NETWORK_SLICE, SLICES) if s["spec"]["networkUID"] == uid]
    return [entry for s in slices for entry in s["spec"].get("entries", [])]


async def test_the_life_of_a_bound_port(cloud: Cloud) -> None:
    await cloud.tenant("life")
    await cloud.network("life")
    await cloud.node("life-1", "192.0.2.1")
    await cloud.node("life-2", "192.0.2.2")
    await cloud.port("life", "a")
    port = await cloud.ready(PORT, "a", "life")
    uid = port["metadata"]["uid"]
    assert port["status"]["phase"] == "Down"
    network = await cloud.client.get(NETWORK, "internal", "life")
    assert await entries(cloud, network) == []

    work = await cloud.bind("life-1", port)

    async def in_the_slice() -> None:
        [entry] = await entries(cloud, network)
        assert (entry["portUID"], entry["nodeName"], entry["vtep"]) == (uid, "life-1", "192.0.2.1")
        assert (entry["mac"], entry["ips"]) == (port["status"]["macAddress"], addresses(port))

    await cloud.eventually(in_the_slice)
    building = await cloud.until(PORT, "a", "life", lambda p: p["status"]["phase"] == "Build")
    assert told(building, "Ready")["reason"] == "Binding"
    assert building["status"]["instance"] == "web-1"
    await cloud.report("life-1", work, "Running", uid, "Active")
    active = await cloud.until(PORT, "a", "life", lambda p: p["status"]["phase"] == "Active")
    assert [(b["nodeName"], b["state"]) for b in active["status"]["bindings"]] == [("life-1", "Active")]

    # The node's underlay address changes: everybody is told.
    await cloud.client.merge_patch(HYPERVISOR, "life-1", None, {"status": {"underlayIP": "192.0.2.9"}}, "status")

    async def moved() -> None:
        assert [e["vtep"] for e in await entries(cloud, network)] == ["192.0.2.9"]

    await cloud.eventually(moved)

    # Another address is asked for: not under a guest.
    await cloud.client.merge_patch(PORT, "a", "life", {"spec": {"fixedIPs": [{"ip": "10.0.1.77"}]}})
    waiting = await cloud.until(PORT, "a", "life", lambda p: told(p, "AddressesCurrent")["status"] == "False")
    assert addresses(waiting) == addresses(port)
    assert "web-1" in told(waiting, "AddressesCurrent")["message"]

    await cloud.report("life-1", work, "Stopped", uid, "Down")
    stopped = await cloud.until(PORT, "a", "life", lambda p: p["status"]["phase"] == "Down")
    assert told(stopped, "Ready")["reason"] == "Inactive"

    await cloud.delete(PORT, "a", "life")
    message = await cloud.because(PORT, "a", "life", "InUse")
    assert "Instance web-1" in message
    assert await cloud.client.get(IP_ALLOCATION, f"internal.{addresses(port)[0]}", "life")
    await cloud.unbind("life-1", work)
    await cloud.gone(PORT, "a", "life")
    assert await entries(cloud, network) == []
    with pytest.raises(NotFound):
        await cloud.client.get(IP_ALLOCATION, f"internal.{addresses(port)[0]}", "life")


async def test_a_port_that_migrates_is_on_two_nodes(cloud: Cloud) -> None:
    await cloud.tenant("move")
    await cloud.network("move")
    for node in ("move-1", "move-2"):
        await cloud.node(node, f"192.0.2.{node[-1]}")
    await cloud.port("move", "a")
    port = await cloud.ready(PORT, "a", "move")
    source = await cloud.bind("move-1", port)
    await cloud.report("move-1", source, "Running", port["metadata"]["uid"], "Active")
    target = await cloud.bind("move-2", port)
    both = await cloud.until(PORT, "a", "move", lambda p: len(p["status"].get("bindings") or []) == 2)
    assert [b["state"] for b in both["status"]["bindings"]] == ["Active", "Build"]
    network = await cloud.client.get(NETWORK, "internal", "move")
    assert sorted(e["nodeName"] for e in await entries(cloud, network)) == ["move-1", "move-2"]
    await cloud.report("move-2", target, "Running", port["metadata"]["uid"], "Active")
    await cloud.unbind("move-1", source)
    after = await cloud.until(PORT, "a", "move", lambda p: len(p["status"].get("bindings") or []) == 1)
    assert after["status"]["bindings"][0]["nodeName"] == "move-2"
    await cloud.unbind("move-2", target)
    await cloud.until(PORT, "a", "move", lambda p: "instance" not in p["status"])


async def test_a_group_tells_rules_and_members(cloud: Cloud) -> None:
    await cloud.tenant("groups")
    await cloud.network("groups")
    rule = {"name": "db", "direction": "Ingress", "protocol": "tcp", "portRangeMin": 5432, "etherType": "IPv4"}
    rules = [{**rule, "remoteGroupRef": {"name": "app"}}, {"name": "out", "direction": "Egress", "etherType": "IPv4"}]
    await cloud.create(GROUP, "db", "groups", spec={"rules": rules})
    group = await cloud.until(
        GROUP, "db", "groups", lambda g: told(g, "RulesResolved")["reason"] == "RemoteGroupNotFound"
    )
    assert told(group, "Reconciling")["reason"] == "RemoteGroupNotFound"
    assert "app" in told(group, "RulesResolved")["message"]
    assert group["status"]["rules"] == 2
    shard = await cloud.client.get(GROUP_SLICE, f"{group['metadata']['uid']}-0", SLICES)
    assert [r["direction"] for r in shard["spec"]["rules"]] == ["Egress"]  # the other rules are applied

    await cloud.port("groups", "early", securityGroupRefs=[{"name": "app"}])
    await cloud.because(PORT, "early", "groups", "SecurityGroupNotFound")
    await cloud.create(GROUP, "app", "groups", spec={"rules": []})
    app = await cloud.ready(GROUP, "app", "groups")
    await cloud.until(GROUP, "db", "groups", lambda g: told(g, "RulesResolved")["status"] == "True")

    async def resolved() -> None:
        shard = await cloud.client.get(GROUP_SLICE, f"{group['metadata']['uid']}-0", SLICES)
        assert app["metadata"]["uid"] in [r.get("remoteGroupUID") for r in shard["spec"]["rules"]]

    await cloud.eventually(resolved)
    early = await cloud.ready(PORT, "early", "groups")
    await cloud.port("groups", "pair", securityGroupRefs=[{"name": "app"}], allowedAddressPairs=[{"ip": "10.0.1.99"}])
    pair = await cloud.ready(PORT, "pair", "groups")

    async def told_members() -> None:
        assert await members(cloud, app) == {
            early["metadata"]["uid"]: addresses(early),
            pair["metadata"]["uid"]: [*addresses(pair), "10.0.1.99"],
        }

    await cloud.eventually(told_members)
    # Of `db` nobody asks who is in it, so nobody is told.
    await cloud.client.merge_patch(PORT, "pair", "groups", {"spec": {"securityGroupRefs": [{"name": "db"}]}})

    async def left() -> None:
        assert list(await members(cloud, app)) == [early["metadata"]["uid"]]

    await cloud.eventually(left)
    assert await members(cloud, group) == {}

    await cloud.delete(GROUP, "app", "groups")
    assert "Port early" in await cloud.because(GROUP, "app", "groups", "InUse")
    await cloud.delete(PORT, "early", "groups")
    await cloud.gone(GROUP, "app", "groups")
    await cloud.until(GROUP, "db", "groups", lambda g: told(g, "RulesResolved")["status"] == "False")
    assert await members(cloud, app) == {}


async def test_ports_without_groups_are_in_the_default_group(cloud: Cloud) -> None:
    await cloud.tenant("defaults")
    await cloud.network("defaults")
    await cloud.port("defaults", "guarded")
    await cloud.port("defaults", "none", securityGroupRefs=[])
    await cloud.port("defaults", "open", portSecurity=False)
    ports = {name: await cloud.ready(PORT, name, "defaults") for name in ("guarded", "none", "open")}
    group = await cloud.client.get(GROUP, "default", "defaults")

    async def only_the_guarded() -> None:
        assert list(await members(cloud, group)) == [ports["guarded"]["metadata"]["uid"]]

    await cloud.eventually(only_the_guarded)


async def test_deletion_says_what_it_waits_for(cloud: Cloud) -> None:
    await cloud.tenant("waits")
    await cloud.network("waits")
    for name in "abcd":
        await cloud.port("waits", name)
    for name in "abcd":
        await cloud.ready(PORT, name, "waits")
    await cloud.delete(NETWORK, "internal", "waits")
    await cloud.delete(SUBNET, "internal-v4", "waits")
    message = await cloud.because(NETWORK, "internal", "waits", "InUse")
    assert message == ("Network internal is used by Port a, Port b, Port c and 2 more: it goes when they are gone.")
    assert "Port a, Port b, Port c and 1 more" in await cloud.because(SUBNET, "internal-v4", "waits", "InUse")
    network = await cloud.client.get(NETWORK, "internal", "waits")
    assert (network["status"]["phase"], told(network, "InUse")["status"]) == ("Deleting", "True")
    # Nothing new comes onto what is going.
    await cloud.port("waits", "late")
    await cloud.because(PORT, "late", "waits", "NetworkNotFound")
    await asyncio.gather(*(cloud.delete(PORT, name, "waits") for name in ("a", "b", "c", "d", "late")))
    await cloud.gone(SUBNET, "internal-v4", "waits")
    await cloud.gone(NETWORK, "internal", "waits")


async def holders(cloud: Cloud, tenant: str) -> set[str]:
    return {allocation["spec"]["holder"]["name"] for allocation in await cloud.list(IP_ALLOCATION, tenant)}


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "never-arrives"])
async def test_a_port_that_is_deleted_while_its_work_object_is_made_keeps_its_address(
    cloud: Cloud, arrives: bool
) -> None:
    """The request that makes the work object may be under way when the port is deleted."""
    tenant = f"on-its-way-{arrives}".lower()
    await cloud.tenant(tenant)
    await cloud.network(tenant)
    await cloud.node(f"{tenant}-1", "192.0.2.7")
    wish = [{"name": "eth0", "portRef": {"name": "a"}}]
    spec = {"flavorRef": {"name": "f"}, "imageRef": {"name": "i"}, "networks": wish}
    await cloud.create(kind_of(Instance), "web-1", tenant, spec=spec)
    await cloud.port(tenant, "a")
    port = await cloud.ready(PORT, "a", tenant)
    await cloud.delete(PORT, "a", tenant)
    await asyncio.sleep(1)
    assert await holders(cloud, tenant) == {"a", "internal-v4"}
    if arrives:
        work = await cloud.bind(f"{tenant}-1", port)
        found = await cloud.until(PORT, "a", tenant, lambda p: told(p, "InUse")["status"] == "True")
        assert addresses(found) == addresses(port)
        await cloud.unbind(f"{tenant}-1", work)
    await cloud.gone(PORT, "a", tenant)
    assert await holders(cloud, tenant) == {"internal-v4"}
