"""Which MAC and addresses a Port has: what to claim, what to give back, what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network

from crds.meta import Holder
from crds.network import AddressMode, FixedIP, Port, Subnet
from operators.network.ranges import (
    IPAddress,
    IPNetwork,
    Range,
    address,
    eui64,
    find_free,
    generated_mac,
    parse,
    usable,
)
from operators.network.reasons import Reason
from operators.verdict import Verdict, stalled, waiting


@dataclass(frozen=True)
class SubnetView:
    """What the choice of an address needs to know of a Subnet that is ready."""

    name: str
    cidr: IPNetwork
    pools: tuple[Range, ...]
    slaac: bool
    gateway: IPAddress | None = None


def view_of(subnet: Subnet) -> SubnetView | None:
    """None while the subnet's own controller has not accepted it, or when it is being deleted."""
    status = subnet.status
    if status.cidr is None or subnet.metadata.deletion_timestamp is not None or not status.allocation_pools:
        return None
    mode = subnet.spec.ipv6.address_mode if subnet.spec.ipv6 else None
    pools = tuple(Range(int(parse(pool.start)), int(parse(pool.end))) for pool in status.allocation_pools)
    return SubnetView(
        subnet.metadata.name,
        ip_network(status.cidr),
        pools,
        mode in (AddressMode.SLAAC, AddressMode.DHCPV6_STATELESS),
        parse(status.gateway_ip) if status.gateway_ip is not None else None,
    )


@dataclass(frozen=True)
class Address:
    """An address and the name of its subnet (None: a subnet that is no more)."""

    ip: IPAddress
    subnet: str | None


@dataclass(frozen=True)
class Observed:
    """What is known of the network when a port chooses.

    subnets: those that are ready, oldest first. pending: names of those that are about to be, broken: of those whose
    owner must repair them first.
    holder: who has an address, by its UID, None when it is free. count: addresses taken in the network.
    owned: addresses that the port holds allocations of. bound: whether a node carries the port. foreign: whether the
    network is another tenant's.
    """

    subnets: Sequence[SubnetView]
    pending: Sequence[str]
    broken: Sequence[str]
    holder: Callable[[IPAddress], Holder | None]
    count: int
    owned: Iterable[Address]
    bound: bool
    foreign: bool = False


@dataclass(frozen=True)
class AddressPlan:
    """`addresses` is what the port is to have; of these `claim` are not allocated to it yet. `release` are allocated to
    it and not wanted. `pending_change`: the spec asks for other addresses than a bound port can be given."""

    addresses: tuple[Address, ...] = ()
    claim: tuple[Address, ...] = ()
    release: tuple[Address, ...] = ()
    pending_change: bool = False
    problem: Verdict | None = None


def plan_addresses(port: Port, mac: str, network: str, observed: Observed) -> AddressPlan:
    """The addresses of a port: those it has stay, as long as the spec does not ask for others."""
    owned = list(observed.owned)
    current = [Address(parse(fixed.ip), fixed.subnet) for fixed in port.status.fixed_ips]
    have = {held.ip: held for held in [*owned, *current]}  # in the status's words where both tell
    chooser = _Chooser(port, mac, network, observed, current, owned)
    wanted = chooser.from_spec() if port.spec.fixed_ips else chooser.by_default()
    if observed.bound and current:
        # The guest and its node use what they were told; a change waits until no node carries the port.
        claim = tuple(a for a in current if a.ip not in {held.ip for held in owned})
        told = bool(port.spec.fixed_ips)
        changed = told and (isinstance(wanted, Verdict) or {a.ip for a in wanted} != {a.ip for a in current})
        return AddressPlan(tuple(current), claim, (), pending_change=changed)
    if isinstance(wanted, Verdict):
        return AddressPlan(problem=wanted)
    owned_ips = {held.ip for held in owned}
    wanted_ips = {a.ip for a in wanted}
    return AddressPlan(
        addresses=tuple(wanted),
        claim=tuple(a for a in wanted if a.ip not in owned_ips),
        release=tuple(held for held in have.values() if held.ip in owned_ips and held.ip not in wanted_ips),
    )


