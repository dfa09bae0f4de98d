"""What a tenant and a node come to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from crds.conditions import find_condition
from crds.identity import Tenant, TenantPhase
from operators.identity import node_plan, tenant_plan
from operators.identity.roles import slim, tenants_of
from operators.identity.tenant_plan import NamespaceState, Reason
from runtime.kind import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tenant(*members: dict[str, Any], **spec: Any) -> Tenant:
    return Tenant.model_validate(
        {"metadata": {"name": "acme", "uid": "t", "generation": 3}, "spec": {"members": list(members), **spec}}
    )


@pytest.mark.parametrize(
    ("namespace", "state"),
    [
        (None, NamespaceState.ABSENT),
        ({"metadata": {"name": "acme"}}, NamespaceState.TAKEN),
        ({"metadata": {"name": "acme", "labels": {"kumulus.dev/tenant": "globex"}}}, NamespaceState.TAKEN),
        ({"metadata": {"name": "acme", "labels": {"kumulus.dev/tenant": "acme"}}}, NamespaceState.OURS),
        (
            {"metadata": {"name": "acme", "labels": {"kumulus.dev/tenant": "acme"}, "deletionTimestamp": "x"}},
            NamespaceState.TERMINATING,
        ),
    ],
)
def test_whose_a_namespace_is(namespace: dict[str, Any] | None, state: NamespaceState) -> None:
    assert tenant_plan.namespace_state("acme", namespace) is state


def test_role_bindings_hold_exactly_the_members() -> None:
    bindings = tenant_plan.role_bindings(
        tenant(
            {"kind": "User", "name": "alice", "role": "admin"},
            {"kind": "Group", "name": "dev", "role": "member"},
            {"kind": "ServiceAccount", "name": "robot", "role": "member"},
            {"kind": "ServiceAccount", "name": "robot", "namespace": "ci", "role": "member"},
        )
    )
    assert set(bindings) == {"kumulus-tenant-admin", "kumulus-tenant-member"}
    assert bindings["kumulus-tenant-admin"]["roleRef"]["name"] == "kumulus-tenant-admin"
    assert bindings["kumulus-tenant-member"]["subjects"] == [
        {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "dev"},
        {"kind": "ServiceAccount", "name": "robot", "namespace": "acme"},
        {"kind": "ServiceAccount", "name": "robot", "namespace": "ci"},
    ]


def test_bindings_are_reconciled_exactly() -> None:
    desired = tenant_plan.role_bindings(tenant({"kind": "User", "name": "alice", "role": "admin"}))
    right = desired["kumulus-tenant-admin"]
    assert tenant_plan.plan_bindings(desired, [right]) == tenant_plan.BindingPlan((), ())
    assert tenant_plan.plan_bindings(desired, []).write == (right,)
    more = {**right, "subjects": [*right["subjects"], {"kind": "User", "name": "mallory"}]}
    assert tenant_plan.plan_bindings(desired, [more]).write == (right,)
    surplus = {**right, "metadata": {**right["metadata"], "name": "kumulus-tenant-reader"}}
    assert tenant_plan.plan_bindings(desired, [right, surplus]).delete == ("kumulus-tenant-reader",)
    wrong = {**right, "roleRef": {**right["roleRef"], "name": "cluster-admin"}}
    plan = tenant_plan.plan_bindings(desired, [wrong])
    assert (plan.delete, plan.write) == (("kumulus-tenant-admin",), (right,))
    assert tenant_plan.plan_bindings({}, [right]).delete == ("kumulus-tenant-admin",)


def test_the_default_group_is_openstacks() -> None:
    rules = tenant_plan.default_group("acme").to_dict()["spec"]["rules"]
    assert [(r["direction"], r["etherType"], (r.get("remoteGroupRef") or {}).get("name")) for r in rules] == [
        ("Egress", "IPv4", None),
        ("Egress", "IPv6", None),
        ("Ingress", "IPv4", "default"),
        ("Ingress", "IPv6", "default"),
    ]


@pytest.mark.parametrize(
    ("spec", "state", "phase", "ready", "reason"),
    [
        ({}, NamespaceState.OURS, TenantPhase.ACTIVE, "True", Reason.NAMESPACE_READY),
        ({"enabled": False}, NamespaceState.OURS, TenantPhase.DISABLED, "True", Reason.NAMESPACE_READY),
        ({}, NamespaceState.TAKEN, TenantPhase.PENDING, "False", Reason.NAMESPACE_TAKEN),
        ({}, NamespaceState.TERMINATING, TenantPhase.PENDING, "False", Reason.NAMESPACE_TERMINATING),
    ],
)
def test_status(spec: dict[str, Any], state: NamespaceState, phase: TenantPhase, ready: str, reason: Reason) -> None:
    status = tenant_plan.status(tenant(**spec), state, NOW)
    condition = find_condition(status.conditions, "Ready")
    assert condition is not None
    assert (status.phase, condition.status, condition.reason) == (phase, ready, reason)
    assert status.observed_generation == 3
    assert status.namespace == ("acme" if state is NamespaceState.OURS else None)
    stalled = find_condition(status.conditions, "Stalled")
    assert (stalled is not None) == (state is NamespaceState.TAKEN)


def test_quota_says_that_it_is_not_enforced() -> None:
    with_quota = tenant_plan.status(tenant(quota={"cores": 4}), NamespaceState.OURS, NOW)
    condition = find_condition(with_quota.conditions, "QuotaEnforced")
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "NotYetEnforced")
    assert find_condition(tenant_plan.status(tenant(), NamespaceState.OURS, NOW).conditions, "QuotaEnforced") is None


def test_what_remains_of_a_namespace_is_told() -> None:
    namespace = {
        "status": {
            "conditions": [
                {"type": "NamespaceContentRemaining", "status": "True", "message": "ports has 1 resource instances"},
                {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "all fine"},
            ]
        }
    }
    assert tenant_plan.remaining(namespace) == "ports has 1 resource instances."
    status = tenant_plan.deleting_status(tenant(), namespace, NOW)
    condition = find_condition(status.conditions, "Deleting")
    assert condition is not None
    assert "ports has 1" in condition.message


def test_an_agent_reaches_its_own_namespace_and_hypervisor_alone() -> None:
    rights = dict(node_plan.rights("node1"))
    assert list(rights) == [ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING]
    assert rights[ROLE]["metadata"]["namespace"] == "kumulus-node-node1"
    assert all(rule["resourceNames"] == ["node1"] for rule in rights[CLUSTER_ROLE]["rules"])
    for binding in (rights[ROLE_BINDING], rights[CLUSTER_ROLE_BINDING]):
        assert [s["name"] for s in binding["subjects"]] == ["system:kumulus:node:node1"]
    verbs = {rule["resources"][0]: set(rule["verbs"]) for rule in rights[ROLE]["rules"]}
    assert verbs["secrets"] == {"get", "list", "watch"}
    assert not verbs["nodeinstances"] & {"create", "delete", "deletecollection"}


def test_rights_agree_whatever_else_is_in_the_object() -> None:
    _, role = node_plan.rights("node1")[0]
    seen = {**role, "metadata": {**role["metadata"], "uid": "x", "labels": {**role["metadata"]["labels"], "a": "b"}}}
    assert node_plan.agrees(role, seen)
    assert not node_plan.agrees(role, {**seen, "rules": seen["rules"][1:]})
    assert not node_plan.agrees(role, None)


def test_of_others_roles_only_the_name_is_kept() -> None:
    other = {"metadata": {"name": "x", "namespace": "n", "labels": {}}, "roleRef": {}, "subjects": []}
    assert slim(other) == {"metadata": {"name": "x", "namespace": "n"}}
    assert tenants_of(slim(other)) == []
    ours = {**other, "metadata": {"name": "x", "namespace": "n", "labels": {"kumulus.dev/tenant": "n"}}}
    assert tenants_of(slim(ours)) == ["n"]
