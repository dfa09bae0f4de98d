"""What a Tenant comes to in its namespace: labels, role bindings, the security group `default`. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from crds.conditions import Condition, ConditionStatus, remove_condition, set_condition
from crds.identity import Member, MemberKind, Tenant, TenantPhase, TenantStatus
from crds.meta import NameRef, ObjectMeta
from crds.network import SecurityGroup, SecurityGroupRule, SecurityGroupSpec
from crds.vocabulary import Direction, EtherType
from operators.identity.names import DEFAULT_GROUP, TENANT_ENABLED_LABEL, TENANT_LABEL, role_name
from operators.network.names import FINALIZER as NETWORK_FINALIZER
from operators.verdict import Verdict, ready, stalled, summarized, waiting

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"


class Reason(StrEnum):
    """Why a Tenant is as it is."""

    NAMESPACE_READY = "NamespaceReady"
    NAMESPACE_PENDING = "NamespacePending"
    NAMESPACE_TAKEN = "NamespaceTaken"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    DELETING = "Deleting"
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    NOT_YET_ENFORCED = "NotYetEnforced"


class NamespaceState(StrEnum):
    """What the namespace of a tenant's name is to the tenant."""

    ABSENT = "Absent"
    OURS = "Ours"
    TERMINATING = "Terminating"
    TAKEN = "Taken"


def namespace_state(tenant: str, namespace: Mapping[str, Any] | None) -> NamespaceState:
    """A namespace is a tenant's only if its label says so: none is taken over because of its name alone."""
    if namespace is None:
        return NamespaceState.ABSENT
    meta = namespace["metadata"]
    if (meta.get("labels") or {}).get(TENANT_LABEL) != tenant:
        return NamespaceState.TAKEN
    return NamespaceState.TERMINATING if meta.get("deletionTimestamp") else NamespaceState.OURS


def namespace_labels(tenant: Tenant) -> dict[str, str]:
    return {TENANT_LABEL: tenant.metadata.name, TENANT_ENABLED_LABEL: "true" if tenant.spec.enabled else "false"}


def role_bindings(tenant: Tenant) -> dict[str, Object]:
    """The RoleBindings that a tenant's namespace has, by name: one for each role that somebody has."""
    namespace = tenant.metadata.name
    subjects: dict[str, list[Object]] = {}
    for member in sorted(tenant.spec.members, key=lambda m: (m.kind, m.namespace, m.name)):
        subjects.setdefault(member.role, []).append(_subject(member, namespace))
    return {
        role_name(role): {
            "metadata": {"name": role_name(role), "namespace": namespace, "labels": {TENANT_LABEL: namespace}},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role_name(role)},
            "subjects": members,
        }
        for role, members in subjects.items()
    }


def _subject(member: Member, tenant_namespace: str) -> Object:
    if member.kind is MemberKind.SERVICE_ACCOUNT:
        return {"kind": member.kind, "name": member.name, "namespace": member.namespace or tenant_namespace}
    return {"kind": member.kind, "apiGroup": _RBAC, "name": member.name}


@dataclass(frozen=True)
class BindingPlan:
    """Names of RoleBindings to delete, then whole RoleBindings to write."""

    delete: tuple[str, ...]
    write: tuple[Object, ...]


def plan_bindings(desired: Mapping[str, Object], observed: Iterable[Object]) -> BindingPlan:
    """From the RoleBindings that bear the tenant's label, or one of the desired names, to exactly the desired ones.

    A roleRef cannot be changed, so a binding with a wrong one is deleted first.
    """
    seen = {binding["metadata"]["name"]: binding for binding in observed}
    wrong = [name for name, old in seen.items() if name in desired and old["roleRef"] != desired[name]["roleRef"]]
    surplus = [name for name in seen if name not in desired]
    write = [
        new
        for name, new in desired.items()
        if name not in seen
        or name in wrong
        or seen[name].get("subjects") != new["subjects"]
        or not new["metadata"]["labels"].items() <= (seen[name]["metadata"].get("labels") or {}).items()
    ]
    return BindingPlan(tuple(sorted(wrong + surplus)), tuple(write))


