"""Names that stand for values: what is allocated is an object named after it, so that it exists once.

See the table in docs/contracts.md.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

FINALIZER = "network.kumulus.dev/operator"

DEFAULT_GROUP = "default"
"""The group of a tenant's ports that name none."""
GROUP_ANNOTATION = "network.kumulus.dev/security-group"
"""On a SecurityGroupSlice: namespace/name of its group."""
NODE_NAMESPACE_PREFIX = "kumulus-node-"


def address_name(network: str, address: IPv4Address | IPv6Address) -> str:
    """The name of an IPAllocation: `internal.10.0.1.5`, `internal.fd00-0000-...-0005`."""
    return f"{network}.{address.exploded.replace(':', '-')}"


def mac_name(network: str, mac: str) -> str:
    """The name of a MACAllocation: `internal.fa-16-3e-00-00-50`."""
    return f"{network}.{mac.replace(':', '-')}"


def vxlan_segment(vni: int) -> str:
    return f"vxlan-{vni}"


def vlan_segment(physical_network: str, vlan: int) -> str:
    return f"vlan-{physical_network}-{vlan}"


def flat_segment(physical_network: str) -> str:
    return f"flat-{physical_network}"


def slice_name(uid: str, shard: int) -> str:
    """The name of a NetworkSlice or SecurityGroupSlice."""
    return f"{uid}-{shard}"


def node_of(namespace: str) -> str | None:
    """The node whose namespace it is."""
    return namespace.removeprefix(NODE_NAMESPACE_PREFIX) if namespace.startswith(NODE_NAMESPACE_PREFIX) else None
