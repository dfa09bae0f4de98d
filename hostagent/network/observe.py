"""Reading the node's state: netlink, nft, sysctls and processes. Changes nothing."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from hostagent.network import dnsmasq, names, netns
from hostagent.network.links import CHILD_SYSCTLS, PARENT_SYSCTLS
from hostagent.network.ruleset import TABLE
from hostagent.network.sockets import Sockets
from hostagent.network.state import (
    BridgePort,
    Child,
    DhcpProcess,
    ForwardingDatabaseEntry,
    Link,
    Neighbour,
    NodeState,
    Route,
    Vxlan,
)

# include/uapi/linux/neighbour.h
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
AF_BRIDGE = 7
_IFF_UP = 1
_RTPROT_KERNEL = 2
RT_TABLE_LOCAL = 255


def observe(sockets: Sockets, run_dir: Path, underlay_table: str) -> NodeState:
    host = sockets.host
    host_links = _with_addresses(host.route, read_links(host.route))
    underlay = host.firewall.tables([("inet", underlay_table)]).get(("inet", underlay_table))
    strays = (
        frozenset(each.name for each in (run_dir / "dhcp").iterdir()) if (run_dir / "dhcp").is_dir() else frozenset()
    )
    children = _children(sockets, run_dir)
    unbound = _unbound(sockets)
    if not netns.exists(sockets.inner_path):
        return NodeState(
            underlay_table=underlay,
            host_links=host_links,
            children=children,
            stray_namespaces=unbound,
            stray_directories=strays,
        )
    inner = sockets.inner
    tables = inner.firewall.tables([("bridge", TABLE), ("inet", TABLE)])
    with netns.inside(sockets.inner_path):
        sysctls = read_sysctls(PARENT_SYSCTLS)
    links = read_links(inner.route)
    by_index = {index: link.name for index, link in links.items()}
    return NodeState(
        namespace=True,
        sysctls=sysctls,
        bridge_table=tables.get(("bridge", TABLE)),
        inet_table=tables.get(("inet", TABLE)),
        underlay_table=underlay,
        links={link.name: link for link in links.values()},
        forwarding=_forwarding(inner.route, by_index),
        neighbours=_neighbours(inner.route, by_index),
        children=children,
        host_links=host_links,
        stray_namespaces=unbound,
        stray_directories=strays,
    )


def read_sysctls(wanted: Mapping[str, str]) -> dict[str, str]:
    """Those names' values in the calling thread's namespace. What does not exist is left out."""
    result = {}
    for name, value in wanted.items():
        try:
            result[name] = Path("/proc/sys", name).read_text().strip()
        except FileNotFoundError:
            if is_of_missing_ipv6(name):
                result[name] = value
    return result


def is_of_missing_ipv6(name: str) -> bool:
    """A kernel without IPv6 has nothing of it to be set."""
    return name.startswith("net/ipv6/") and not Path("/proc/sys/net/ipv6").exists()


def read_links(route: IPRoute) -> dict[int, Link]:
    """Every device but `lo`, by index."""
    messages = {message["index"]: message for message in route.get_links()}
    device_names = {index: message.get_attr("IFLA_IFNAME") for index, message in messages.items()}
    return {
        index: _link(message, device_names)
        for index, message in messages.items()
        if message.get_attr("IFLA_IFNAME") != "lo"
    }


def link_of(route: IPRoute, name: str) -> Link | None:
    """One device. Its master is named by an index only: "#3"."""
    found = route.link_lookup(ifname=name)
    if not found:
        return None
    message = next(iter(route.link("get", index=found[0])))
    master = message.get_attr("IFLA_MASTER")
    return _link(message, {master: f"#{master}"} if master else {})


def _link(message: Any, device_names: dict[int, str]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    slave_kind = info.get_attr("IFLA_INFO_SLAVE_KIND") if info else None
    slave = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        master=device_names.get(message.get_attr("IFLA_MASTER") or 0),
        vxlan=_vxlan(data) if kind == "vxlan" else None,
        port=_bridge_port(slave) if slave and slave_kind == "bridge" else None,
        snooping=bool(data.get_attr("IFLA_BR_MCAST_SNOOPING")) if data and kind == "bridge" else False,
        held=kind == "tun" and bool(message.get_attr("IFLA_CARRIER")),
    )


def _vxlan(data: Any) -> Vxlan:
    local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or ""
    return Vxlan(
        data.get_attr("IFLA_VXLAN_ID"),
        local,
        data.get_attr("IFLA_VXLAN_PORT"),
        bool(data.get_attr("IFLA_VXLAN_LEARNING")),
    )


def _bridge_port(slave: Any) -> BridgePort:
    return BridgePort(
        learning=bool(slave.get_attr("IFLA_BRPORT_LEARNING")),
        unicast_flood=bool(slave.get_attr("IFLA_BRPORT_UNICAST_FLOOD")),
        multicast_flood=bool(slave.get_attr("IFLA_BRPORT_MCAST_FLOOD")),
        neigh_suppress=bool(slave.get_attr("IFLA_BRPORT_NEIGH_SUPPRESS")),
    )


def _with_addresses(route: IPRoute, links: dict[int, Link]) -> dict[str, Link]:
    addresses: dict[int, list[str]] = {}
    for message in route.get_addr():
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        addresses.setdefault(message["index"], []).append(address)
    return {link.name: replace(link, addresses=tuple(addresses.get(index, ()))) for index, link in links.items()}


def _forwarding(route: IPRoute, devices: dict[int, str]) -> frozenset[ForwardingDatabaseEntry]:
    """The static entries: the VXLAN devices' own and the bridges' sticky ones, not what was learned."""
    result = set()
    for message in route.fdb("dump"):
        device, mac = devices.get(message["ifindex"]), message.get_attr("NDA_LLADDR")
        if device is None:
            continue
        destination = message.get_attr("NDA_DST")
        if message["flags"] & NTF_SELF and destination:
            result.add(ForwardingDatabaseEntry(device, mac, destination))
        elif message["flags"] & NTF_STICKY and message["state"] & NUD_NOARP:
            result.add(ForwardingDatabaseEntry(device, mac))
    return frozenset(result)


def _neighbours(route: IPRoute, devices: dict[int, str]) -> frozenset[Neighbour]:
    result = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in route.get_neighbours(family=family):
            device = devices.get(message["ifindex"])
            if device and device.startswith(names.BRIDGE) and message["state"] & NUD_PERMANENT:
                result.add(Neighbour(device, message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")))
    return frozenset(result)


def _child_paths(sockets: Sockets) -> list[Path]:
    return sorted(sockets.netns_dir.glob(f"{_prefix(sockets)}*")) if sockets.netns_dir.is_dir() else []


def _prefix(sockets: Sockets) -> str:
    return f"{sockets.namespace}-net-"


def _unbound(sockets: Sockets) -> frozenset[str]:
    """Between the making of the file and the mount on it, or between unmounting and removing, an agent was killed."""
    return frozenset(path.name for path in _child_paths(sockets) if not netns.exists(path))


def _children(sockets: Sockets, run_dir: Path) -> dict[str, Child]:
    prefix = _prefix(sockets)
    result = {}
    for path in _child_paths(sockets):
        if not netns.exists(path):
            continue
        process = dnsmasq.find(run_dir / "dhcp" / path.name.removeprefix(prefix), path)
        with sockets.child(path.name) as route:
            result[path.name] = _child(route, path.name, process)
    return result


def _child(route: IPRoute, namespace: str, process: DhcpProcess | None) -> Child:
    found = [message for message in route.get_links() if message.get_attr("IFLA_IFNAME") == names.DHCP_DEVICE]
    sysctls = read_sysctls(CHILD_SYSCTLS)
    if not found:
        return Child(namespace, None, sysctls=sysctls, process=process)
    message = found[0]
    device = replace(_link(message, {}), mac=message.get_attr("IFLA_ADDRESS"))
    addresses = frozenset(
        f"{each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
        for each in route.get_addr(index=message["index"], family=socket.AF_INET)
    )
    return Child(namespace, device, addresses, _routes(route, message["index"]), sysctls, process=process)


def _routes(route: IPRoute, index: int) -> frozenset[Route]:
    result = set()
    for each in route.get_routes(family=socket.AF_INET):
        if each["proto"] == _RTPROT_KERNEL:
            continue
        local = each.get_attr("RTA_TABLE") == RT_TABLE_LOCAL
        device = names.DHCP_DEVICE if each.get_attr("RTA_OIF") == index else "lo"
        result.add(Route(f"{each.get_attr('RTA_DST')}/{each['dst_len']}", device, local))
    return frozenset(result)
