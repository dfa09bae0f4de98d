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

import socket
from dataclasses import dataclass
from pathlib import Path

from hostagent.network import names
from hostagent.network.model import DesiredNode
from hostagent.network.report import Report, TapState


@dataclass(frozen=True)
class DataPlaneConfig:
    """Where the data plane keeps its things on the host.

    `run_dir` holds what a reboot may lose (dnsmasq's arguments, hosts and pid files), `state_dir` the DHCP leases;
    dnsmasq's user must be able to reach both. `netns_dir` must be visible to the host (mount propagation), or the
    namespaces end with the agent's mount namespace. `launcher` is put before the argv of dnsmasq, for example
    `("systemd-run", "--scope", "--quiet", "--")`, when it must outlive the agent's own cgroup.
    """

    run_dir: Path = Path("/run/kumulus/network")
    state_dir: Path = Path("/var/lib/kumulus/network")
    netns_dir: Path = Path("/run/netns")
    namespace: str = names.NAMESPACE
    underlay_table: str = names.UNDERLAY_TABLE
    launcher: tuple[str, ...] = ()


class DataPlane:
    """Programs the node's data plane. Calls may overlap: they are carried out one after another on one thread of
    the data plane's own."""

    def __init__(self, config: DataPlaneConfig | None = None) -> None:
        self._config = config or DataPlaneConfig()

    async def reconcile(self, desired: DesiredNode) -> Report:
        """Make the node as desired: the whole of it, whatever is there now. Idempotent; a repeat changes nothing.

        What fails is in `Report.problems` and does not keep other networks from being realised. Raises
        DataPlaneError only when nothing at all can be done (no permission, no namespace).
        """
        raise NotImplementedError

    async def create_tap(self, port_uid: str) -> str:
        """Make a fresh persistent tap in the host's namespace, down, and return its name. Step 2 of the start.

        Raises TapInUse when a process holds the tap of that name, wherever it is.
        """
        raise NotImplementedError

    async def attach_tap(self, port_uid: str) -> None:
        """Move the tap that a QEMU has opened into the data plane and bring it up. Step 4. A repeat changes nothing.

        Raises NotProgrammed when the port's rules are not there, TapMissing.
        """
        raise NotImplementedError

    async def detach_tap(self, port_uid: str) -> None:
        """Cut the guest off: take its tap down and out of the bridge, but keep it. No error when it is absent."""
        raise NotImplementedError

    async def delete_tap(self, port_uid: str) -> None:
        """Delete the tap wherever it is. No error when it is absent. Raises TapInUse when a process holds it."""
        raise NotImplementedError

    async def tap_state(self, port_uid: str) -> TapState:
        """Where the tap is, and whether a process holds it."""
        raise NotImplementedError

    async def metadata_listener(self, network_uid: str) -> socket.socket:
        """A listening, non-blocking TCP socket on port 80 in the network's child namespace, for
        `loop.create_server(sock=…)`/aiohttp's SockSite.

        The socket's local address of an accepted connection (`getsockname`, not anything in the request) names the
        port: pass it to `port_for_metadata_address`. Close the socket when the network leaves `DesiredNode`. Raises
        DataPlaneError when the network is not there.
        """
        raise NotImplementedError

    def metadata_networks(self) -> frozenset[str]:
        """UIDs of the networks that have a child namespace after the last reconcile: each wants a metadata listener."""
        raise NotImplementedError

    def port_for_metadata_address(self, address: str) -> str | None:
        """The UID of the port whose guest's requests arrive at this local address, or None. As of the last
        reconcile."""
        raise NotImplementedError

    async def leftovers(self, desired: DesiredNode) -> tuple[str, ...]:
        """Everything of ours on this node that no desired object explains: devices, namespaces, processes, chains,
        files."""
        raise NotImplementedError

    async def teardown(self) -> None:
        """Remove everything of ours from the node, hand provider NICs back. For `kumulus-hostagent cleanup` and
        tests; taps go even if held."""
        raise NotImplementedError

    async def close(self) -> None:
        """End the threads and sockets of this object. What is programmed stays."""
        raise NotImplementedError
