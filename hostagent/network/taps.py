"""Persistent tap devices. Source: Linux, Documentation/networking/tuntap.rst.

A tap that QEMU has opened keeps working in whatever namespace it is moved to, but QEMU opens taps in the host's
namespace. So each start of a guest makes its tap anew there. Whether a process holds a tap shows in its carrier.
"""

from __future__ import annotations

import fcntl
import os
import struct

from pyroute2 import IPRoute

from hostagent.network import netns
from hostagent.network import operations as ops
from hostagent.network.errors import NotProgrammed, TapInUse, TapMissing
from hostagent.network.execute import Executor, delete_link, index_of, namespace_descriptor
from hostagent.network.observe import link_of
from hostagent.network.report import TapPlace, TapState
from hostagent.network.ruleset import TABLE
from hostagent.network.sockets import Sockets
from hostagent.network.state import ForwardingDatabaseEntry, Link

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def make(name: str) -> None:
    """In the calling thread's namespace. A process may open it with a single queue only, with or without `vnet_hdr`."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        )
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


class Taps:
    """The life of a tap, on the data plane's thread."""

    def __init__(self, sockets: Sockets, executor: Executor) -> None:
        self._sockets = sockets
        self._executor = executor

    def state(self, name: str) -> TapState:
        inner = self._inner_link(name)
        if inner is not None:
            return TapState(name, TapPlace.DATA_PLANE, attached=inner.up and inner.master is not None, held=inner.held)
        host = link_of(self._sockets.host.route, name)
        if host is not None:
            return TapState(name, TapPlace.HOST, held=host.held)
        return TapState(name, TapPlace.ABSENT)

    def create(self, name: str) -> None:
        self.delete(name)
        make(name)

    def delete(self, name: str) -> None:
        found = [(route, link) for route in self._routes() if (link := link_of(route, name)) is not None]
        if any(link.held for _, link in found):
            raise TapInUse(f"a process has the tap {name} open: the guest runs")
        for route, _ in found:
            delete_link(route, name)

    def attach(self, wanted: Link, entries: frozenset[ForwardingDatabaseEntry]) -> None:
        name = wanted.name
        if not self._sockets.inner.firewall.has_element("bridge", TABLE, "roles", f'"{name}"'):
            raise NotProgrammed(f"the kernel has no rules for the tap {name}: reconcile first")
        found = self._inner_link(name)
        if found is None:
            index = index_of(self._sockets.host.route, name)
            if index is None:
                raise TapMissing(f"there is no tap {name}: create it and let QEMU open it")
            with namespace_descriptor(self._sockets.inner_path) as descriptor:
                self._sockets.host.route.link("set", index=index, net_ns_fd=descriptor)
            found = Link(name, "tun", -1, up=False)
        self._executor.do(ops.SetLink("", name, mtu=wanted.mtu, master=wanted.master, port=wanted.port))
        for entry in sorted(entries):
            self._executor.do(ops.AddForwarding("", entry))
        if not found.up:
            self._executor.do(ops.SetLink("", name, up=True))

    def detach(self, name: str) -> None:
        if self._inner_link(name) is not None:
            self._executor.do(ops.DetachLink("", name))

    def _inner_link(self, name: str) -> Link | None:
        return link_of(self._sockets.inner.route, name) if netns.exists(self._sockets.inner_path) else None

    def _routes(self) -> list[IPRoute]:
        routes = [self._sockets.host.route]
        if netns.exists(self._sockets.inner_path):
            routes.append(self._sockets.inner.route)
        return routes
