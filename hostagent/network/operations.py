"""The steps that the planner hands to the executor: small, idempotent, each with what it is for in `scope`.

`scope` is a network's UID, or "" for the node. When a step fails, the later steps of its scope are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.network.losses import Stale
from hostagent.network.state import BridgePort, Child, DhcpFiles, ForwardingDatabaseEntry, Link, Neighbour, Route


@dataclass(frozen=True)
class Operation:
    scope: str


@dataclass(frozen=True)
class CreateNamespace(Operation):
    """`kumulus` itself."""


@dataclass(frozen=True)
class SetSysctls(Operation):
    namespace: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Filter(Operation):
    """One nft transaction, in the host's namespace or in `kumulus`."""

    host: bool
    commands: tuple[str, ...]


@dataclass(frozen=True)
class CreateChild(Operation):
    namespace: str


@dataclass(frozen=True)
class DeleteChild(Operation):
    """With every process of ours in it."""

    namespace: str


@dataclass(frozen=True)
class CreateLink(Operation):
    """A bridge, a VXLAN device (its socket stays in the host's namespace), or a veth pair with its end in `child`."""

    link: Link
    child: str | None = None
    peer: Link | None = None


@dataclass(frozen=True)
class SetLink(Operation):
    """Only what is not None is changed."""

    name: str
    mtu: int | None = None
    master: str | None = None
    port: BridgePort | None = None
    snooping: bool | None = None
    up: bool | None = None


@dataclass(frozen=True)
class DetachLink(Operation):
    """Down, and out of its bridge."""

    name: str


@dataclass(frozen=True)
class DeleteLink(Operation):
    name: str
    host: bool = False


@dataclass(frozen=True)
class TakeNic(Operation):
    """From the host's namespace to `kumulus`. Fails when the NIC has addresses there or a master."""

    name: str


@dataclass(frozen=True)
class ReturnNic(Operation):
    name: str


@dataclass(frozen=True)
class AddForwarding(Operation):
    entry: ForwardingDatabaseEntry


@dataclass(frozen=True)
class DeleteForwarding(Operation):
    entry: ForwardingDatabaseEntry


@dataclass(frozen=True)
class AddNeighbour(Operation):
    neighbour: Neighbour


@dataclass(frozen=True)
class DeleteNeighbour(Operation):
    neighbour: Neighbour


@dataclass(frozen=True)
class ConfigureChild(Operation):
    """Sysctls, `lo`, device, addresses and routes of a child namespace."""

    wanted: Child
    found: Child
    add_addresses: tuple[str, ...] = ()
    delete_addresses: tuple[str, ...] = ()
    add_routes: tuple[Route, ...] = ()
    delete_routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class StartDhcp(Operation):
    """Write the files and start dnsmasq in the child namespace, after ending the one with other arguments."""

    namespace: str
    files: DhcpFiles
    replace_pid: int | None = None


@dataclass(frozen=True)
class ReloadDhcp(Operation):
    namespace: str
    files: DhcpFiles
    pid: int


@dataclass(frozen=True)
class StopDhcp(Operation):
    namespace: str
    pid: int


@dataclass(frozen=True)
class DeleteDirectory(Operation):
    """Of a dnsmasq that is no more, with the network's leases."""

    network_id: str


@dataclass(frozen=True)
class EndConnections(Operation):
    """Remove tracked connections, then the note of them in the sets `stale4` and `stale6`."""

    stale: tuple[Stale, ...]


def describe(operation: Operation) -> str:
    """One line for the log and the report, without the texts of rules."""
    kind = type(operation).__name__
    for attribute in ("name", "namespace", "entry", "neighbour", "network_id"):
        if hasattr(operation, attribute):
            return f"{kind} {getattr(operation, attribute)}"
    match operation:
        case CreateLink(link=link):
            return f"{kind} {link.name}"
        case ConfigureChild(wanted=wanted):
            return f"{kind} {wanted.namespace}"
        case Filter(host=host, commands=commands):
            return f"{kind} {'of the host' if host else 'of ports'}, {len(commands)} commands"
        case EndConnections(stale=stale):
            return f"{kind} {len(stale)} addresses"
    return kind
