"""Subnets, the pools they are cut from, and the records of addresses that are taken."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.access import Access
from crds.markers import Atomic, Immutable, Rule
from crds.meta import (
    AGE,
    PHASE,
    READY,
    REASON,
    Column,
    Controller,
    Definition,
    Holder,
    NameRef,
    Resource,
    Status,
)
from crds.model import Model
from crds.types import CIDR, UID, GuestCIDR, IPAddress, MACAddress, Name, Text


class GatewayMode(StrEnum):
    """Where the default router of a subnet is."""

    AUTO = "Auto"
    STATIC = "Static"
    NONE = "None"


class Gateway(Model):
    """The default router that guests are told."""

    mode: GatewayMode = Field(
        default=GatewayMode.AUTO,
        description="Auto: the subnet's first address. Static: the address in `ip`. None: no default route.",
    )
    ip: IPAddress | None = Field(default=None, description="The address, with mode Static.")

    RULES: ClassVar = (
        Rule(
            "(self.mode == 'Static') == has(self.ip)",
            "ip must be set with mode Static and with no other; the mode is {self.mode}",
        ),
    )


# An IPv4 address as a number. CEL has no order of addresses; that of IPv6 addresses is told by the operator.
_IPV4_NUMBER = (
    "int({0}.split('.')[0]) * 16777216 + int({0}.split('.')[1]) * 65536"
    " + int({0}.split('.')[2]) * 256 + int({0}.split('.')[3])"
)


class AllocationPool(Model):
    """A range of addresses, both ends included."""

    start: IPAddress = Field(description="The first address.")
    end: IPAddress = Field(description="The last address.")

    RULES: ClassVar = (
        Rule(
            "!isIP(self.start) || !isIP(self.end) || ip(self.start).family() == ip(self.end).family()",
            "start {self.start} and end {self.end} must be of one family",
        ),
        Rule(
            "!isIP(self.start) || !isIP(self.end) || ip(self.start).family() != 4 || ip(self.end).family() != 4"
            f" || {_IPV4_NUMBER.format('self.start')} <= {_IPV4_NUMBER.format('self.end')}",
            "start {self.start} is behind end {self.end}: swap them",
        ),
    )


class SubnetRoute(Model):
    """A route that guests are told."""

    destination: CIDR = Field(description="The route's destination.")
    next_hop: IPAddress = Field(description="The router to send to.")

    RULES: ClassVar = (
        Rule(
            "!isCIDR(self.destination) || !isIP(self.nextHop)"
            " || cidr(self.destination).ip().family() == ip(self.nextHop).family()",
            "destination {self.destination} and nextHop {self.nextHop} must be of one family",
        ),
    )


class AddressMode(StrEnum):
    """How guests get their IPv6 address."""

    SLAAC = "SLAAC"
    DHCPV6_STATEFUL = "DHCPv6Stateful"
    DHCPV6_STATELESS = "DHCPv6Stateless"


class IPv6(Model):
    """How guests of an IPv6 subnet get their addresses."""

    address_mode: AddressMode = Field(
        default=AddressMode.SLAAC,
        description="SLAAC: from router advertisements. DHCPv6Stateful: from DHCPv6. DHCPv6Stateless: SLAAC, and the"
        " rest from DHCPv6.",
    )
    ra_mode: AddressMode | None = Field(
        default=None, description="What router advertisements say. Default: the same as addressMode."
    )


class SubnetSpec(Model):
    """What is asked of a subnet."""

    description: Text | None = Field(default=None, description="What the subnet is for, for people.")
    network_ref: Annotated[NameRef, Immutable("create a new Subnet of the other network")] = Field(
        description="The Network, in the same namespace."
    )
    cidr: Annotated[GuestCIDR, Immutable("create a new Subnet")] | None = Field(
        default=None, description="The subnet's addresses. Or subnetPoolRef."
    )
    subnet_pool_ref: Annotated[NameRef, Immutable("create a new Subnet")] | None = Field(
        default=None, description="The SubnetPool in this namespace that the addresses are taken from. Or cidr."
    )
    prefix_length: Annotated[Annotated[int, Field(ge=1, le=128)], Immutable("create a new Subnet")] | None = Field(
        default=None, description="With subnetPoolRef: how large. Default: as the pool says."
    )
    gateway: Gateway = Field(default=Gateway(), description="The default router.")
    allocation_pools: Annotated[list[AllocationPool], Field(max_length=32), Atomic()] = Field(
        default_factory=list,
        description="The addresses that are given to ports which ask for none. Default: all but the gateway's.",
    )
    dhcp: bool = Field(default=True, description="Whether guests get their addresses by DHCP.")
    dns_nameservers: Annotated[list[IPAddress], Field(max_length=8), Atomic()] = Field(
        default_factory=list, description="The resolvers that guests are told."
    )
    host_routes: Annotated[list[SubnetRoute], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="Further routes that guests are told."
    )
    ipv6: IPv6 | None = Field(default=None, description="For an IPv6 subnet: how guests get their addresses.")

    RULES: ClassVar = (
        Rule("has(self.cidr) != has(self.subnetPoolRef)", "exactly one of cidr and subnetPoolRef must be set"),
        Rule(
            "!has(self.prefixLength) || has(self.subnetPoolRef)",
            "prefixLength goes with subnetPoolRef only: with cidr, write it there",
            field_path=".prefixLength",
        ),
        Rule(
            "!has(self.cidr) || !isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4"
            " ? cidr(self.cidr).prefixLength() <= 30 : cidr(self.cidr).prefixLength() <= 126)",
            "{self.cidr} is too small: there must be room for a gateway, the DHCP server and a guest;"
            " use /29 or larger",
            field_path=".cidr",
        ),
        Rule(
            "!has(self.cidr) || !isCIDR(self.cidr) || !has(self.gateway.ip) || !isIP(self.gateway.ip)"
            " || cidr(self.cidr).containsIP(ip(self.gateway.ip))",
            "gateway {self.gateway.ip} is outside the subnet {self.cidr}: choose an address in it",
            field_path=".gateway.ip",
        ),
        Rule(
            "!has(self.cidr) || !isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 6 || !has(self.gateway.ip)"
            " || self.gateway.ip != string(cidr(self.cidr).ip())",
            "gateway {self.gateway.ip} is the address of the subnet {self.cidr} itself: choose another",
            field_path=".gateway.ip",
        ),
        Rule(
            "!has(self.cidr) || !isCIDR(self.cidr) || !has(self.allocationPools) || self.allocationPools.all(pool,"
            " !isIP(pool.start) || !isIP(pool.end) || (cidr(self.cidr).containsIP(ip(pool.start))"
            " && cidr(self.cidr).containsIP(ip(pool.end))))",
            "every start and end of allocationPools must be in the subnet {self.cidr}",
            field_path=".allocationPools",
        ),
        Rule(
            "!has(self.ipv6) || !has(self.cidr) || !isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 6",
            "ipv6 is for IPv6 subnets, and {self.cidr} is IPv4: remove it",
            field_path=".ipv6",
        ),
        Rule(
            "!has(self.ipv6) || !has(self.cidr) || !isCIDR(self.cidr) || self.ipv6.addressMode == 'DHCPv6Stateful'"
            " || cidr(self.cidr).prefixLength() == 64",
            "addressMode {self.ipv6.addressMode} needs a prefix of 64 bits (RFC 4862), and {self.cidr} has another:"
            " use a /64, or DHCPv6Stateful",
            field_path=".ipv6.addressMode",
        ),
    )


class SubnetPhase(StrEnum):
    """Where a subnet is in its life."""

    PENDING = "Pending"
    ACTIVE = "Active"
    ERROR = "Error"
    DELETING = "Deleting"


class DHCPServer(Model):
    """The DHCP and metadata server of the subnet: the same address on every node."""

    ip: IPAddress = Field(description="Its address.")
    mac: MACAddress = Field(description="Its MAC.")


class SubnetStatus(Status):
    """What a subnet has."""

    phase: SubnetPhase = Field(default=SubnetPhase.PENDING, description="Where the subnet is in its life.")
    cidr: CIDR | None = Field(default=None, description="The subnet's addresses.")
    gateway_ip: IPAddress | None = Field(default=None, description="The default router; absent when there is none.")
    allocation_pools: Annotated[list[AllocationPool], Field(max_length=64), Atomic()] = Field(
        default_factory=list, description="The addresses that are given to ports which ask for none."
    )
    dhcp_server: DHCPServer | None = Field(default=None, description="The DHCP server that guests see.")


class Subnet(Resource):
    """A range of addresses on a network."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="subnets",
        short_names=("sub",),
        columns=(
            PHASE,
            READY,
            Column("Network", ".spec.networkRef.name", "The Network."),
            Column("CIDR", ".status.cidr", "Its addresses."),
            Column("Gateway", ".status.gatewayIP", "The default router."),
            Column("DHCP", ".spec.dhcp", "Whether guests get their addresses by DHCP.", type="boolean", wide=True),
            REASON,
            AGE,
        ),
        selectable=(".spec.networkRef.name",),
    )

    spec: SubnetSpec = Field(description="What is asked of the subnet.")
    status: SubnetStatus = Field(default_factory=SubnetStatus, description="What the subnet has.")


