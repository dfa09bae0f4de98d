"""Names, labels and finalizers of the identity domain; docs/contracts.md has those that others rely on."""

from __future__ import annotations

FINALIZER = "identity.kumulus.dev/operator"

TENANT_LABEL = "kumulus.dev/tenant"
"""On a namespace and what the operator puts into it: the Tenant whose it is."""
TENANT_ENABLED_LABEL = "kumulus.dev/tenant-enabled"
"""On a tenant's namespace: `true` or `false`, as the Tenant's spec.enabled."""
NODE_LABEL = "kumulus.dev/node"
"""On a node's namespace and the rights of its agent: the node."""

DEFAULT_GROUP = "default"
"""The SecurityGroup that every tenant has."""


def role_name(role: str) -> str:
    """The ClusterRole of a role, and the RoleBinding that gives it to members."""
    return f"kumulus-tenant-{role}"


def node_namespace(node: str) -> str:
    return f"kumulus-node-{node}"


def node_user(node: str) -> str:
    """Who an agent is, as its client certificate says."""
    return f"system:kumulus:node:{node}"


def node_role(node: str) -> str:
    """The ClusterRole and ClusterRoleBinding of an agent."""
    return f"kumulus:node:{node}"
