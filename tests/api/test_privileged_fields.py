"""Fields that reach beyond a tenant: refused to its members, by name; open to the infrastructure and the operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from crds.compute import Instance, InstanceSet
from crds.image import Image
from crds.meta import Resource
from crds.network import Network, Port, QoSPolicy, SubnetPool
from lab.api import ApiServer
from runtime.client import Client, Forbidden, NotFound
from runtime.kind import CLUSTER_ROLE_BINDING, NAMESPACE, ROLE_BINDING, Kind, kind_of

TENANT = "privileged"
INSTANCE = {"flavorRef": {"name": "f"}, "imageRef": {"name": "i"}}
PORT = {"networkRef": {"name": "n"}}

Case = tuple[type[Resource], dict[str, Any], dict[str, Any], str]
"""Kind, a spec that everybody may write, the fields that not everybody may, and how they are called."""
CASES: list[Case] = [
    (Network, {}, {"provider": {"type": "VXLAN", "segmentationID": 7}}, "spec.provider"),
    (Network, {}, {"external": True}, "spec.external: true"),
    (Network, {}, {"access": {"scope": "Public"}}, "spec.access.scope: Public"),
    (Network, {}, {"portSecurity": False}, "spec.portSecurity: false"),
    (Port, PORT, {"portSecurity": False}, "spec.portSecurity: false"),
    (
        Port,
        {"networkRef": {"name": "n", "namespace": "infra"}},
        {"allowedAddressPairs": [{"ip": "0.0.0.0/0"}]},
        "spec.allowedAddressPairs on a network of another namespace",
    ),
    (
        Port,
        {"networkRef": {"name": "n", "namespace": "infra"}},
        {"macAddress": "fa:16:3e:00:00:50"},
        "spec.macAddress on a network of another namespace",
    ),
    (
        Image,
        {"source": {"url": "https://images.example.org/x"}, "diskFormat": "qcow2"},
        {"access": {"scope": "Public"}},
        "spec.access.scope: Public",
    ),
    (SubnetPool, {"prefixes": ["10.0.0.0/8"]}, {"access": {"scope": "Public"}}, "spec.access.scope: Public"),
    (QoSPolicy, {}, {"access": {"scope": "Public"}}, "spec.access.scope: Public"),
    (Instance, INSTANCE, {"requestedNode": "node1"}, "spec.requestedNode"),
    (
        InstanceSet,
        {"replicas": 1, "template": {"spec": INSTANCE}},
        {"template": {"spec": {**INSTANCE, "requestedNode": "node1"}}},
        "spec.template.spec.requestedNode",
    ),
]
HARMLESS: list[tuple[type[Resource], dict[str, Any]]] = [
    (Network, {"external": False, "portSecurity": True, "access": {"scope": "Shared", "tenants": ["globex"]}}),
    (Network, {"access": {"scope": "Community"}}),
    (
        Port,
        {**PORT, "macAddress": "fa:16:3e:00:00:50", "portSecurity": True, "allowedAddressPairs": [{"ip": "10.0.1.99"}]},
    ),
    (Port, {"networkRef": {"name": "n", "namespace": TENANT}, "allowedAddressPairs": [{"ip": "10.0.1.99"}]}),
    (Port, {"networkRef": {"name": "n", "namespace": "infra"}, "allowedAddressPairs": []}),
    (Instance, INSTANCE),
]


class Users:
    """Clients by role."""

    def __init__(self, admin: Client, member: Client, infrastructure: Client, operator: Client) -> None:
        self.admin = admin
        self.member = member
        self.infrastructure = infrastructure
        self.operator = operator


async def granted(client: Client, attempt: Callable[[Client], Awaitable[Any]]) -> None:
    """RBAC is cached by the apiserver, so a grant shows after a moment."""
    async with asyncio.timeout(20):
        while True:
            try:
                await attempt(client)
            except Forbidden:
                await asyncio.sleep(0.05)
            else:
                return


async def in_force(who: Client) -> None:
    """So are policies, for the first moments of an apiserver."""
    async with asyncio.timeout(20):
        while True:
            try:
                await create(who, Network, {"external": True}, dry=True)
            except Forbidden:
                return
            await asyncio.sleep(0.05)


def binding(role: str, user: str, namespace: str | None = None) -> dict[str, Any]:
    kind = ROLE_BINDING if namespace else CLUSTER_ROLE_BINDING
    name = f"test-{user}"
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }


@pytest.fixture
async def users(apiserver: ApiServer, client: Client, operator_client: Client) -> AsyncIterator[Users]:
    """A member of the tenant, somebody of the infrastructure, the operators."""
    async with AsyncExitStack() as stack:

        async def user(name: str) -> Client:
            made = await Client.connect(apiserver.user_kubeconfig(name))
            stack.push_async_callback(made.close)
            return made

        users = Users(client, await user("pat"), await user("ines"), operator_client)
        try:
            await client.get(NAMESPACE, TENANT)
        except NotFound:
            await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}})
            await client.create(ROLE_BINDING, binding("kumulus-tenant-admin", "pat", TENANT))
            await client.create(CLUSTER_ROLE_BINDING, binding("kumulus:infrastructure", "ines"))
        await granted(users.member, lambda who: create(who, Network, {}, dry=True))
        await granted(users.infrastructure, lambda who: create(who, Network, {}, dry=True))
        await in_force(users.member)
        yield users


def manifest(resource: type[Resource], spec: dict[str, Any], name: str) -> dict[str, Any]:
    kind = kind_of(resource)
    meta = {"name": name, "namespace": TENANT}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec}


async def create(
    who: Client, resource: type[Resource], spec: dict[str, Any], name: str = "x", *, dry: bool = False
) -> dict[str, Any]:
    query = {"dryRun": "All"} if dry else {}
    return await who.request("POST", kind_of(resource).path(TENANT), query=query, body=manifest(resource, spec, name))


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0].__name__} {case[3]}" for case in CASES])
async def test_a_privileged_field_is_for_the_infrastructure(users: Users, case: Case) -> None:
    resource, plain, field, called = case
    kind = kind_of(resource)
    privileged = {**plain, **field}
    await create(users.member, resource, plain, dry=True)
    with pytest.raises(Forbidden) as refusal:
        await create(users.member, resource, privileged, dry=True)
    told = str(refusal.value)
    assert f"{called} is for those who run the infrastructure: leave it out, or ask them for it" in told
    assert f"the right to use-privileged {kind.plural}.{kind.group} in namespace {TENANT}" in told
    for who in (users.admin, users.infrastructure, users.operator):
        await create(who, resource, privileged, dry=True)


@pytest.mark.parametrize(("resource", "spec"), HARMLESS, ids=lambda value: str(value)[:60])
async def test_what_is_not_privileged_is_the_tenants_own(users: Users, resource: type[Resource], spec: Any) -> None:
    await create(users.member, resource, spec, dry=True)


async def test_the_policies_are_sound(client: Client) -> None:
    """The apiserver checks their expressions against the schemas of what they match, and warns in their status."""
    kind = Kind("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "", namespaced=False)
    for name in ("privileged-fields.kumulus.dev", "nodes.kumulus.dev"):
        async with asyncio.timeout(20):
            while "typeChecking" not in (policy := await client.get(kind, name)).get("status", {}):
                await asyncio.sleep(0.1)
        assert policy["status"]["typeChecking"] == {}


async def test_it_is_asked_for_each_field_that_is_new(users: Users) -> None:
    """A port of the tenant's without port security, made by the infrastructure: the tenant may change the rest."""
    kind = kind_of(Port)
    await create(users.infrastructure, Port, {**PORT, "portSecurity": False}, "trunk")
    await create(users.member, Port, PORT, "plain")
    try:
        patch = {"metadata": {"labels": {"role": "trunk"}}, "spec": {"securityGroupRefs": []}}
        await users.member.merge_patch(kind, "trunk", TENANT, patch)
        with pytest.raises(Forbidden, match="portSecurity: false"):
            await users.member.merge_patch(kind, "plain", TENANT, {"spec": {"portSecurity": False}})
        await users.member.merge_patch(kind, "trunk", TENANT, {"spec": {"portSecurity": True}})
        with pytest.raises(Forbidden, match="portSecurity: false"):
            await users.member.merge_patch(kind, "trunk", TENANT, {"spec": {"portSecurity": False}})
    finally:
        for name in ("trunk", "plain"):
            await users.admin.delete(kind, name, TENANT)
