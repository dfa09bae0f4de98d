"""Carrying out the planner's steps. Each can be repeated: what is there already, or gone already, is no error."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostagent.network import dnsmasq, netns
from hostagent.network import operations as ops
from hostagent.network.addresses import version
from hostagent.network.conntrack import end_connections
from hostagent.network.dhcp import lease_file
from hostagent.network.errors import DataPlaneError, NicInUse
from hostagent.network.links import ALL_VTEPS
from hostagent.network.observe import (
    AF_BRIDGE,
    NTF_MASTER,
    NTF_SELF,
    NTF_STICKY,
    NUD_NOARP,
    NUD_PERMANENT,
    RT_TABLE_LOCAL,
    is_of_missing_ipv6,
)
from hostagent.network.report import Problem
from hostagent.network.ruleset import METADATA_ADDRESS, TABLE
from hostagent.network.sockets import Sockets
from hostagent.network.state import BridgePort, ForwardingDatabaseEntry, Route

GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})


@contextlib.contextmanager
def tolerating(codes: Iterable[int]) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def port_attributes(port: BridgePort) -> dict[str, int]:
    return {
        "learning": int(port.learning),
        "unicast_flood": int(port.unicast_flood),
        "mcast_flood": int(port.multicast_flood),
        "neigh_suppress": int(port.neigh_suppress),
    }


def index_of(route: IPRoute, name: str) -> int | None:
    found = route.link_lookup(ifname=name)
    return found[0] if found else None


def write_sysctls(values: Iterable[tuple[str, str]]) -> None:
    """In the calling thread's namespace."""
    for name, value in values:
        path = Path("/proc/sys", name)
        if not path.exists() and name.startswith("net/bridge/"):
            subprocess.run(["modprobe", "br_netfilter"], check=False, capture_output=True)
        if not path.exists():
            if is_of_missing_ipv6(name):
                continue
            raise DataPlaneError(f"this kernel has no {path}: load br_netfilter and nf_conntrack on the host")
        path.write_text(value)


