"""Names that docs/contracts.md fixes, and the names of what is made for an instance."""

from __future__ import annotations

import hashlib

FINALIZER = "compute.kumulus.dev/operator"
AGENT_FINALIZER = "node.kumulus.dev/agent"
PORT_FINALIZER = "network.kumulus.dev/operator"
INSTANCE_LABEL = "compute.kumulus.dev/instance"
AGENT_LEASE = "agent"

_NODE_PREFIX = "kumulus-node-"
_LONGEST = 63


def node_namespace(node: str) -> str:
    """Where a node's work objects are."""
    return _NODE_PREFIX + node


def node_of(namespace: str) -> str | None:
    """The node whose namespace this is; None for any other namespace."""
    return namespace.removeprefix(_NODE_PREFIX) if namespace.startswith(_NODE_PREFIX) else None


def port_name(instance: str, card: str) -> str:
    """`web-1-eth0`; what would be too long ends with a hash instead, the same each time."""
    name = f"{instance}-{card}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def user_data_secret(uid: str) -> str:
    """The Secret in the node's namespace that holds an instance's user-data."""
    return f"{uid}-userdata"