class _Chooser:
    """One choice of all addresses of one port."""

    def __init__(
        self,
        port: Port,
        mac: str,
        network: str,
        observed: Observed,
        current: Sequence[Address],
        owned: Sequence[Address],
    ) -> None:
        self._port = port
        self._mac = mac
        self._network = network
        self._observed = observed
        self._current = {a.ip for a in current}
        # What the status tells comes first, then what was claimed by a predecessor that could not tell any more.
        self._kept = [*current, *(a for a in owned if a.ip not in self._current)]
        self._chosen: list[Address] = []

    def by_default(self) -> list[Address] | Verdict:
        """One address of each family that the network has, IPv4 first."""
        views, pending = self._observed.subnets, self._observed.pending
        if pending and not self._current:
            return waiting(Reason.SUBNET_NOT_READY, f"Subnet {pending[0]} is not ready yet: see its conditions.")
        if not views and not self._kept:
            return waiting(Reason.SUBNET_NOT_FOUND, f"Network {self._network} has no subnet yet: create one.")
        for version in (4, 6):
            kept = next((a for a in self._kept if a.ip.version == version), None)
            if kept is not None:
                self._chosen.append(kept)
                continue
            family = [view for view in views if view.cidr.version == version]
            free = next((found for view in family if (found := self._free(view)) is not None), None)
            if free is not None:
                self._chosen.append(free)
            elif family:
                return self._exhausted(family)
        return self._chosen

    def from_spec(self) -> list[Address] | Verdict:
        """What spec.fixedIPs asks for: certain addresses first, so that no other item is given one of them."""
        asked = list(enumerate(self._port.spec.fixed_ips))
        found: dict[int, Address] = {}
        for index, fixed in sorted(asked, key=lambda item: item[1].ip is None):
            one = self._certain(fixed) if fixed.ip is not None else self._any_of(fixed)
            if isinstance(one, Verdict):
                return one
            self._chosen.append(one)
            found[index] = one
        return [found[index] for index, _ in asked]

    def _certain(self, fixed: FixedIP) -> Address | Verdict:
        ip = parse(fixed.ip or "")
        if any(ip == a.ip for a in self._chosen):
            return stalled(Reason.ADDRESS_INVALID, f"spec.fixedIPs names {ip} twice: remove one of the two.")
        kept = next((a for a in self._kept if a.ip == ip and ip in self._current), None)
        if kept is not None:
            return kept
        view = self._view(fixed, ip)
        if isinstance(view, Verdict):
            return view
        if ip not in view.cidr or int(ip) not in usable(view.cidr):
            return stalled(
                Reason.ADDRESS_INVALID,
                f"{ip} is no host's address in Subnet {view.name} ({view.cidr}): choose one that is.",
            )
        if ip == view.gateway and self._observed.foreign:
            # On a network of one's own a guest may be the router.
            return stalled(
                Reason.ADDRESS_INVALID,
                f"{ip} is the gateway of Subnet {view.name}, which is another tenant's: choose another address.",
            )
        if view.slaac and ip != self._slaac(view):
            return stalled(
                Reason.ADDRESS_INVALID,
                f"In Subnet {view.name} guests make their addresses from their MACs (SLAAC), so this port's is"
                f" {self._slaac(view)}: ask for that one, or for none.",
            )
        holder = self._observed.holder(ip)
        if holder is not None and holder.uid != self._port.metadata.uid:
            return self._taken(ip, holder)
        return Address(ip, view.name)

    def _view(self, fixed: FixedIP, ip: IPAddress) -> SubnetView | Verdict:
        if fixed.subnet_ref is not None:
            return self._by_name(fixed.subnet_ref.name)
        view = next((view for view in self._observed.subnets if ip in view.cidr), None)
        if view is not None:
            return view
        if self._observed.pending:
            name = self._observed.pending[0]
            return waiting(Reason.SUBNET_NOT_READY, f"Subnet {name} is not ready yet: see its conditions.")
        return waiting(
            Reason.SUBNET_NOT_FOUND,
            f"No subnet of Network {self._network} holds {ip}: create one, or choose an address of one that exists.",
        )

    def _by_name(self, name: str) -> SubnetView | Verdict:
        view = next((view for view in self._observed.subnets if view.name == name), None)
        if view is not None:
            return view
        if name in self._observed.pending or name in self._observed.broken:
            return waiting(Reason.SUBNET_NOT_READY, f"Subnet {name} is not ready yet: see its conditions.")
        return waiting(
            Reason.SUBNET_NOT_FOUND,
            f"Network {self._network} has no Subnet {name}: create it, or choose one that exists.",
        )

    def _any_of(self, fixed: FixedIP) -> Address | Verdict:
        name = fixed.subnet_ref.name if fixed.subnet_ref else ""
        chosen = {a.ip for a in self._chosen}
        kept = next((a for a in self._kept if a.subnet == name and a.ip not in chosen), None)
        if kept is not None:
            return kept
        view = self._by_name(name)
        if isinstance(view, Verdict):
            return view
        return self._free(view) or self._exhausted([view])

    def _free(self, view: SubnetView) -> Address | None:
        uid = self._port.metadata.uid
        chosen = {a.ip for a in self._chosen}

        def taken(ip: IPAddress) -> bool:
            holder = self._observed.holder(ip)
            return ip in chosen or (holder is not None and holder.uid != uid)

        if view.slaac:
            ip: IPAddress = self._slaac(view)
            return None if taken(ip) else Address(ip, view.name)
        version = view.cidr.version
        count = self._observed.count + len(chosen)
        seed = f"{uid}/{view.name}"
        number = find_free(view.pools, lambda n: taken(address(n, version)), count, seed)
        return None if number is None else Address(address(number, version), view.name)

    def _slaac(self, view: SubnetView) -> IPAddress:
        assert isinstance(view.cidr, IPv6Network)  # noqa: S101 - CEL refuses `ipv6` on an IPv4 subnet
        return eui64(view.cidr, self._mac)

    def _taken(self, ip: IPAddress, holder: Holder) -> Verdict:
        server = "the DHCP server of " if holder.kind == "Subnet" else ""
        own = holder.namespace == self._port.metadata.namespace
        who = f"held by {server}{holder.kind} {holder.name}" if own else "in use"
        return stalled(
            Reason.ADDRESS_TAKEN,
            f"{ip} is {who}: choose another address, or release it there, and this port is given it.",
        )

    def _exhausted(self, views: Sequence[SubnetView]) -> Verdict:
        names = ", ".join(f"{view.name} ({view.cidr})" for view in views)
        return stalled(
            Reason.NO_FREE_ADDRESS,
            f"No free address is left in Subnet {names} of Network {self._network}:"
            " widen its allocationPools, add a subnet, or delete ports.",
        )


