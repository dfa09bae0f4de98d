"""Routers and floating IPs: the way between networks, and out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.markers import Atomic, Immutable, ListMap, Rule
from crds.meta import (
    AGE,
    PHASE,
    READY,
    REASON,
    Column,
    Controller,
    Definition,
    NameRef,
    ObjectRef,
    Resource,
    Status,
)
from crds.model import Model
from crds.network.ports import FixedIP
from crds.network.subnets import SubnetRoute
from crds.types import IPAddress, IPAddresses, Label, MACAddress, Name, NodeName, Text


class ExternalGateway(Model):
    """The router's way out."""

    network_ref: ObjectRef = Field(description="An external Network.")
    enable_snat: bool = Field(
        default=True, description="Whether what has no floating IP leaves with the router's address."
    )
    fixed_ips: Annotated[list[FixedIP], Field(max_length=8), Atomic()] = Field(
        default_factory=list,
        description="The router's outside addresses. Default: a free one. Needs a role of the infrastructure.",
    )


class RouterInterface(Model):
    """A subnet that the router is in."""

    name: Label = Field(description="The interface's name in the router.")
    subnet_ref: NameRef | None = Field(
        default=None, description="A Subnet of this namespace; the router takes its gateway address. Or portRef."
    )
    port_ref: NameRef | None = Field(default=None, description="A Port of this namespace with another address.")

    RULES: ClassVar = (
        Rule(
            "has(self.subnetRef) != has(self.portRef)",
            "interface '{self.name}' must have exactly one of subnetRef and portRef",
        ),
    )


class RouterSpec(Model):
    """What a router joins."""

    description: Text | None = Field(default=None, description="What the router is for, for people.")
    external_gateway: ExternalGateway | None = Field(default=None, description="The way out. Default: none.")
    interfaces: Annotated[list[RouterInterface], Field(max_length=64), ListMap("name")] = Field(
        default_factory=list, description="The subnets that it joins."
    )
    routes: Annotated[list[SubnetRoute], Field(max_length=64), ListMap("destination", "nextHop")] = Field(
        default_factory=list, description="Static routes."
    )


class RouterPhase(StrEnum):
    """Where a router is in its life."""

    PENDING = "Pending"
    ACTIVE = "Active"
    ERROR = "Error"
    DELETING = "Deleting"


class RouterInterfaceStatus(Model):
    """An interface as it is."""

    name: Label = Field(description="The interface's name in the router.")
    ip: IPAddress | None = Field(default=None, description="Its address.")
    mac: MACAddress | None = Field(default=None, description="Its MAC, the same on every node.")


class RouterStatus(Status):
    """What a router has."""

    phase: RouterPhase = Field(default=RouterPhase.PENDING, description="Where the router is in its life.")
    external_ips: IPAddresses = Field(default_factory=list, description="Its outside addresses.")
    interfaces: Annotated[list[RouterInterfaceStatus], Field(max_length=64), ListMap("name")] = Field(
        default_factory=list, description="Its interfaces."
    )
    gateway_node: NodeName | None = Field(default=None, description="The node that SNAT is on.")


class Router(Resource):
    """Joins subnets, and leads out."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="routers",
        short_names=("rtr",),
        columns=(
            PHASE,
            READY,
            Column("External", ".spec.externalGateway.networkRef.name", "The external Network."),
            Column("Address", ".status.externalIPs[*]", "Its first outside address."),
            Column("Node", ".status.gatewayNode", "The node that SNAT is on."),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: RouterSpec = Field(default=RouterSpec(), description="What the router joins.")
    status: RouterStatus = Field(default_factory=RouterStatus, description="What the router has.")


class ForwardProtocol(StrEnum):
    """A protocol with ports."""

    TCP = "tcp"
    UDP = "udp"


class PortForwarding(Model):
    """A port of the floating IP that leads to a port of an instance."""

    name: Label = Field(description="The forwarding's name in the floating IP.")
    protocol: ForwardProtocol = Field(description="tcp or udp.")
    external_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="The port of the floating IP.")
    internal_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="The port of the instance.")
    port_ref: NameRef | None = Field(default=None, description="The Port that it leads to. Or instanceRef.")
    instance_ref: NameRef | None = Field(default=None, description="The Instance that it leads to. Or portRef.")
    internal_ip: IPAddress | None = Field(default=None, description="Which address, when the port has several.")

    RULES: ClassVar = (
        Rule(
            "has(self.portRef) != has(self.instanceRef)",
            "port forwarding '{self.name}' must have exactly one of portRef and instanceRef",
        ),
    )


class FloatingIPSpec(Model):
    """What is asked of a floating IP: an address, and where it leads to."""

    description: Text | None = Field(default=None, description="What the address is for, for people.")
    network_ref: Annotated[ObjectRef, Immutable("create a new FloatingIP")] = Field(description="An external Network.")
    address: Annotated[IPAddress, Immutable("create a new FloatingIP")] | None = Field(
        default=None, description="The address. Default: a free one of the Network."
    )
    instance_ref: NameRef | None = Field(default=None, description="The Instance that the address leads to.")
    port_ref: NameRef | None = Field(default=None, description="Instead: the Port that the address leads to.")
    fixed_ip: IPAddress | None = Field(default=None, description="Which address, when the port has several.")
    port_forwardings: Annotated[list[PortForwarding], Field(max_length=64), ListMap("name")] = Field(
        default_factory=list, description="Instead: single ports and where each leads to."
    )

    RULES: ClassVar = (
        Rule(
            "!(has(self.instanceRef) && has(self.portRef)) && (!has(self.portForwardings)"
            " || self.portForwardings.size() == 0 || !(has(self.instanceRef) || has(self.portRef)))",
            "at most one of instanceRef, portRef and portForwardings must be set",
        ),
        Rule(
            "!has(self.fixedIP) || has(self.instanceRef) || has(self.portRef)",
            "fixedIP {self.fixedIP} needs instanceRef or portRef: it says which of their addresses is meant",
            field_path=".fixedIP",
        ),
        Rule(
            "!has(self.portForwardings) || self.portForwardings.all(one, self.portForwardings.exists_one(other,"
            " one.protocol == other.protocol && one.externalPort == other.externalPort))",
            "every protocol and externalPort must be forwarded once only",
            field_path=".portForwardings",
        ),
    )


class FloatingIPPhase(StrEnum):
    """Where a floating IP is in its life."""

    DOWN = "Down"
    ACTIVE = "Active"
    ERROR = "Error"


class FloatingIPStatus(Status):
    """What a floating IP has."""

    phase: FloatingIPPhase = Field(default=FloatingIPPhase.DOWN, description="Down: leads nowhere. Active: leads on.")
    address: IPAddress | None = Field(default=None, description="The address.")
    fixed_ip: IPAddress | None = Field(default=None, description="The address that it leads to.")
    port: Name | None = Field(default=None, description="The Port that it leads to.")
    node_name: NodeName | None = Field(default=None, description="The node that answers for it.")


class FloatingIP(Resource):
    """An outside address that leads to an instance."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="floatingips",
        short_names=("fip",),
        columns=(
            PHASE,
            READY,
            Column("Address", ".status.address", "The address."),
            Column("Fixed-IP", ".status.fixedIP", "The address that it leads to."),
            Column("Port", ".status.port", "The Port that it leads to."),
            Column("Node", ".status.nodeName", "The node that answers for it."),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: FloatingIPSpec = Field(description="What is asked of the floating IP.")
    status: FloatingIPStatus = Field(default_factory=FloatingIPStatus, description="What the floating IP has.")
