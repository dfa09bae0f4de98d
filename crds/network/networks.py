"""Networks, the wires below them, and the identifiers that keep them apart."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.access import Access
from crds.markers import Atomic, Immutable, ListSet, Rule
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
    ObjectRef,
    Resource,
    Status,
)
from crds.model import Model
from crds.types import MTU, VLAN, DNSName, Name, Text
from crds.vocabulary import NetworkType

SegmentationID = Annotated[int, Field(ge=1, le=16777215)]


class Provider(Model):
    """How the network is laid on the nodes; needs a role of the infrastructure."""

    type: NetworkType = Field(
        description="Flat: untagged on a physical network. VLAN: tagged on one. VXLAN: over the underlay."
    )
    physical_network_ref: NameRef | None = Field(default=None, description="The PhysicalNetwork of Flat and VLAN.")
    segmentation_id: SegmentationID | None = Field(
        default=None, description="The VLAN (1-4094) or VNI (1-16777215). Default: a free one."
    )

    RULES: ClassVar = (
        Rule(
            "self.type == 'VXLAN' || has(self.physicalNetworkRef)",
            "a {self.type} network must name its physicalNetworkRef",
        ),
        Rule(
            "self.type != 'VXLAN' || !has(self.physicalNetworkRef)",
            "a VXLAN network travels over the underlay and has no physicalNetworkRef: remove it",
            field_path=".physicalNetworkRef",
        ),
        Rule(
            "self.type != 'Flat' || !has(self.segmentationID)",
            "a Flat network is untagged and has no segmentationID: remove it, or use type VLAN",
            field_path=".segmentationID",
        ),
        Rule(
            "self.type != 'VLAN' || !has(self.segmentationID) || self.segmentationID <= 4094",
            "{string(self.segmentationID)} is not a VLAN: it must be from 1 to 4094",
            field_path=".segmentationID",
        ),
    )


class NetworkSpec(Model):
    """What is asked of a network."""

    description: Text | None = Field(default=None, description="What the network is for, for people.")
    external: Annotated[bool, Immutable("create a new Network")] = Field(
        default=False,
        description="Whether the network leads outside: routers and floating IPs take addresses of it."
        " Needs a role of the infrastructure.",
    )
    access: Access = Field(default=Access(), description="Who may use the network.")
    provider: Annotated[Provider, Immutable("create a new Network")] | None = Field(
        default=None, description="How it is laid on the nodes. Default: the cluster's type for tenants, VXLAN."
    )
    port_security: bool = Field(
        default=True, description="Whether ports are guarded against spoofing and by security groups, by default."
    )
    mtu: MTU | None = Field(default=None, description="The MTU that guests are told. Default: as the underlay allows.")
    dns_domain: DNSName | None = Field(default=None, description="The DNS search domain that guests are told.")
    qos_policy_ref: ObjectRef | None = Field(default=None, description="The QoSPolicy of ports that name none.")


class NetworkPhase(StrEnum):
    """Where a network is in its life."""

    PENDING = "Pending"
    ACTIVE = "Active"
    ERROR = "Error"
    DELETING = "Deleting"


class NetworkStatus(Status):
    """What a network has."""

    phase: NetworkPhase = Field(default=NetworkPhase.PENDING, description="Where the network is in its life.")
    type: NetworkType | None = Field(default=None, description="How its frames travel between nodes.")
    segmentation_id: SegmentationID | None = Field(default=None, description="Its VLAN or VNI.")
    physical_network: Name | None = Field(default=None, description="The physical network of Flat and VLAN.")
    mtu: MTU | None = Field(default=None, description="The MTU that guests are told.")
    subnets: Annotated[list[Name], Field(max_length=64), ListSet()] = Field(
        default_factory=list, description="The names of its subnets."
    )


class Network(Resource):
    """A layer 2 network that ports are on."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="networks",
        short_names=("net",),
        columns=(
            PHASE,
            READY,
            Column("Type", ".status.type", "How its frames travel between nodes."),
            Column("Segment", ".status.segmentationID", "Its VLAN or VNI.", type="integer"),
            Column("MTU", ".status.mtu", "The MTU that guests are told.", type="integer", wide=True),
            Column("External", ".spec.external", "Whether it leads outside.", type="boolean", wide=True),
            Column("Scope", ".spec.access.scope", "Who may use it.", wide=True),
            REASON,
            AGE,
        ),
    )
    RULES: ClassVar = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name '{self.metadata.name}' must be a DNS label: lower case letters, digits and '-', at most 63",
        ),
    )

    spec: NetworkSpec = Field(default=NetworkSpec(), description="What is asked of the network.")
    status: NetworkStatus = Field(default_factory=NetworkStatus, description="What the network has.")


