"""Ports: a card's place on a network."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.conditions import Time
from crds.markers import Atomic, Immutable, ListMap, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Definition, NameRef, ObjectRef, Resource, Status
from crds.model import Model
from crds.types import UID, DNSLabel, IPAddress, IPAddressOrCIDR, MACAddress, Name, NodeName, Text

SecurityGroupRefs = Annotated[list[NameRef], Field(max_length=16), ListMap("name")]


class FixedIP(Model):
    """An address that is asked for: from a subnet, a certain one, or both."""

    subnet_ref: NameRef | None = Field(
        default=None, description="The Subnet, in the Network's namespace. Default: the one that the address is of."
    )
    ip: IPAddress | None = Field(default=None, description="The address. Default: a free one of the Subnet.")

    RULES: ClassVar = (Rule("has(self.subnetRef) || has(self.ip)", "at least one of subnetRef and ip must be set"),)


class AllowedAddressPair(Model):
    """A further address that the guest may send from, for example one that VRRP moves."""

    ip: IPAddressOrCIDR = Field(description="An address or a range.")
    mac: MACAddress | None = Field(default=None, description="The MAC to send it from. Default: the port's own.")


class PortSpec(Model):
    """What is asked of a port."""

    description: Text | None = Field(default=None, description="What the port is for, for people.")
    network_ref: Annotated[ObjectRef, Immutable("create a new Port on the other network")] = Field(
        description="The Network; of another namespace if it was shared from there."
    )
    fixed_ips: Annotated[list[FixedIP], Field(max_length=16), Atomic()] = Field(
        default_factory=list, description="The addresses. Default: one of a Subnet of each family. They stay for life."
    )
    mac_address: Annotated[MACAddress, Immutable("create a new Port")] | None = Field(
        default=None, description="The MAC. Default: a free one. It stays for life."
    )
    security_group_refs: SecurityGroupRefs | None = Field(
        default=None, description="The security groups. Default: the tenant's group `default`; `[]`: none."
    )
    allowed_address_pairs: Annotated[list[AllowedAddressPair], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="Further addresses that the guest may send from."
    )
    port_security: bool | None = Field(
        default=None,
        description="Whether the port is guarded against spoofing and by security groups. Default: as the Network says."
        " False needs a role of the infrastructure.",
    )
    dns_name: DNSLabel | None = Field(default=None, description="The name that DNS of the network gives its address.")
    qos_policy_ref: ObjectRef | None = Field(default=None, description="The QoSPolicy. Default: the Network's.")

    RULES: ClassVar = (
        Rule(
            "!has(self.portSecurity) || self.portSecurity || !has(self.securityGroupRefs)"
            " || self.securityGroupRefs.size() == 0",
            "a port with portSecurity: false must have no securityGroupRefs: nothing would enforce them",
            field_path=".securityGroupRefs",
        ),
    )


class PortPhase(StrEnum):
    """Where a port is in its life."""

    DOWN = "Down"
    BUILD = "Build"
    ACTIVE = "Active"
    ERROR = "Error"


class PortAddress(Model):
    """An address that a port has."""

    ip: IPAddress = Field(description="The address.")
    subnet: Name | None = Field(default=None, description="The name of its Subnet, in the Network's namespace.")


class BindingState(StrEnum):
    """How a port is on a node."""

    BUILD = "Build"
    ACTIVE = "Active"
    INACTIVE = "Inactive"
    ERROR = "Error"


class PortBinding(Model):
    """A node that has the port; two of them while its instance migrates."""

    node_name: NodeName = Field(description="The node.")
    state: BindingState = Field(description="Active: frames are sent there.")
    since: Time | None = Field(default=None, description="Since when it is in this state.")


class PortStatus(Status):
    """What a port has."""

    phase: PortPhase = Field(
        default=PortPhase.DOWN,
        description="Down: on no node. Build: a node connects it. Active: frames pass. Error: see the conditions.",
    )
    mac_address: MACAddress | None = Field(default=None, description="Its MAC.")
    fixed_ips: Annotated[list[PortAddress], Field(max_length=16), Atomic()] = Field(
        default_factory=list, description="Its addresses."
    )
    bindings: Annotated[list[PortBinding], Field(max_length=4), ListMap("nodeName")] = Field(
        default_factory=list, description="The nodes that have it."
    )
    instance: Name | None = Field(default=None, description="The Instance that uses it.")
    instance_uid: UID | None = Field(default=None, description="That Instance's metadata.uid.")


class Port(Resource):
    """A card's place on a network: its MAC, its addresses, what may pass. An address stays with its port for life."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="ports",
        short_names=("port",),
        columns=(
            PHASE,
            READY,
            Column("Network", ".spec.networkRef.name", "The Network."),
            Column("Address", ".status.fixedIPs[*].ip", "Its first address."),
            Column("MAC", ".status.macAddress", "Its MAC."),
            Column("Instance", ".status.instance", "The Instance that uses it."),
            Column("Node", ".status.bindings[*].nodeName", "The node that has it."),
            REASON,
            AGE,
        ),
        selectable=(".spec.networkRef.name", ".status.instanceUID"),
    )

    spec: PortSpec = Field(description="What is asked of the port.")
    status: PortStatus = Field(default_factory=PortStatus, description="What the port has.")