def default_group(tenant: str) -> SecurityGroup:
    """The group `default` as OpenStack makes it: everything out, and in from the group itself."""
    rules = [
        SecurityGroupRule(name=f"egress-{family.lower()}", direction=Direction.EGRESS, ether_type=family)
        for family in EtherType
    ]
    rules += [
        SecurityGroupRule(
            name=f"ingress-{family.lower()}",
            direction=Direction.INGRESS,
            ether_type=family,
            remote_group_ref=NameRef(name=DEFAULT_GROUP),
        )
        for family in EtherType
    ]
    return SecurityGroup(
        metadata=ObjectMeta(
            name=DEFAULT_GROUP,
            namespace=tenant,
            labels={TENANT_LABEL: tenant},
            finalizers=[NETWORK_FINALIZER],
        ),
        spec=SecurityGroupSpec(description="Default security group", rules=rules),
    )


def verdict(tenant: str, state: NamespaceState) -> Verdict:
    """The summary of a tenant that is not being deleted."""
    match state:
        case NamespaceState.TAKEN:
            return stalled(
                Reason.NAMESPACE_TAKEN,
                f"Namespace {tenant} exists and is not labelled {TENANT_LABEL}={tenant}: label it so that the tenant"
                " may take it over, or delete one of the two and choose another name.",
            )
        case NamespaceState.TERMINATING:
            return waiting(
                Reason.NAMESPACE_TERMINATING,
                f"Namespace {tenant} is being deleted; it is made anew when it is gone.",
            )
        case NamespaceState.ABSENT:
            return waiting(Reason.NAMESPACE_PENDING, f"Namespace {tenant} is being made.")
        case NamespaceState.OURS:
            return ready(
                Reason.NAMESPACE_READY, f"Namespace {tenant} with its roles and default security group is set."
            )


def status(tenant: Tenant, state: NamespaceState, now: datetime) -> TenantStatus:
    """The status of a tenant that is not being deleted."""
    generation = tenant.metadata.generation
    name = tenant.metadata.name
    conditions = summarized(tenant.status.conditions, verdict(name, state), generation, now)
    if tenant.spec.enabled:
        enabled = (ConditionStatus.TRUE, Reason.ENABLED, "The tenant may work.")
    else:
        message = "spec.enabled is false: instances are stopped and new ones refused."
        enabled = (ConditionStatus.FALSE, Reason.DISABLED, message)
    conditions = set_condition(conditions, "Enabled", *enabled, generation, now)
    conditions = _quota_conditions(conditions, tenant, now)
    ours = state is NamespaceState.OURS
    active = TenantPhase.ACTIVE if tenant.spec.enabled else TenantPhase.DISABLED
    return tenant.status.model_copy(
        update={
            "phase": active if ours else TenantPhase.PENDING,
            "namespace": name if ours else None,
            "observed_generation": generation,
            "conditions": conditions,
        }
    )


def _quota_conditions(conditions: list[Condition], tenant: Tenant, now: datetime) -> list[Condition]:
    if tenant.spec.quota is None:
        return remove_condition(conditions, "QuotaEnforced")
    message = "spec.quota is kept, but nothing is refused because of it in this release."
    return set_condition(
        conditions,
        "QuotaEnforced",
        ConditionStatus.FALSE,
        Reason.NOT_YET_ENFORCED,
        message,
        tenant.metadata.generation,
        now,
    )


def deleting_status(tenant: Tenant, namespace: Mapping[str, Any], now: datetime) -> TenantStatus:
    """The status of a tenant whose namespace is on its way out: what remains in it, as the apiserver tells it."""
    generation = tenant.metadata.generation
    message = f"Namespace {tenant.metadata.name} is being deleted. {remaining(namespace)}".strip()
    conditions = summarized(tenant.status.conditions, waiting(Reason.DELETING, message), generation, now)
    conditions = set_condition(
        conditions, "Deleting", ConditionStatus.TRUE, Reason.NAMESPACE_TERMINATING, message, generation, now
    )
    return tenant.status.model_copy(
        update={"phase": TenantPhase.DELETING, "observed_generation": generation, "conditions": conditions}
    )


_REMAINS = ("NamespaceContentRemaining", "NamespaceFinalizersRemaining", "NamespaceDeletionContentFailure")


def remaining(namespace: Mapping[str, Any]) -> str:
    """What the namespace controller says is still there; empty when it has not said anything yet."""
    conditions = (namespace.get("status") or {}).get("conditions") or []
    told = {c["type"]: c["message"] for c in conditions if c["status"] == "True"}
    return " ".join(f"{told[type_].rstrip('.')}." for type_ in _REMAINS if type_ in told)
