"""Nodes and guests for tests of the data plane, all in namespaces of this test run's own.

A node is a namespace with one NIC on a switch; its DataPlane runs in the test's process. A guest is a namespace
with a tap `eth0` whose frames a thread carries to and from the port's tap, as QEMU would: `vnet_hdr` and checksum
offload on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hostagent.network import names, netns
from hostagent.network.dataplane import DataPlane, DataPlaneConfig

T = TypeVar("T")
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
UNDERLAY_MTU = 1600


def within(path: Path, call: Callable[[], T]) -> T:
    with netns.inside(path):
        return call()


def open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return descriptor


class Guest:
    """What runs behind a tap. `pull_the_plug` ends it as a killed QEMU would."""

    def __init__(self, path: Path, host: Path, tap: str, mac: str, mtu: int = 1450) -> None:
        self.path = path
        self.mac = mac
        netns.create(path)
        self._tap = within(host, lambda: open_tap(tap))
        # Addresses are usable at once, without a second of detection.
        self.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        self._own = within(path, lambda: open_tap("eth0"))
        self._stop, self._stopped = os.pipe()
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "eth0", "address", mac, "mtu", str(mtu), "up")
        self._thread = threading.Thread(target=self._carry, name=f"guest-{path.name}")
        self._thread.start()

    def _carry(self) -> None:
        poll = select.poll()
        for descriptor in (self._tap, self._own, self._stop):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._stop:
                    return
                with contextlib.suppress(BlockingIOError):
                    frame = os.read(descriptor, 70000)
                    # A tap that is down loses frames, as a cable that is not plugged in.
                    with contextlib.suppress(OSError):
                        os.write(self._own if descriptor == self._tap else self._tap, frame)

    def pull_the_plug(self) -> None:
        if self._thread.is_alive():
            os.close(self._stopped)
            self._thread.join()
            for descriptor in (self._tap, self._own, self._stop):
                os.close(descriptor)
        netns.delete(self.path)

    def run(self, *argv: str, timeout: float = 10, check: bool = True) -> subprocess.CompletedProcess[str]:
        return within(
            self.path,
            lambda: subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=check),
        )

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return within(
            self.path, lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )

    def configure(self, *addresses: str) -> None:
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))

    def pings(self, address: str, count: int = 1) -> bool:
        result = self.run("ping", "-n", "-c", str(count), "-i", "0.1", "-W", "0.5", address, check=False)
        return result.returncode == 0

    def raw_socket(self) -> socket.socket:
        """Of frames, as the guest sends and sees them."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            made.bind(("eth0", 0))
            return made

        return within(self.path, make)

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        made = within(self.path, lambda: socket.socket(socket.AF_INET, kind))
        made.settimeout(2)
        return made


class Node:
    def __init__(self, world: World, name: str, number: int) -> None:
        self.name = name
        self.underlay_ip = f"172.30.0.{number}"
        self.path = world.namespaces / f"host-{name}"
        self.directory = world.directory / name
        self.world = world
        self.guests: list[Guest] = []
        self.config = DataPlaneConfig(
            run_dir=self.directory / "run",
            state_dir=self.directory / "state",
            netns_dir=self.directory / "netns",
            host_namespace=self.path,
        )
        self.directory.mkdir()
        netns.create(self.path)
        self._plug("eth0", f"{self.underlay_ip}/24")
        self._plug("eth1", None)
        self.dataplane = DataPlane(self.config)

    def _plug(self, nic: str, address: str | None) -> None:
        far, mtu = f"{self.name}-{nic}", str(UNDERLAY_MTU)
        bridge = "underlay" if nic == "eth0" else "public"
        peer = ("peer", "name", nic, "mtu", mtu, "netns", str(self.path))
        self.world.switch("link", "add", far, "mtu", mtu, "type", "veth", *peer)
        self.world.switch("link", "set", far, "master", bridge, "up")
        self.run("ip", "link", "set", nic, "up")
        if address:
            self.run("ip", "addr", "add", address, "dev", nic)

    @property
    def inner(self) -> Path:
        return self.config.netns_dir / self.config.namespace

    def run(self, *argv: str, path: Path | None = None, check: bool = True) -> str:
        return within(
            path or self.path, lambda: subprocess.run(argv, capture_output=True, text=True, check=check, timeout=20)
        ).stdout

    def inside(self, *argv: str) -> str:
        """In `kumulus`."""
        return self.run(*argv, path=self.inner)

    async def boot(self, port_uid: str, mac: str, mtu: int = 1450) -> Guest:
        """The start sequence of a guest. The port is in the desired state already."""
        tap = await self.dataplane.create_tap(port_uid)
        guest = Guest(self.world.namespaces / f"guest-{names.short_id(port_uid)}", self.path, tap, mac, mtu)
        self.guests.append(guest)
        await self.dataplane.attach_tap(port_uid)
        return guest

    async def restart_agent(self) -> None:
        await self.dataplane.close()
        self.dataplane = DataPlane(self.config)

    async def dispose(self) -> None:
        for guest in self.guests:
            guest.pull_the_plug()
        try:
            await self.dataplane.teardown()
        finally:
            await self.dataplane.close()
            netns.delete(self.path)


class World:
    """A switch with the bridges `underlay` and `public`, and the nodes on it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kumulus-net-"))
        self.directory.chmod(0o755)
        self.namespaces = self.directory / "ns"
        self.switch_path = self.namespaces / "switch"
        netns.create(self.switch_path)
        self.nodes: list[Node] = []
        self.strangers: list[Path] = []
        for name in ("underlay", "public"):
            self.switch("link", "add", name, "mtu", str(UNDERLAY_MTU), "type", "bridge", "mcast_snooping", "0")
            self.switch("link", "set", name, "up")

    def switch(self, *arguments: str) -> None:
        within(self.switch_path, lambda: subprocess.run(["ip", *arguments], check=True, timeout=10))

    def node(self, name: str) -> Node:
        made = Node(self, name, len(self.nodes) + 1)
        self.nodes.append(made)
        return made

    async def dispose(self) -> None:
        for node in self.nodes:
            await node.dispose()
        netns.delete(self.switch_path)
        netns.release_directory(self.namespaces)
        shutil.rmtree(self.directory)
