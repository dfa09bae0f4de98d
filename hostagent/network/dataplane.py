"""The data plane of a node: the one class that the rest of the host agent uses.

How compute starts a guest (every step may be repeated, also after a crash of the agent in between):

1. `report = await dataplane.reconcile(desired)` with the new ports in `desired`: namespace, bridge, VXLAN, DHCP and
   all rules of the ports are programmed although their taps do not exist yet. `report.ports[uid].programmed` is
   True when that went well; do not go on otherwise (`.reason`, `.message` say why).
2. `await dataplane.create_tap(port_uid)` for each port: returns the name of a fresh persistent tap in the host's
   namespace. It is down, and it can be opened with `vnet_hdr` and a single queue. What is left of a tap of that
   name from an earlier run of the guest is deleted; when a process still holds it, `TapInUse` is raised: then the
   guest already runs.
3. Define the domain with `<interface type='ethernet'><mac address='…'/><target dev='tap…' managed='no'/><model
   type='virtio'/></interface>` and start it paused (VIR_DOMAIN_START_PAUSED). QEMU opens the tap in the host's
   namespace, its own.
4. `await dataplane.attach_tap(port_uid)`: checks that the rules of the port are in the kernel, moves the tap to
   `kumulus`, joins it to the bridge, brings it up. QEMU does not notice. Raises `NotProgrammed`, `TapMissing`.
5. Resume the domain.

A tap whose QEMU died stays behind (persistent, without carrier, in `kumulus`), where a new QEMU could not open it:
hence step 2 makes a new one each time. Stop or delete: after the domain is gone `await
dataplane.delete_tap(port_uid)`; a port whose instance is to be deleted is then left out of the next `reconcile`,
which removes its rules, connections and DHCP binding. A tap in use by a process is never deleted by `reconcile`: it
is cut off (default drop) and reported in `report.lingering`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from hostagent.network import names, netns, reporting, ruleset
from hostagent.network.check import checked
from hostagent.network.errors import DataPlaneError, NotProgrammed
from hostagent.network.execute import Executor
from hostagent.network.model import DesiredNode
from hostagent.network.observe import observe, read_links
from hostagent.network.operations import describe
from hostagent.network.plan import Places, Plan, plan
from hostagent.network.report import Report, TapState
from hostagent.network.sockets import Sockets
from hostagent.network.taps import Taps
from hostagent.network.teardown import teardown

T = TypeVar("T")

METADATA_BACKLOG = 128


@dataclass(frozen=True)
class DataPlaneConfig:
    """Where the data plane keeps its things on the host.

    `run_dir` holds what a reboot may lose (dnsmasq's arguments, hosts and pid files), `state_dir` the DHCP leases;
    dnsmasq's user must be able to reach both. `netns_dir` must be visible to the host (mount propagation), or the
    namespaces end with the agent's mount namespace. `launcher` is put before the argv of dnsmasq, for example
    `("systemd-run", "--scope", "--quiet", "--")`, when it must outlive the agent's own cgroup. `host_namespace` is the
    path of the namespace that counts as the host's, when it is not the process's own.
    """

    run_dir: Path = Path("/run/kumulus/network")
    state_dir: Path = Path("/var/lib/kumulus/network")
    netns_dir: Path = Path("/run/netns")
    namespace: str = names.NAMESPACE
    underlay_table: str = names.UNDERLAY_TABLE
    launcher: tuple[str, ...] = ()
    host_namespace: Path | None = None


class DataPlane:
    """Programs the node's data plane.

    Calls may overlap: they are carried out one after another on one thread of the data plane's own, which alone enters
    namespaces.
    """

    def __init__(self, config: DataPlaneConfig | None = None) -> None:
        self._config = config or DataPlaneConfig()
        self._sockets = Sockets(self._config.netns_dir, self._config.namespace, self._config.host_namespace)
        self._executor = Executor(self._sockets, self._config.run_dir, self._config.state_dir, self._config.launcher)
        self._taps = Taps(self._sockets, self._executor)
        self._thread = ThreadPoolExecutor(1, "dataplane", initializer=self._sockets.go_home)
        self._plan: Plan | None = None
        self._metadata: dict[str, str] = {}
        self._metadata_networks: dict[str, int] = {}

    async def reconcile(self, desired: DesiredNode) -> Report:
        """Make the node as desired: the whole of it, whatever is there now. Idempotent; a repeat changes nothing.

        What fails is in `Report.problems` and does not keep other networks from being realised. Raises DataPlaneError
        only when nothing at all can be done (no permission, no namespace, wrong parameters of the node).
        """
        return await self._run(lambda: self._reconcile(desired))

    async def create_tap(self, port_uid: str) -> str:
        """Make a fresh persistent tap in the host's namespace, down, and return its name. Step 2 of the start.

        Raises TapInUse when a process holds the tap of that name, wherever it is.
        """
        name = names.tap(port_uid)
        await self._run(lambda: self._taps.create(name))
        return name

    async def attach_tap(self, port_uid: str) -> None:
        """Move the tap that a QEMU has opened into the data plane and bring it up. Step 4. A repeat changes nothing.

        Raises NotProgrammed when the port's rules are not there, TapMissing.
        """
        await self._run(lambda: self._attach(names.tap(port_uid)))

    async def detach_tap(self, port_uid: str) -> None:
        """Cut the guest off: take its tap down and out of the bridge, but keep it. No error when it is absent.

        The next reconcile joins a tap that a process holds again, unless its port is no longer desired.
        """
        await self._run(lambda: self._taps.detach(names.tap(port_uid)))

    async def delete_tap(self, port_uid: str) -> None:
        """Delete the tap wherever it is. No error when it is absent. Raises TapInUse when a process holds it."""
        await self._run(lambda: self._taps.delete(names.tap(port_uid)))

    async def tap_state(self, port_uid: str) -> TapState:
        """Where the tap is, and whether a process holds it."""
        return await self._run(lambda: self._taps.state(names.tap(port_uid)))

    async def metadata_listener(self, network_uid: str) -> socket.socket:
        """A listening, non-blocking TCP socket on port 80 in the network's child namespace.

        For `loop.create_server(sock=…)` or aiohttp's SockSite. The local address of an accepted connection
        (`getsockname`, not anything in the request) names the port: pass it to `port_for_metadata_address`. Close the
        socket when the network leaves `metadata_networks()`. Raises DataPlaneError when the network is not there.
        """
        return await self._run(lambda: self._listen(network_uid))

    def metadata_networks(self) -> Mapping[str, int]:
        """UIDs of the networks that have a child namespace after the last reconcile, and the namespace's inode: each
        wants a metadata listener, a namespace that was made anew a new one.
        """
        return self._metadata_networks

    def port_for_metadata_address(self, address: str) -> str | None:
        """The UID of the port whose guest's requests arrive at this local address, as of the last reconcile."""
        return self._metadata.get(address)

    async def leftovers(self, desired: DesiredNode) -> tuple[str, ...]:
        """Everything of ours on this node that no desired object explains.

        One line each: devices, namespaces, processes, directories, chains and elements.
        """
        return await self._run(lambda: self._leftovers(desired))

    async def teardown(self) -> None:
        """Remove everything of ours from the node, hand provider NICs back. Taps go even if held.

        For `kumulus-hostagent cleanup` and tests.
        """
        await self._run(self._teardown)

    async def close(self) -> None:
        """End the thread and the sockets of this object. What is programmed stays."""
        await self._run(self._sockets.close)
        self._thread.shutdown()

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except NetlinkError as error:
            raise DataPlaneError(f"the kernel refuses: {error}") from error

    def _places(self) -> Places:
        config = self._config
        return Places(config.run_dir, config.state_dir, config.namespace, config.underlay_table)

    def _planned(self, desired: DesiredNode) -> tuple[Plan, reporting.Context]:
        try:
            clean, problems = checked(desired)
            observed = observe(self._sockets, self._config.run_dir, self._config.underlay_table)
            made = plan(clean, observed, self._places())
        except ValueError as error:
            raise DataPlaneError(f"this node's data plane cannot be planned: {error}") from error
        return made, reporting.Context(desired, observed, problems)

    def _reconcile(self, desired: DesiredNode) -> Report:
        made, context = self._planned(desired)
        problems = self._executor.run(made.operations)
        if not netns.exists(self._sockets.inner_path):
            raise DataPlaneError("; ".join(problem.message for problem in problems))
        links = {link.name: link for link in read_links(self._sockets.inner.route).values()}
        failed = {problem.subject for problem in problems}
        refused = any(problem.message.startswith("Filter of ports") for problem in problems)
        self._plan = made
        self._metadata = {
            ruleset.metadata_address(made.numbers.indices[tap]): uid
            for network in made.networks
            for tap, uid in network.ports.items()
        }
        children = {network.uid: self._sockets.path(network.child.namespace) for network in made.networks}
        self._metadata_networks = {
            uid: netns.inode(path) for uid, path in children.items() if uid not in failed and netns.exists(path)
        }
        return reporting.report(
            context, made, problems, links, [describe(each) for each in made.operations], filtered=not refused
        )

    def _attach(self, name: str) -> None:
        for network in self._plan.networks if self._plan else ():
            if name in network.taps:
                entries = frozenset(each for each in network.forwarding if each.device == name)
                self._taps.attach(network.taps[name], entries)
                return
        raise NotProgrammed(f"the tap {name} belongs to no port of the last reconcile")

    def _listen(self, network_uid: str) -> socket.socket:
        path = self._sockets.path(names.child_namespace(network_uid, self._config.namespace))
        if not netns.exists(path):
            raise DataPlaneError(f"there is no namespace {path}: reconcile first")
        with netns.inside(path):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(("0.0.0.0", 80))  # noqa: S104 (in a namespace that only this network's guests reach)
            listener.listen(METADATA_BACKLOG)
        except OSError as error:
            listener.close()
            raise DataPlaneError(f"cannot listen for metadata requests in {path}: {error}") from error
        return listener

    def _leftovers(self, desired: DesiredNode) -> tuple[str, ...]:
        made, _ = self._planned(desired)
        return reporting.leftovers(made)

    def _teardown(self) -> None:
        teardown(
            self._sockets, self._executor, self._config.run_dir, self._config.state_dir, self._config.underlay_table
        )
        self._plan = None
        self._metadata = {}
        self._metadata_networks = {}
