"""From what should be and what is to the steps between. Pure: no clock, no randomness, no I/O.

The order keeps traffic safe at every point in between: rules first, devices next, what is no longer wanted last,
and connections that lost their rule right after the rules. Running the rest of a half-executed plan again from a
new observation ends the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hostagent.network import names
from hostagent.network.allocate import Numbers, allocate, observed_numbers
from hostagent.network.dhcp import configuration_name, loaded_hash
from hostagent.network.links import PARENT_SYSCTLS, PlannedNetwork, planned_networks, vteps
from hostagent.network.losses import pending, stale_connections, with_pending
from hostagent.network.model import DesiredNode, NetworkType
from hostagent.network.nft_table import commands
from hostagent.network.operations import (
    AddForwarding,
    AddNeighbour,
    ConfigureChild,
    CreateChild,
    CreateLink,
    CreateNamespace,
    DeleteChild,
    DeleteDirectory,
    DeleteForwarding,
    DeleteLink,
    DeleteNeighbour,
    DetachLink,
    EndConnections,
    Filter,
    Operation,
    ReloadDhcp,
    ReturnNic,
    SetLink,
    SetSysctls,
    StartDhcp,
    StopDhcp,
    TakeNic,
)
from hostagent.network.report import Problem
from hostagent.network.state import Child, ForwardingDatabaseEntry, Link, NodeState
from hostagent.network.tables import build
from hostagent.network.underlay import underlay_table


@dataclass(frozen=True)
class Plan:
    operations: tuple[Operation, ...]
    problems: tuple[Problem, ...]
    numbers: Numbers
    networks: tuple[PlannedNetwork, ...]
    lingering: tuple[str, ...]
    """Taps of no desired port that a process holds."""


@dataclass(frozen=True)
class Places:
    run_dir: Path
    state_dir: Path
    namespace: str = names.NAMESPACE
    underlay_table: str = names.UNDERLAY_TABLE


def plan(desired: DesiredNode, observed: NodeState, places: Places) -> Plan:
    """`desired` has passed `check.checked`."""
    networks = planned_networks(desired, places.run_dir, places.state_dir, places.namespace)
    numbers = allocate(
        (names.tap(port.uid) for port in desired.ports),
        (names.bridge(network.uid) for network in desired.networks),
        observed_numbers(observed.bridge_table, observed.inet_table),
    )
    operations: list[Operation] = []
    problems: list[Problem] = []

    if not observed.namespace:
        operations.append(CreateNamespace(""))
    sysctls = tuple((name, value) for name, value in PARENT_SYSCTLS.items() if observed.sysctls.get(name) != value)
    if sysctls:
        operations.append(SetSysctls("", places.namespace, sysctls))
    underlay, underlay_problems = _underlay(desired, observed, places)
    operations += underlay
    problems += underlay_problems

    filters, filter_problems = _filters(desired, numbers, observed)
    operations += filters
    problems += filter_problems

    for network in networks:
        operations += _network(network, observed)
    removals, lingering = _removals(networks, observed)
    operations += removals
    return Plan(tuple(operations), tuple(problems), numbers, tuple(networks), lingering)


def _underlay(desired: DesiredNode, observed: NodeState, places: Places) -> tuple[list[Operation], list[Problem]]:
    nics = sorted(link.name for link in observed.host_links.values() if desired.underlay_ip in link.addresses)
    problems = []
    if not nics and any(network.type is NetworkType.VXLAN for network in desired.networks):
        message = f"no device of this node has the underlay address {desired.underlay_ip}: nothing comes in over VXLAN"
        problems.append(Problem("node", "UnderlayAddressMissing", message))
    table = underlay_table(places.underlay_table, desired.vxlan_port, nics, vteps(desired))
    changes = commands(table, observed.underlay_table)
    return ([Filter("", host=True, commands=tuple(changes))] if changes else []), problems


def _filters(
    desired: DesiredNode, numbers: Numbers, observed: NodeState
) -> tuple[list[Operation], tuple[Problem, ...]]:
    tables = build(desired, numbers)
    stale = pending(observed.bridge_table) | stale_connections(
        observed.bridge_table, observed.inet_table, tables.bridge, tables.inet
    )
    bridge = with_pending(tables.bridge, stale)
    changes = [*commands(tables.inet, observed.inet_table), *commands(bridge, observed.bridge_table)]
    result: list[Operation] = []
    if changes:
        result.append(Filter("", host=False, commands=tuple(changes)))
    if stale:
        result.append(EndConnections("", tuple(sorted(stale))))
    return result, tables.problems


def _network(network: PlannedNetwork, observed: NodeState) -> Iterator[Operation]:
    scope = network.uid
    found_child = observed.children.get(network.child.namespace)
    if found_child is None:
        yield CreateChild(scope, network.child.namespace)
        found_child = Child(network.child.namespace, None)

    *_, server = network.devices
    pair_broken = server.name in observed.links and found_child.device is None
    for planned in network.devices:
        wanted, found = planned, observed.links.get(planned.name)
        if wanted.name == network.nic:
            nic = found or observed.host_links.get(wanted.name)
            # Other users of the wire may send longer frames than this network's guests.
            wanted = replace(wanted, mtu=max(wanted.mtu, nic.mtu if nic else 0))
        if planned is server and found and pair_broken:
            yield DeleteLink(scope, wanted.name)
            found = None
        yield from _device(network, wanted, found)
    created = server.name not in observed.links or pair_broken
    yield from _child(scope, network.child, found_child, created=created)

    present = {name for name in network.taps if name in observed.links}
    for name in sorted(present):
        found = observed.links[name]
        # A tap that no process holds may be one that compute detached, or whose guest ended: it is left as it is.
        if found.held:
            yield from _set(scope, network.taps[name], found)
    yield from _forwarding(network, observed, present)
    yield from _dhcp(scope, network.child, found_child)


def _device(network: PlannedNetwork, wanted: Link, found: Link | None) -> Iterator[Operation]:
    scope = network.uid
    if wanted.name == network.nic:
        if found is None:
            yield TakeNic(scope, wanted.name)
    elif found is not None and (found.kind, found.vxlan) != (wanted.kind, wanted.vxlan):
        yield DeleteLink(scope, wanted.name)
        found = None
    if found is None and wanted.name != network.nic:
        is_pair = wanted.kind == "veth"
        yield CreateLink(
            scope,
            wanted,
            child=network.child.namespace if is_pair else None,
            peer=network.child.device if is_pair else None,
        )
        found = Link(wanted.name, wanted.kind, wanted.mtu, up=False, vxlan=wanted.vxlan)
    yield from _set(scope, wanted, found or Link(wanted.name, "", -1, up=False))


def _set(scope: str, wanted: Link, found: Link) -> Iterator[Operation]:
    change = SetLink(
        scope,
        wanted.name,
        mtu=None if wanted.mtu == found.mtu else wanted.mtu,
        master=None if wanted.master == found.master else wanted.master,
        port=None if wanted.port == found.port else wanted.port,
        snooping=None if wanted.snooping == found.snooping else wanted.snooping,
        up=None if wanted.up == found.up else wanted.up,
    )
    if change != SetLink(scope, wanted.name):
        yield change


def _child(scope: str, wanted: Child, found: Child, *, created: bool) -> Iterator[Operation]:
    if created:
        # What the old pair had went with it.
        found = replace(found, device=None, addresses=frozenset(), routes=frozenset())
    change = ConfigureChild(
        scope,
        wanted,
        found,
        add_addresses=tuple(sorted(wanted.addresses - found.addresses)),
        delete_addresses=tuple(sorted(found.addresses - wanted.addresses)),
        add_routes=tuple(sorted(wanted.routes - found.routes)),
        delete_routes=tuple(sorted(found.routes - wanted.routes)),
    )
    same = wanted.device == found.device and all(found.sysctls.get(k) == v for k, v in wanted.sysctls.items())
    if not same or change != ConfigureChild(scope, wanted, found):
        yield change


def _forwarding(network: PlannedNetwork, observed: NodeState, taps: set[str]) -> Iterator[Operation]:
    scope = network.uid
    devices = {each.name for each in network.devices} | taps
    if network.nic:
        devices.discard(network.nic)
    wanted = {each for each in network.forwarding if each.device in devices}
    found = {each for each in observed.forwarding if each.device in devices}
    # A deleted entry of the same address on another device would take the new one with it: deletions first.
    yield from (DeleteForwarding(scope, each) for each in sorted(found - wanted, key=_entry_key))
    yield from (AddForwarding(scope, each) for each in sorted(wanted - found, key=_entry_key))
    bridge = network.devices[0].name
    known = {each for each in observed.neighbours if each.device == bridge}
    replaced = {each.ip for each in network.neighbours}
    yield from (DeleteNeighbour(scope, each) for each in sorted(known - network.neighbours) if each.ip not in replaced)
    yield from (AddNeighbour(scope, each) for each in sorted(network.neighbours - known))


def _entry_key(entry: ForwardingDatabaseEntry) -> tuple[str, str, str]:
    return (entry.device, entry.mac, entry.destination or "")


def _dhcp(scope: str, wanted: Child, found: Child) -> Iterator[Operation]:
    files, process = wanted.dhcp, found.process
    if files is None:
        if process is not None:
            yield StopDhcp(scope, wanted.namespace, process.pid)
        return
    if process is None or process.configuration != configuration_name(files):
        yield StartDhcp(scope, wanted.namespace, files, replace_pid=process.pid if process else None)
    elif process.loaded != loaded_hash(files):
        yield ReloadDhcp(scope, wanted.namespace, files, process.pid)


def _removals(networks: Iterable[PlannedNetwork], observed: NodeState) -> tuple[list[Operation], tuple[str, ...]]:
    result: list[Operation] = []
    lingering: list[str] = []
    networks = list(networks)
    devices = {device.name for network in networks for device in network.devices}
    taps = {name for network in networks for name in network.taps}
    # Taps before bridges, so that none is left without one that is up.
    for name, link in sorted(observed.links.items()):
        if not name.startswith(names.TAP) or not names.is_own_device(name) or name in taps:
            continue
        if link.held:
            lingering.append(name)
            if link.master is not None or link.up:
                result.append(DetachLink("", name))
        else:
            result.append(DeleteLink("", name))
    for name, link in sorted(observed.host_links.items()):
        if names.is_own_device(name) and link.kind == "tun" and name not in taps and not link.held:
            result.append(DeleteLink("", name, host=True))
    wanted = {network.child.namespace for network in networks}
    result += [DeleteChild("", each) for each in sorted(observed.stray_namespaces - wanted)]
    for namespace, child in sorted(observed.children.items()):
        if namespace not in wanted:
            if child.process is not None:
                result.append(StopDhcp("", namespace, child.process.pid))
            result.append(DeleteChild("", namespace))
    for name in sorted(observed.links):
        if name in devices or (name.startswith(names.TAP) and names.is_own_device(name)):
            continue
        result.append(DeleteLink("", name) if names.is_own_device(name) else ReturnNic("", name))
    served = {names.short_id(network.uid) for network in networks if network.child.dhcp}
    result += [DeleteDirectory("", each) for each in sorted(observed.stray_directories - served)]
    return result, tuple(lingering)
