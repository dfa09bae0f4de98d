"""The NIC that carries the traffic between nodes."""

from __future__ import annotations

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_MOST = 65535
"""The longest IP packet; the loopback device says more."""


def underlay_mtu(address: str) -> int | None:
    """The MTU, in bytes, of the NIC that has this address; None when none has it. Blocks."""
    with IPRoute() as route:
        found = list(route.get_addr(address=address))
        if not found:
            return None
        try:
            (link,) = route.link("get", index=found[0]["index"])
        except NetlinkError:
            return None  # it went meanwhile
        return min(int(link.get_attr("IFLA_MTU")), _MOST)