class VLANRange(Model):
    """VLANs that networks of tenants are given."""

    first: VLAN = Field(description="The first VLAN.")
    last: VLAN = Field(description="The last VLAN.")

    RULES: ClassVar = (
        Rule(
            "self.first <= self.last",
            "first ({string(self.first)}) must not be more than last ({string(self.last)})",
        ),
    )


class PhysicalNetworkSpec(Model):
    """A wire, or a set of wires that are one layer 2 network, that nodes have a card on."""

    description: Text | None = Field(default=None, description="What the network is, for people.")
    mtu: MTU | None = Field(default=None, description="The MTU of the wire. Default: 1500.")
    vlan_ranges: Annotated[list[VLANRange], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="The VLANs that are given to networks which name none."
    )


class PhysicalNetworkPhase(StrEnum):
    """Whether a physical network can be used."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    ERROR = "Error"


class PhysicalNetworkStatus(Status):
    """Where a physical network is."""

    phase: PhysicalNetworkPhase = Field(
        default=PhysicalNetworkPhase.PENDING, description="Whether the physical network can be used."
    )
    nodes: Annotated[list[Name], Field(max_length=1024), ListSet()] = Field(
        default_factory=list, description="The nodes that have a card on it."
    )


class PhysicalNetwork(Resource):
    """A wire that Flat and VLAN networks are laid on. Which card of a node is on it, the node's agent is told."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="physicalnetworks",
        short_names=("physnet",),
        scope="Cluster",
        columns=(PHASE, READY, Column("Description", ".spec.description", "What it is."), REASON, AGE),
    )
    RULES: ClassVar = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name '{self.metadata.name}' must be a DNS label: lower case letters, digits and '-', at most 63",
        ),
    )

    spec: PhysicalNetworkSpec = Field(default=PhysicalNetworkSpec(), description="What the physical network is.")
    status: PhysicalNetworkStatus = Field(default_factory=PhysicalNetworkStatus, description="Where it is.")


class SegmentSpec(Model):
    """A VNI or VLAN that is taken."""

    type: Annotated[NetworkType, Immutable()] = Field(description="VXLAN, VLAN or Flat.")
    segmentation_id: Annotated[SegmentationID, Immutable()] | None = Field(
        default=None, description="The VNI or VLAN; absent for Flat, where the physical network itself is taken."
    )
    physical_network: Annotated[Name, Immutable()] | None = Field(
        default=None, description="The physical network of VLAN and Flat."
    )
    holder: Holder = Field(description="The Network that has it.")

    RULES: ClassVar = (
        Rule(
            "(self.type != 'VXLAN') == has(self.physicalNetwork)",
            "physicalNetwork must be set for VLAN and Flat, and not for VXLAN",
        ),
        Rule(
            "(self.type != 'Flat') == has(self.segmentationID)",
            "segmentationID must be set for VXLAN and VLAN, and not for Flat",
        ),
    )


class Segment(Resource):
    """The record that a VNI or VLAN is taken. Named `vxlan-<vni>` or `vlan-<physical network>-<id>`."""

    DEFINITION: ClassVar = Definition(
        group="network",
        plural="segments",
        scope="Cluster",
        columns=(
            Column("Type", ".spec.type", "VXLAN, VLAN or Flat."),
            Column("ID", ".spec.segmentationID", "The VNI or VLAN.", type="integer"),
            Column("Holder", ".spec.holder.name", "The Network that has it."),
            Column("Tenant", ".spec.holder.namespace", "The Network's namespace."),
            AGE,
        ),
        selectable=(".spec.holder.uid",),
        controller=Controller.RECORD,
    )

    spec: SegmentSpec = Field(description="What is taken, and who has it.")
    status: Status = Field(default_factory=Status, description="State of the record.")
