"""What there is to run guests on: flavors, hypervisors, aggregates, and the scheduler's record."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from crds.access import Access, AccessScope
from crds.markers import RULES_KEY, ListMap, ListSet, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Controller, Definition, Resource, Status
from crds.model import Model
from crds.quantity import PositiveQuantity, Quantity
from crds.types import UID, IPAddress, Label, Name, NodeName, Properties, TenantNames, Text, Value

_RATIO = re.compile(r"[0-9]{1,4}([.][0-9]{1,3})?")


def parse_ratio(value: Any) -> Decimal:
    """A positive decimal number such as `4` or `1.5`; ValueError otherwise."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not _RATIO.fullmatch(str(value)) or Decimal(str(value)) == 0:
        raise ValueError(f"{value!r} is not a ratio: use a number more than 0, for example 4 or 1.5")
    return Decimal(str(value))


def _format_ratio(ratio: Decimal) -> int | str:
    return int(ratio) if ratio == int(ratio) else format(ratio.normalize(), "f")


_RATIO_RULE = Rule(
    "type(self) == int ? self > 0 : self.matches('^[0-9]{1,4}([.][0-9]{1,3})?$') && !self.matches('^[0.]*$')",
    "'{string(self)}' is not a ratio: it must be a number more than 0, for example 4 or '1.5' (quoted)",
)
Ratio = Annotated[
    Decimal,
    BeforeValidator(parse_ratio),
    PlainSerializer(_format_ratio),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "maxLength": 8, RULES_KEY: [_RATIO_RULE.to_dict()]}),
]


class FlavorSpec(Model):
    """The size of an instance; it must not change."""

    description: Text | None = Field(default=None, description="What the flavor is for, for people.")
    vcpus: int = Field(ge=1, le=512, description="Virtual CPUs.")
    memory: PositiveQuantity = Field(description="Memory.")
    root_disk: Quantity = Field(
        description="Size of a root disk that comes from an image. 0: as large as the image says, or boot from volume."
    )
    ephemeral_disk: Quantity = Field(default=Quantity(0), description="Size of a second, empty disk. 0: none.")
    swap: Quantity = Field(default=Quantity(0), description="Size of a disk for swap. 0: none.")
    extra_specs: Properties = Field(default_factory=dict, description="Nova's extra specs, for example hw:cpu_policy.")
    access: Access = Field(default=Access(scope=AccessScope.PUBLIC), description="Who may use the flavor.")

    RULES: ClassVar = (
        Rule("self == oldSelf", "the spec of a Flavor is immutable: create a new Flavor and resize instances to it"),
    )


class Flavor(Resource):
    """The size of an instance: CPUs, memory and disks."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="flavors",
        short_names=("fl",),
        scope="Cluster",
        columns=(
            Column("vCPUs", ".spec.vcpus", "Virtual CPUs.", type="integer"),
            Column("Memory", ".spec.memory", "Memory."),
            Column("Disk", ".spec.rootDisk", "Size of the root disk."),
            READY,
            Column("Scope", ".spec.access.scope", "Who may use it.", wide=True),
            REASON,
            AGE,
        ),
    )

    spec: FlavorSpec = Field(description="The size.")
    status: Status = Field(default_factory=Status, description="State of the flavor.")


class Maintenance(StrEnum):
    """What becomes of a hypervisor's guests while it is worked on."""

    NONE = "None"
    CORDON = "Cordon"
    DRAIN = "Drain"


class HypervisorSpec(Model):
    """What operators of the infrastructure ask of a hypervisor."""

    maintenance: Maintenance = Field(
        default=Maintenance.NONE,
        description="None: takes guests. Cordon: keeps its guests and takes no new ones. Drain: its guests move away.",
    )
    cpu_allocation_ratio: Ratio = Field(
        default=Decimal(4), description="Virtual CPUs that are sold for each CPU. Fractions are quoted: '1.5'."
    )
    memory_allocation_ratio: Ratio = Field(default=Decimal(1), description="Memory that is sold for each byte of it.")
    disk_allocation_ratio: Ratio = Field(default=Decimal(1), description="Disk that is sold for each byte of it.")


class HypervisorPhase(StrEnum):
    """Whether a hypervisor answers."""

    PENDING = "Pending"
    UP = "Up"
    DOWN = "Down"


class HostResources(Model):
    """CPUs, memory and disk of a node."""

    vcpus: int = Field(default=0, ge=0, description="CPUs, as threads.")
    memory: Quantity = Field(default=Quantity(0), description="Memory.")
    disk: Quantity = Field(default=Quantity(0), description="Local disk for root disks.")