class Executor:
    """Lives on the data plane's thread."""

    def __init__(self, sockets: Sockets, run_dir: Path, state_dir: Path, launcher: tuple[str, ...]) -> None:
        self._sockets = sockets
        self._run_dir = run_dir
        self._state_dir = state_dir
        self._launcher = launcher

    def run(self, operations: Iterable[ops.Operation]) -> list[Problem]:
        """Carry out a plan. A network whose step fails is left as it is then, the others go on.

        Without the ports' rules nothing that comes after them is done: what passes is what passed before.
        """
        problems: list[Problem] = []
        failed: set[str] = set()
        for operation in operations:
            if operation.scope and operation.scope in failed:
                continue
            try:
                self.do(operation)
            except (DataPlaneError, NetlinkError, OSError, subprocess.SubprocessError) as error:
                failed.add(operation.scope)
                reason = type(error).__name__ if isinstance(error, DataPlaneError) else "OperationFailed"
                problems.append(Problem(operation.scope or "node", reason, f"{ops.describe(operation)}: {error}"))
                if isinstance(operation, ops.Filter) and not operation.host:
                    break
        return problems

    def do(self, operation: ops.Operation) -> None:
        inner = self._sockets
        match operation:
            case ops.CreateNamespace():
                netns.create(inner.inner_path)
            case ops.SetSysctls(namespace=namespace, values=values):
                with netns.inside(inner.path(namespace)):
                    write_sysctls(values)
            case ops.Filter(host=True, commands=commands):
                inner.host.firewall.commit(commands)
            case ops.Filter(commands=commands):
                inner.inner.firewall.commit(commands)
            case ops.EndConnections(stale=stale):
                with netns.inside(inner.inner_path):
                    end_connections(stale)
                notes = [f"flush set bridge {TABLE} {name}" for name in ("stale4", "stale6")]
                inner.inner.firewall.commit(notes)
            case ops.CreateLink():
                self._create_link(operation)
            case ops.SetLink():
                self._set_link(operation)
            case ops.DetachLink(name=name):
                index = index_of(inner.inner.route, name)
                if index is not None:
                    inner.inner.route.link("set", index=index, state="down", master=0)
            case ops.DeleteLink(name=name, host=host):
                delete_link((inner.host if host else inner.inner).route, name)
            case ops.TakeNic(name=name):
                self._take_nic(name)
            case ops.ReturnNic(name=name):
                self._return_nic(name)
            case ops.AddForwarding(entry=entry):
                self._add_forwarding(entry)
            case ops.DeleteForwarding(entry=entry):
                with tolerating(GONE):
                    self._forwarding("del", entry)
            case ops.AddNeighbour(neighbour=each):
                self._neighbour("replace", each.device, each.ip, each.mac)
            case ops.DeleteNeighbour(neighbour=each):
                with tolerating(GONE):
                    self._neighbour("del", each.device, each.ip, each.mac)
            case _:
                self._do_child(operation)

    def _do_child(self, operation: ops.Operation) -> None:
        match operation:
            case ops.CreateChild(namespace=namespace):
                netns.create(self._sockets.path(namespace))
            case ops.DeleteChild(namespace=namespace):
                netns.delete(self._sockets.path(namespace))
            case ops.ConfigureChild():
                self._configure_child(operation)
            case ops.StartDhcp(namespace=namespace, files=files, replace_pid=pid):
                if pid is not None:
                    dnsmasq.stop(pid)
                with netns.inside(self._sockets.path(namespace)):
                    dnsmasq.start(files, self._launcher)
            case ops.ReloadDhcp(files=files, pid=pid):
                dnsmasq.reload(files, pid)
            case ops.StopDhcp(pid=pid):
                dnsmasq.stop(pid)
            case ops.DeleteDirectory(network_id=network_id):
                directory = self._run_dir / "dhcp" / network_id
                dnsmasq.remove_files(directory, lease_file(network_id, self._state_dir))
            case _:
                raise TypeError(f"unknown operation {operation!r}")

    def _create_link(self, operation: ops.CreateLink) -> None:
        link = operation.link
        inner = self._sockets.inner.route
        with tolerating({errno.EEXIST}):
            if link.kind == "bridge":
                inner.link(
                    "add",
                    ifname=link.name,
                    kind="bridge",
                    mtu=link.mtu,
                    address=link.mac,
                    br_stp_state=0,
                    br_mcast_snooping=0,
                    br_forward_delay=0,
                )
            elif link.vxlan is not None:
                local = "vxlan_local6" if version(link.vxlan.local) == 6 else "vxlan_local"
                # One request of the host's namespace: the device appears in `kumulus`, its socket stays.
                with namespace_descriptor(self._sockets.inner_path) as descriptor:
                    self._sockets.host.route.link(
                        "add",
                        ifname=link.name,
                        kind="vxlan",
                        mtu=link.mtu,
                        vxlan_id=link.vxlan.vni,
                        vxlan_port=link.vxlan.port,
                        vxlan_learning=0,
                        net_ns_fd=descriptor,
                        **{local: link.vxlan.local},
                    )
            elif operation.peer is not None and operation.child is not None:
                with namespace_descriptor(self._sockets.path(operation.child)) as descriptor:
                    peer = {
                        "ifname": operation.peer.name,
                        "net_ns_fd": descriptor,
                        "address": operation.peer.mac,
                        "mtu": operation.peer.mtu,
                    }
                    inner.link("add", ifname=link.name, kind="veth", mtu=link.mtu, peer=peer)
            else:
                raise TypeError(f"no way to make a {link.kind}")

    def _set_link(self, operation: ops.SetLink) -> None:
        route = self._sockets.inner.route
        index = self._index(operation.name)
        if operation.mtu is not None:
            route.link("set", index=index, mtu=operation.mtu)
        if operation.snooping is not None:
            route.link("set", index=index, kind="bridge", br_mcast_snooping=int(operation.snooping))
        if operation.master is not None:
            route.link("set", index=index, master=self._index(operation.master))
        if operation.port is not None:
            route.brport("set", index=index, **port_attributes(operation.port))
        if operation.up is not None:
            route.link("set", index=index, state="up" if operation.up else "down")

    def _index(self, name: str) -> int:
        index = index_of(self._sockets.inner.route, name)
        if index is None:
            raise DataPlaneError(f"there is no device {name} in {self._sockets.namespace}")
        return index

    def _take_nic(self, name: str) -> None:
        route = self._sockets.host.route
        index = index_of(route, name)
        if index is None:
            raise DataPlaneError(f"there is no NIC {name} on this node: correct the node's physical networks")
        link = next(iter(route.link("get", index=index)))
        used = [each.get_attr("IFA_ADDRESS") for each in route.get_addr(index=index)]
        used = [each for each in used if not each.startswith("fe80:")]
        if used or link.get_attr("IFLA_MASTER"):
            what = f"has the addresses {', '.join(used)}" if used else "belongs to a bridge or bond"
            raise NicInUse(f"the NIC {name} {what} of the host: give the physical network a NIC of its own")
        with namespace_descriptor(self._sockets.inner_path) as descriptor:
            route.link("set", index=index, net_ns_fd=descriptor)

    def _return_nic(self, name: str) -> None:
        """A NIC of hardware would come back by itself with the end of `kumulus`; a veth would be destroyed with it."""
        index = index_of(self._sockets.inner.route, name)
        if index is None:
            return
        home = netns.open_current()
        try:
            self._sockets.inner.route.link("set", index=index, net_ns_fd=home)
        finally:
            os.close(home)
        # The move took it down.
        host = self._sockets.host.route
        back = index_of(host, name)
        if back is not None:
            host.link("set", index=back, state="up")

    def _forwarding(self, command: str, entry: ForwardingDatabaseEntry) -> None:
        route = self._sockets.inner.route
        if entry.destination is not None:
            index = self._index(entry.device)
            # Said to be the device's own: without flags the kernel would give it to the bridge too.
            route.fdb(command, ifindex=index, lladdr=entry.mac, dst=entry.destination, flags=NTF_SELF)
            return
        route.neigh(
            command,
            family=AF_BRIDGE,
            ifindex=self._index(entry.device),
            lladdr=entry.mac,
            flags=NTF_MASTER | NTF_STICKY,
            state=NUD_NOARP,
        )

    def _add_forwarding(self, entry: ForwardingDatabaseEntry) -> None:
        if entry.destination is not None and entry.mac == ALL_VTEPS:
            with tolerating({errno.EEXIST}):
                self._forwarding("append", entry)
        else:
            self._forwarding("replace", entry)

    def _neighbour(self, command: str, device: str, ip: str, mac: str) -> None:
        arguments: dict[str, Any] = {"ifindex": self._index(device), "dst": ip, "lladdr": mac}
        self._sockets.inner.route.neigh(
            command, family=AF_INET6 if version(ip) == 6 else AF_INET, state=NUD_PERMANENT, **arguments
        )

    def _configure_child(self, operation: ops.ConfigureChild) -> None:
        wanted = operation.wanted
        device = wanted.device
        if device is None:
            raise TypeError("a child namespace is planned with its device")
        with self._sockets.child(wanted.namespace) as route:
            write_sysctls(wanted.sysctls.items())
            route.link("set", index=1, state="up")
            index = index_of(route, device.name)
            if index is None:
                raise DataPlaneError(f"there is no {device.name} in {wanted.namespace}")
            route.link("set", index=index, mtu=device.mtu, address=device.mac, state="up")
            for each in operation.delete_addresses:
                with tolerating(GONE):
                    change_address(route, "del", index, each)
            for each in operation.add_addresses:
                with tolerating({errno.EEXIST}):
                    change_address(route, "add", index, each)
            for gone in operation.delete_routes:
                with tolerating(GONE):
                    change_route(route, "del", index, gone)
            for new in operation.add_routes:
                with tolerating({errno.EEXIST}):
                    change_route(route, "add", index, new)


@contextlib.contextmanager
def namespace_descriptor(path: Path) -> Iterator[int]:
    descriptor = netns.open_path(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def delete_link(route: IPRoute, name: str) -> None:
    index = index_of(route, name)
    if index is not None:
        with tolerating(GONE):
            route.link("del", index=index)


def change_address(route: IPRoute, command: str, index: int, address: str) -> None:
    ip, _, length = address.partition("/")
    route.addr(command, index=index, address=ip, prefixlen=int(length))


def change_route(route: IPRoute, command: str, index: int, wanted: Route) -> None:
    if wanted.local:
        route.route(command, dst=wanted.destination, oif=1, table=RT_TABLE_LOCAL, type="local", scope="host")
    else:
        route.route(command, dst=wanted.destination, oif=index, scope="link", prefsrc=METADATA_ADDRESS)