PrefixLength = Annotated[int, Field(ge=1, le=128)]


class SubnetPoolSpec(Model):
    """Addresses that subnets are cut from, so that they do not overlap."""

    description: Text | None = Field(default=None, description="What the pool is for, for people.")
    prefixes: Annotated[list[GuestCIDR], Field(min_length=1, max_length=64), Atomic()] = Field(
        description="The addresses; all of one family."
    )
    default_prefix_length: PrefixLength | None = Field(
        default=None, description="The size of a subnet that asks for none. Default: minPrefixLength."
    )
    min_prefix_length: PrefixLength | None = Field(
        default=None, description="The largest subnet that may be asked for. Default: 8 (IPv4), 64 (IPv6)."
    )
    max_prefix_length: PrefixLength | None = Field(
        default=None, description="The smallest subnet that may be asked for. Default: 29 (IPv4), 64 (IPv6)."
    )
    access: Access = Field(default=Access(), description="Who may cut subnets from the pool.")

    RULES: ClassVar = (
        Rule(
            "self.prefixes.all(prefix, !isCIDR(prefix) || !isCIDR(self.prefixes[0])"
            " || cidr(prefix).ip().family() == cidr(self.prefixes[0]).ip().family())",
            "prefixes must be of one family: make a pool for IPv4 and another for IPv6",
            field_path=".prefixes",
        ),
        Rule(
            "!has(self.minPrefixLength) || !has(self.maxPrefixLength) || self.minPrefixLength <= self.maxPrefixLength",
            "minPrefixLength ({string(self.minPrefixLength)}) must not be more than maxPrefixLength"
            " ({string(self.maxPrefixLength)})",
            field_path=".minPrefixLength",
        ),
        Rule(
            "!has(self.defaultPrefixLength) || ((!has(self.minPrefixLength)"
            " || self.minPrefixLength <= self.defaultPrefixLength) && (!has(self.maxPrefixLength)"
            " || self.defaultPrefixLength <= self.maxPrefixLength))",
            "defaultPrefixLength ({string(self.defaultPrefixLength)}) must be from minPrefixLength to maxPrefixLength",
            field_path=".defaultPrefixLength",
        ),
    )


