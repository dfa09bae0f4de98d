"""Names of devices and namespaces, as docs/contracts.md fixes them. An interface name has at most 15 characters
(IFNAMSIZ)."""

from __future__ import annotations

import re

NAMESPACE = "kumulus"
UNDERLAY_TABLE = "kumulus-underlay"
DHCP_DEVICE = "dhcp0"

BRIDGE, VXLAN, DHCP_PEER, TAP = "br", "vx", "dh", "tap"

_OWN_DEVICE = re.compile(r"(?:br|vx|dh|tap)[0-9a-f]{11}")


def short_id(uid: str) -> str:
    """The first 11 hex digits of a UID. Raises ValueError when it has fewer."""
    digits = uid.replace("-", "").lower()[:11]
    if not re.fullmatch(r"[0-9a-f]{11}", digits):
        raise ValueError(f"UID {uid!r} has fewer than 11 hex digits")
    return digits


def bridge(network_uid: str) -> str:
    return BRIDGE + short_id(network_uid)


def vxlan(network_uid: str) -> str:
    return VXLAN + short_id(network_uid)


def dhcp_peer(network_uid: str) -> str:
    """The end of the veth pair that is enslaved to the bridge; the other end is `dhcp0` in the child namespace."""
    return DHCP_PEER + short_id(network_uid)


def tap(port_uid: str) -> str:
    return TAP + short_id(port_uid)


def child_namespace(network_uid: str, parent: str = NAMESPACE) -> str:
    return f"{parent}-net-{short_id(network_uid)}"


def is_own_device(name: str) -> bool:
    """True for a name that only this data plane gives."""
    return _OWN_DEVICE.fullmatch(name) is not None
