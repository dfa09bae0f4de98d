"""The netlink and nft handles of the data plane's thread: one pair per namespace, opened in it and kept.

A netlink socket belongs to the namespace in which it was opened, wherever its thread goes later. No helper processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from hostagent.network import netns
from hostagent.network.firewall import Firewall


@dataclass
class Handles:
    route: IPRoute
    firewall: Firewall

    def close(self) -> None:
        self.route.close()


class Sockets:
    """Not for several threads: everything is called on the data plane's thread, whose home is the host's namespace."""

    def __init__(self, netns_dir: Path, namespace: str, host_namespace: Path | None) -> None:
        self.netns_dir = netns_dir
        self.namespace = namespace
        self._host_namespace = host_namespace
        self._host: Handles | None = None
        self._inner: Handles | None = None
        self._inner_inode = 0

    def path(self, namespace: str) -> Path:
        return self.netns_dir / namespace

    @property
    def inner_path(self) -> Path:
        return self.path(self.namespace)

    def go_home(self) -> None:
        """Put the calling thread into the host's namespace, once."""
        if self._host_namespace is not None:
            descriptor = netns.open_path(self._host_namespace)
            with contextlib.closing(open(descriptor, "rb")):  # noqa: PTH123 (a descriptor, not a path)
                netns.enter(descriptor)

    @property
    def host(self) -> Handles:
        if self._host is None:
            self._host = Handles(IPRoute(), Firewall())
        return self._host

    @property
    def inner(self) -> Handles:
        """Of `kumulus`. Raises FileNotFoundError when the namespace does not exist."""
        inode = netns.inode(self.inner_path)
        if self._inner is not None and inode != self._inner_inode:
            self.close_inner()
        if self._inner is None:
            with netns.inside(self.inner_path):
                self._inner = Handles(IPRoute(), Firewall())
            self._inner_inode = inode
        return self._inner

    @contextlib.contextmanager
    def child(self, namespace: str) -> Iterator[IPRoute]:
        """The calling thread is in a child namespace, with a socket of it."""
        with netns.inside(self.path(namespace)):
            route = IPRoute()
            try:
                yield route
            finally:
                route.close()

    def close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def close(self) -> None:
        self.close_inner()
        if self._host is not None:
            self._host.close()
            self._host = None