class SubnetPool(Resource):
    """Addresses that subnets are cut from."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="subnetpools",
        short_names=("subpool",),
        columns=(READY, Column("Prefixes", ".spec.prefixes", "The addresses."), REASON, AGE),
        controller=Controller.PLANNED,
    )

    spec: SubnetPoolSpec = Field(description="What the pool holds.")
    status: Status = Field(default_factory=Status, description="State of the pool.")


class IPAllocationSpec(Model):
    """An address that is taken."""

    network_ref: Annotated[NameRef, Immutable()] = Field(description="The Network, in the same namespace.")
    network_uid: Annotated[UID, Immutable()] = Field(description="The Network's metadata.uid.")
    subnet: Name | None = Field(default=None, description="The name of the Subnet that it is of.")
    address: Annotated[IPAddress, Immutable()] = Field(description="The address.")
    holder: Holder = Field(description="Who has it.")


class IPAllocation(Resource):
    """The record that an IP address is taken. Named `<network>.<address>`, so that it exists once."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="ipallocations",
        short_names=("ipalloc",),
        columns=(
            Column("Address", ".spec.address", "The address."),
            Column("Network", ".spec.networkRef.name", "The Network."),
            Column("Holder", ".spec.holder.name", "Who has it."),
            Column("Kind", ".spec.holder.kind", "What that is."),
            Column("Tenant", ".spec.holder.namespace", "Its namespace."),
            AGE,
        ),
        selectable=(".spec.holder.uid", ".spec.networkUID"),
        controller=Controller.RECORD,
    )

    spec: IPAllocationSpec = Field(description="What is taken, and who has it.")
    status: Status = Field(default_factory=Status, description="State of the record.")


class MACAllocationSpec(Model):
    """A MAC that is taken."""

    network_ref: Annotated[NameRef, Immutable()] = Field(description="The Network, in the same namespace.")
    network_uid: Annotated[UID, Immutable()] = Field(description="The Network's metadata.uid.")
    address: Annotated[MACAddress, Immutable()] = Field(description="The MAC.")
    holder: Holder = Field(description="Who has it.")


class MACAllocation(Resource):
    """The record that a MAC is taken on a network. Named `<network>.<address>`, so that it exists once."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="macallocations",
        short_names=("macalloc",),
        columns=(
            Column("Address", ".spec.address", "The MAC."),
            Column("Network", ".spec.networkRef.name", "The Network."),
            Column("Holder", ".spec.holder.name", "Who has it."),
            Column("Kind", ".spec.holder.kind", "What that is."),
            Column("Tenant", ".spec.holder.namespace", "Its namespace."),
            AGE,
        ),
        selectable=(".spec.holder.uid", ".spec.networkUID"),
        controller=Controller.RECORD,
    )

    spec: MACAllocationSpec = Field(description="What is taken, and who has it.")
    status: Status = Field(default_factory=Status, description="State of the record.")