@dataclass(frozen=True)
class MACPlan:
    """The port's MAC, and whether it must still be claimed."""

    mac: str = ""
    claim: bool = False
    problem: Verdict | None = None


def plan_mac(port: Port, owned: Sequence[str], holder: Callable[[str], Holder | None], attempts: int = 64) -> MACPlan:
    """The MAC of a port: the one it has, the one it asks for, or one made from its UID."""
    uid = port.metadata.uid
    wanted = port.spec.mac_address or port.status.mac_address or (owned[0] if owned else None)
    if wanted is not None:
        if wanted in owned:
            return MACPlan(wanted)
        other = holder(wanted)
        if other is None or other.uid == uid:
            return MACPlan(wanted, claim=True)
        who = f"held by {other.kind} {other.name}" if other.namespace == port.metadata.namespace else "in use"
        return MACPlan(
            problem=stalled(
                Reason.MAC_TAKEN,
                f"{wanted} is {who} on this network: create the port with another macAddress, or with none.",
            )
        )
    for attempt in range(attempts):
        mac = generated_mac(uid, attempt)
        other = holder(mac)
        if other is None or other.uid == uid:
            return MACPlan(mac, claim=True)
    return MACPlan(problem=waiting(Reason.MAC_TAKEN, "No free MAC was found; the search goes on."))
