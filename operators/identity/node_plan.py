"""What an agent may do: its namespace, and the roles there and on its Hypervisor. Pure builders.

An agent writes only its Hypervisor, its Lease, Events, and its work objects' finalizers and status; docs/contracts.md,
"Identity". What all agents share (the slices, creating a Hypervisor) is in the chart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from operators.identity.names import NODE_LABEL, node_namespace, node_role, node_user
from runtime.kind import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
AGENT_ROLE = "kumulus-agent"


def namespace(node: str) -> Object:
    return {"metadata": {"name": node_namespace(node), "labels": {NODE_LABEL: node}}}


def rights(node: str) -> list[tuple[Kind, Object]]:
    """The role objects of a node's agent, in the order in which they are written."""
    labels = {NODE_LABEL: node}
    subjects = [{"kind": "User", "apiGroup": _RBAC, "name": node_user(node)}]
    local = {"name": AGENT_ROLE, "namespace": node_namespace(node), "labels": labels}
    wide = {"name": node_role(node), "labels": labels}
    return [
        (ROLE, {"metadata": local, "rules": _namespace_rules()}),
        (
            ROLE_BINDING,
            {
                "metadata": local,
                "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": AGENT_ROLE},
                "subjects": subjects,
            },
        ),
        (CLUSTER_ROLE, {"metadata": wide, "rules": _hypervisor_rules(node)}),
        (
            CLUSTER_ROLE_BINDING,
            {
                "metadata": wide,
                "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": node_role(node)},
                "subjects": subjects,
            },
        ),
    ]


def _namespace_rules() -> list[Object]:
    return [
        # `patch` and `update` of the object itself are for its finalizers.
        _rule("node.kumulus.dev", ["nodeinstances"], ["get", "list", "watch", "patch", "update"]),
        _rule("node.kumulus.dev", ["nodeinstances/status"], ["get", "patch", "update"]),
        _rule("", ["secrets"], ["get", "list", "watch"]),
        _rule("coordination.k8s.io", ["leases"], ["get", "create", "update", "patch"]),
        _rule("events.k8s.io", ["events"], ["create"]),
    ]


def _hypervisor_rules(node: str) -> list[Object]:
    resources = ["hypervisors", "hypervisors/status"]
    return [{**_rule("compute.kumulus.dev", resources, ["get", "patch", "update"]), "resourceNames": [node]}]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


_CONTENT = ("rules", "roleRef", "subjects")


def agrees(desired: Mapping[str, Any], observed: Mapping[str, Any] | None) -> bool:
    """Whether an object as seen says what is desired, labels of others and the server's additions aside."""
    if observed is None:
        return False
    labels = desired["metadata"]["labels"].items()
    return labels <= (observed["metadata"].get("labels") or {}).items() and all(
        observed.get(part) == desired.get(part) for part in _CONTENT
    )