class HypervisorStatus(Status):
    """What a hypervisor has; its agent writes it on change."""

    phase: HypervisorPhase = Field(
        default=HypervisorPhase.PENDING, description="Up: its agent renews its Lease. Down: it does not."
    )
    capacity: HostResources | None = Field(default=None, description="What the node has.")
    reserved: HostResources | None = Field(default=None, description="What of it is kept from guests.")
    instances: int | None = Field(default=None, ge=0, description="Guests that it holds, also those that are stopped.")
    quarantined: int | None = Field(
        default=None, ge=0, description="Guests that run and that no work object asks for; they are left alone."
    )
    architecture: Label | None = Field(default=None, description="The architecture, as uname tells it: x86_64.")
    cpu_model: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="The CPU's model.")
    traits: Annotated[list[Label], Field(max_length=256), ListSet()] = Field(
        default_factory=list, description="What the node can do, by the names of OpenStack's os-traits."
    )
    hypervisor_type: Label | None = Field(default=None, description="What runs the guests: kvm or qemu (emulated).")
    hypervisor_version: Label | None = Field(default=None, description="The version of libvirt.")
    emulator_version: Label | None = Field(default=None, description="The version of QEMU.")
    agent_version: Label | None = Field(default=None, description="The version of the agent.")
    underlay_ip: IPAddress | None = Field(
        default=None, description="The address that VXLAN packets to the node are sent to."
    )
    underlay_mtu: Annotated[int, Field(ge=576, le=65535)] | None = Field(
        default=None, description="The MTU of the underlay."
    )
    physical_networks: Annotated[list[Label], Field(max_length=32), ListSet()] = Field(
        default_factory=list, description="The physical networks that the node has a card on."
    )


class Hypervisor(Resource):
    """A node that runs guests; made by the agent on it, and named after the node."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="hypervisors",
        short_names=("hv",),
        scope="Cluster",
        columns=(
            PHASE,
            READY,
            Column("Maintenance", ".spec.maintenance", "Whether it takes guests."),
            Column("Instances", ".status.instances", "Guests that it holds.", type="integer"),
            Column("vCPUs", ".status.capacity.vcpus", "CPUs.", type="integer"),
            Column("Memory", ".status.capacity.memory", "Memory."),
            Column("Disk", ".status.capacity.disk", "Local disk."),
            Column("Quarantined", ".status.quarantined", "Guests that nobody asks for.", type="integer", wide=True),
            Column("Underlay", ".status.underlayIP", "Its underlay address.", wide=True),
            Column("Version", ".status.agentVersion", "The version of the agent.", wide=True),
            REASON,
            AGE,
        ),
    )

    RULES: ClassVar = (
        # `kumulus-node-` has 13 of a namespace's 63 characters.
        Rule(
            "self.metadata.name.size() <= 50 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name '{self.metadata.name}' must be a DNS label of at most 50 characters, because the namespace"
            " kumulus-node-{self.metadata.name} is made for it: give the agent a shorter node name without dots",
        ),
    )

    spec: HypervisorSpec = Field(default=HypervisorSpec(), description="What is asked of the hypervisor.")
    status: HypervisorStatus = Field(default_factory=HypervisorStatus, description="What the hypervisor has.")


class Allocation(Model):
    """What an instance takes of a node."""

    uid: UID = Field(description="The Instance's metadata.uid.")
    namespace: Name = Field(description="The Instance's namespace.")
    name: Name = Field(description="The Instance's name.")
    vcpus: int = Field(ge=0, description="Virtual CPUs.")
    memory: Quantity = Field(description="Memory.")
    disk: Quantity = Field(description="Local disk.")


class HypervisorAllocationSpec(Model):
    """What is taken of a node."""

    allocations: Annotated[list[Allocation], Field(max_length=2048), ListMap("uid")] = Field(
        default_factory=list, description="What each instance takes."
    )


class HypervisorAllocation(Resource):
    """The scheduler's record of what is taken of a node; named after the node. Only the scheduler writes it."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="hypervisorallocations",
        short_names=("hvalloc",),
        scope="Cluster",
        columns=(Column("Instances", ".spec.allocations[*].name", "The first instance on the node.", wide=True), AGE),
        controller=Controller.RECORD,
    )

    spec: HypervisorAllocationSpec = Field(default=HypervisorAllocationSpec(), description="What is taken.")
    status: Status = Field(default_factory=Status, description="State of the record.")


class HostAggregateSpec(Model):
    """Nodes that have something in common."""

    description: Text | None = Field(default=None, description="What the nodes have in common, for people.")
    nodes: Annotated[list[NodeName], Field(max_length=1024), ListSet()] = Field(
        default_factory=list, description="The nodes."
    )
    availability_zone: Label | None = Field(default=None, description="The zone that the nodes are.")
    properties: Annotated[dict[str, Value], Field(max_length=64)] = Field(
        default_factory=dict, description="What a flavor's extraSpecs may ask for."
    )
    tenants: TenantNames = Field(
        default_factory=list, description="The tenants that alone may use the nodes. Default: everybody."
    )


class HostAggregate(Resource):
    """Nodes that have something in common: a zone, hardware, tenants."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="hostaggregates",
        short_names=("agg",),
        scope="Cluster",
        columns=(
            READY,
            Column("Zone", ".spec.availabilityZone", "The zone that the nodes are."),
            Column("Nodes", ".spec.nodes", "The nodes."),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: HostAggregateSpec = Field(default=HostAggregateSpec(), description="The nodes and what they have in common.")
    status: Status = Field(default_factory=Status, description="State of the aggregate.")
