"""Tenants on the real apiserver: namespaces, members' access, deletion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from opnet_cloud import GROUP, HYPERVISOR, PORT, TENANT, WORK, Cloud, Operators, told

from lab.api import ApiServer
from runtime.client import Client, Forbidden, NotFound
from runtime.kind import NAMESPACE, ROLE_BINDING, SECRET


@pytest.fixture
async def cloud(client: Client, apiserver: ApiServer) -> AsyncIterator[Cloud]:
    async with Operators(apiserver):
        yield Cloud(client)


async def may_list(client: Client, namespace: str) -> bool:
    try:
        await client.list(PORT, namespace)
    except Forbidden:
        return False
    return True


async def allowed(client: Client, namespace: str, expected: bool) -> None:
    """RBAC is cached by the apiserver, so a change shows after a moment."""
    async with asyncio.timeout(20):
        while await may_list(client, namespace) is not expected:
            await asyncio.sleep(0.1)


async def test_a_tenant_is_a_namespace_with_members(apiserver: ApiServer, cloud: Cloud) -> None:
    await cloud.tenant("members", members=[{"kind": "User", "name": "mia", "role": "member"}])
    namespace = await cloud.client.get(NAMESPACE, "members")
    assert namespace["metadata"]["labels"]["kumulus.dev/tenant"] == "members"
    mia = await Client.connect(apiserver.user_kubeconfig("mia"))
    try:
        await allowed(mia, "members", True)
        assert not await may_list(mia, "default")
        binding = await cloud.client.get(ROLE_BINDING, "kumulus-tenant-member", "members")
        # Somebody lets himself in: the operator puts him out again.
        subjects = [*binding["subjects"], {"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}]
        await cloud.client.merge_patch(ROLE_BINDING, "kumulus-tenant-member", "members", {"subjects": subjects})
        await cloud.until(
            ROLE_BINDING, "kumulus-tenant-member", "members", lambda b: b["subjects"] == binding["subjects"]
        )
        await cloud.client.merge_patch(TENANT, "members", None, {"spec": {"members": []}})
        await allowed(mia, "members", False)
        await cloud.gone(ROLE_BINDING, "kumulus-tenant-member", "members")
    finally:
        await mia.close()


async def test_a_foreign_namespace_is_never_taken_over(cloud: Cloud) -> None:
    await cloud.create(NAMESPACE, "foreign")
    await cloud.create(TENANT, "foreign", spec={})
    message = await cloud.because(TENANT, "foreign", None, "NamespaceTaken")
    assert "kumulus.dev/tenant=foreign" in message
    tenant = await cloud.client.get(TENANT, "foreign")
    assert told(tenant, "Stalled")["status"] == "True"
    await cloud.delete(TENANT, "foreign")
    await cloud.gone(TENANT, "foreign")
    namespace = await cloud.client.get(NAMESPACE, "foreign")
    assert "deletionTimestamp" not in namespace["metadata"]


async def test_a_labelled_namespace_is_adopted(cloud: Cloud) -> None:
    await cloud.create(NAMESPACE, "adopted", metadata={"labels": {"kumulus.dev/tenant": "adopted"}})
    await cloud.tenant("adopted", enabled=False, quota={"cores": 4})
    namespace = await cloud.client.get(NAMESPACE, "adopted")
    assert namespace["metadata"]["labels"]["kumulus.dev/tenant-enabled"] == "false"
    tenant = await cloud.client.get(TENANT, "adopted")
    assert tenant["status"]["phase"] == "Disabled"
    assert told(tenant, "Enabled")["status"] == "False"
    assert told(tenant, "QuotaEnforced")["reason"] == "NotYetEnforced"


async def test_the_default_group_comes_back(cloud: Cloud) -> None:
    await cloud.tenant("comeback")
    first = await cloud.client.get(GROUP, "default", "comeback")
    await cloud.delete(GROUP, "default", "comeback")
    second = await cloud.until(
        GROUP, "default", "comeback", lambda group: group["metadata"]["uid"] != first["metadata"]["uid"]
    )
    assert second["spec"] == first["spec"]


async def test_a_deleted_tenant_leaves_nothing(cloud: Cloud) -> None:
    await cloud.tenant("leaving", members=[{"kind": "User", "name": "lea", "role": "admin"}])
    await cloud.network("leaving")
    port = await cloud.port("leaving", "a")
    await cloud.ready(PORT, "a", "leaving")
    await cloud.node("leaving-1", "192.0.2.1")
    work = await cloud.bind("leaving-1", await cloud.client.get(PORT, "a", "leaving"))
    # The network operator knows of the work object once the port tells of it.
    await cloud.report("leaving-1", work, "Running", port["metadata"]["uid"], "Active")
    await cloud.until(PORT, "a", "leaving", lambda p: p["status"]["phase"] == "Active")
    await cloud.delete(TENANT, "leaving")
    await cloud.until(PORT, "a", "leaving", lambda p: told(p, "InUse")["status"] == "True")
    tenant = await cloud.until(TENANT, "leaving", None, lambda t: "ports" in told(t, "Deleting")["message"])
    assert tenant["status"]["phase"] == "Deleting"
    await cloud.unbind("leaving-1", work)
    await cloud.gone(TENANT, "leaving", 60)
    await cloud.gone(NAMESPACE, "leaving")
    assert await cloud.leaks("leaving", [port["metadata"]["uid"]]) == []


async def test_an_agent_reaches_its_own_objects_alone(apiserver: ApiServer, cloud: Cloud) -> None:
    await cloud.node("own", "192.0.2.1")
    await cloud.node("other", "192.0.2.2")
    await cloud.until(ROLE_BINDING, "kumulus-agent", "kumulus-node-own", lambda b: True)
    await cloud.tenant("agents")
    await cloud.network("agents")
    await cloud.port("agents", "a")
    port = await cloud.ready(PORT, "a", "agents")
    work = await cloud.bind("own", port)
    foreign = await cloud.bind("other", port)
    agent = await Client.connect(apiserver.user_kubeconfig("system:kumulus:node:own", ["kumulus:nodes"]))
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await agent.list(WORK, "kumulus-node-own")
                    break
                except Forbidden:
                    await asyncio.sleep(0.1)
        await agent.list(SECRET, "kumulus-node-own")
        await agent.merge_patch(WORK, work, "kumulus-node-own", {"status": {"state": "Running"}}, "status")
        await agent.merge_patch(WORK, work, "kumulus-node-own", {"metadata": {"finalizers": None}})
        await agent.get(HYPERVISOR, "own")
        await agent.merge_patch(HYPERVISOR, "own", None, {"status": {"instances": 1}}, "status")
        for refused in (
            agent.list(WORK, "kumulus-node-other"),
            agent.list(WORK),
            agent.list(SECRET, "kumulus-node-other"),
            agent.list(SECRET, "agents"),
            agent.get(HYPERVISOR, "other"),
            agent.merge_patch(HYPERVISOR, "other", None, {"status": {"instances": 1}}, "status"),
            agent.merge_patch(WORK, foreign, "kumulus-node-other", {"status": {"state": "Running"}}, "status"),
            agent.delete(WORK, work, "kumulus-node-own"),
            agent.merge_patch(WORK, work, "kumulus-node-own", {"spec": {"vcpus": 64}}),
            agent.merge_patch(HYPERVISOR, "own", None, {"spec": {"cpuAllocationRatio": 64}}),
            agent.get(PORT, "a", "agents"),
        ):
            with pytest.raises(Forbidden):
                await refused
    finally:
        await agent.close()


async def test_a_nodes_namespace_goes_with_its_hypervisor_but_never_under_guests(cloud: Cloud) -> None:
    await cloud.tenant("retire")
    await cloud.network("retire")
    await cloud.port("retire", "a")
    await cloud.node("retired", "192.0.2.1")
    work = await cloud.bind("retired", await cloud.ready(PORT, "a", "retire"))
    await cloud.node("empty", "192.0.2.2")
    await cloud.delete(HYPERVISOR, "empty")
    await cloud.gone(NAMESPACE, "kumulus-node-empty")
    await cloud.delete(HYPERVISOR, "retired")
    await asyncio.sleep(1)
    assert await cloud.client.get(WORK, work, "kumulus-node-retired")
    assert "deletionTimestamp" not in (await cloud.client.get(NAMESPACE, "kumulus-node-retired"))["metadata"]
    # The agent lives and tells of its node again: everything is as it was.
    await cloud.node("retired", "192.0.2.1")
    with pytest.raises(NotFound):
        await cloud.client.get(HYPERVISOR, "empty")
