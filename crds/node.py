"""Group `node`: what operators and host agents say to each other. Users see none of it. See docs/contracts.md."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.conditions import Time
from crds.markers import Atomic, Immutable, ListMap, ListSet
from crds.meta import AGE, READY, Column, Controller, Definition, Resource, Status
from crds.model import Model
from crds.quantity import PositiveQuantity
from crds.types import (
    CIDR,
    HTTPURL,
    MTU,
    SHA256,
    UID,
    IPAddress,
    IPAddressOrCIDR,
    Label,
    MACAddress,
    Name,
    NodeName,
    Percentage,
    Value,
)
from crds.vocabulary import (
    Direction,
    DiskBus,
    DiskFormat,
    EtherType,
    Firmware,
    NetworkType,
    OSType,
    PowerState,
    Protocol,
    RestartPolicy,
    VideoModel,
    VifModel,
)

_INTERNAL = ("kumulus-internal",)

UIDs = Annotated[list[UID], Field(max_length=64), ListSet()]
SegmentationID = Annotated[int, Field(ge=1, le=16777215)]


class InstanceRef(Model):
    """The Instance that a work object is for."""

    namespace: Name = Field(description="The Instance's namespace.")
    name: Name = Field(description="The Instance's name.")
    uid: UID = Field(description="The Instance's metadata.uid; also the UUID of the libvirt domain.")


class Machine(Model):
    """The hardware that the guest sees; from the image's properties."""

    disk_bus: DiskBus = Field(default=DiskBus.VIRTIO, description="The bus of the disks.")
    vif_model: VifModel = Field(default=VifModel.VIRTIO, description="The network cards.")
    firmware: Firmware = Field(default=Firmware.BIOS, description="What starts the guest.")
    machine_type: Label | None = Field(default=None, description="QEMU's machine type. Default: the node's default.")
    video_model: VideoModel | None = Field(default=None, description="The graphics card. Default: none of it.")
    os_type: OSType = Field(default=OSType.LINUX, description="The family of the operating system.")
    guest_agent: bool = Field(default=False, description="Whether the guest runs the QEMU guest agent.")
    rng: bool = Field(default=True, description="Whether the guest has a virtio random number generator.")


class RootImage(Model):
    """The base image of a root disk, as the image service serves it: a plain qcow2 without backing or data file."""

    name: Name = Field(description="The Image's name, for metadata and messages.")
    sha256: SHA256 = Field(description="The checksum of the bytes that the URL yields; also the key of the cache.")
    size: PositiveQuantity = Field(description="Length of those bytes.")
    virtual_size: PositiveQuantity = Field(description="Size of the disk that the guest sees.")
    format: DiskFormat = Field(description="The format of the bytes, passed to QEMU explicitly.")
    url: HTTPURL = Field(description="Where the image service serves the bytes.")


class RootDisk(Model):
    """The root disk: a qcow2 overlay on the node's cached copy of the image."""

    size: PositiveQuantity = Field(description="Size of the overlay; at least the image's virtual size.")
    image: RootImage = Field(description="What the disk holds at first.")


class PublicKey(Model):
    """An ssh key for the guest."""

    name: Name = Field(description="The KeyPair's name.")
    public_key: str = Field(max_length=8192, description="The key in OpenSSH form.")


class GuestMetadata(Model):
    """What the metadata service and the config drive tell the guest about itself."""

    hostname: Label = Field(description="The guest's host name.")
    name: Name = Field(description="The Instance's name.")
    project_id: Name = Field(alias="projectID", description="The tenant.")
    availability_zone: Label | None = Field(default=None, description="The zone that the guest is in.")
    launch_index: int = Field(default=0, ge=0, description="The guest's number among those made at once.")
    instance_type: Name | None = Field(default=None, description="The flavor's name.")
    keys: Annotated[list[PublicKey], Field(max_length=16), ListMap("name")] = Field(
        default_factory=list, description="The ssh keys."
    )
    properties: Annotated[dict[str, Value], Field(max_length=128)] = Field(
        default_factory=dict, description="The Instance's spec.metadata."
    )


class PortNetwork(Model):
    """The network that a port is on."""

    uid: UID = Field(description="The Network's metadata.uid.")
    name: Name = Field(description="The Network's name.")
    type: NetworkType = Field(description="How frames travel between nodes.")
    segmentation_id: SegmentationID | None = Field(default=None, description="The VNI or VLAN; absent for Flat.")
    physical_network: Label | None = Field(default=None, description="The physical network of Flat and VLAN.")
    mtu: MTU = Field(description="The MTU that guests are told.")
    dns_domain: Name | None = Field(default=None, description="The DNS search domain that guests are told.")


class HostRoute(Model):
    """A route that guests are told."""

    destination: CIDR = Field(description="The route's destination.")
    next_hop: IPAddress = Field(description="The router to send to.")


class PortSubnet(Model):
    """A subnet that a port has an address of."""

    uid: UID = Field(description="The Subnet's metadata.uid.")
    name: Name | None = Field(default=None, description="The Subnet's name.")
    cidr: CIDR = Field(description="The subnet's addresses.")
    gateway: IPAddress | None = Field(default=None, description="The default router; absent when there is none.")
    dhcp: bool = Field(default=True, description="Whether the node answers DHCP.")
    dhcp_server_ip: IPAddress | None = Field(
        default=None, description="The DHCP and metadata server's address, the same on every node."
    )
    dhcp_server_mac: MACAddress | None = Field(default=None, description="Its MAC, the same on every node.")
    dns_nameservers: Annotated[list[IPAddress], Field(max_length=8), Atomic()] = Field(
        default_factory=list, description="The resolvers that guests are told."
    )
    host_routes: Annotated[list[HostRoute], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="Further routes that guests are told."
    )


class PortFixedIP(Model):
    """An address of a port."""

    ip: IPAddress = Field(description="The address.")
    subnet_uid: UID = Field(description="The metadata.uid of its Subnet, one of `subnets`.")


class AddressPair(Model):
    """A further address that a port may send from."""

    ip: IPAddressOrCIDR = Field(description="An address or a range.")
    mac: MACAddress | None = Field(default=None, description="The MAC to send it from. Default: the port's own.")


class NodePort(Model):
    """A network card of the guest, with all that the node needs to connect and guard it."""

    name: Label = Field(description="The name in the Instance's spec.networks.")
    uid: UID = Field(description="The Port's metadata.uid; the tap is named after it.")
    port_name: Name = Field(description="The Port's name.")
    mac_address: MACAddress = Field(description="The card's MAC.")
    port_security: bool = Field(default=True, description="Whether anti-spoofing and security groups are enforced.")
    network: PortNetwork = Field(description="The network that the port is on.")
    fixed_ips: Annotated[list[PortFixedIP], Field(max_length=16), Atomic()] = Field(
        default_factory=list, description="The port's addresses."
    )
    subnets: Annotated[list[PortSubnet], Field(max_length=16), ListMap("uid")] = Field(
        default_factory=list, description="The subnets that those are of."
    )
    allowed_address_pairs: Annotated[list[AddressPair], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="Further addresses that the guest may send from."
    )
    security_group_uids: UIDs = Field(
        default_factory=list,
        description="The security groups, by metadata.uid; their rules are in SecurityGroupSlices.",
    )


class NodeInstanceSpec(Model):
    """All that a node needs to run a guest; the operator writes it complete and updates it in place."""

    instance_ref: Annotated[InstanceRef, Immutable()] = Field(description="The Instance that the guest is.")
    power_state: PowerState = Field(default=PowerState.RUNNING, description="What the guest is to do.")
    restart_policy: RestartPolicy = Field(
        default=RestartPolicy.ALWAYS, description="When the guest is started again after it stopped by itself."
    )
    vcpus: int = Field(ge=1, le=512, description="Virtual CPUs.")
    memory: PositiveQuantity = Field(description="Memory in bytes.")
    machine: Machine = Field(default=Machine(), description="The hardware that the guest sees.")
    root_disk: RootDisk = Field(description="The disk that the guest starts from.")
    metadata: GuestMetadata = Field(description="What the guest is told about itself.")
    user_data: Annotated[str, Field(max_length=65536)] | None = Field(
        default=None, description="The user-data, as it is."
    )
    user_data_secret_name: Name | None = Field(
        default=None, description="Instead: the Secret in this namespace whose key userData holds it."
    )
    config_drive: bool = Field(default=False, description="Whether the guest gets its metadata as a disk too.")
    ports: Annotated[list[NodePort], Field(max_length=32), ListMap("name")] = Field(
        default_factory=list, description="The network cards, in this order."
    )


class NodeInstanceState(StrEnum):
    """What the guest was seen to do."""

    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    BUILDING = "Building"
    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    CRASHED = "Crashed"
    ERROR = "Error"
    DELETING = "Deleting"


class Step(StrEnum):
    """The steps of a first start, in their order."""

    ACCEPTED = "Accepted"
    IMAGE_READY = "ImageReady"
    DISK_READY = "DiskReady"
    DOMAIN_DEFINED = "DomainDefined"
    STARTED = "Started"
    NETWORK_READY = "NetworkReady"
    RESUMED = "Resumed"


class StepRecord(Model):
    """When a step of the first start was done."""

    name: Step = Field(description="The step.")
    at: Time = Field(description="When it was done, with parts of a second.")


class NodePortState(StrEnum):
    """How far a port is on the node."""

    DOWN = "Down"
    ACTIVE = "Active"
    ERROR = "Error"


class NodePortStatus(Model):
    """A port as it is on the node."""

    uid: UID = Field(description="The Port's metadata.uid.")
    state: NodePortState = Field(description="Active: the tap is up and guarded.")
    tap: Label | None = Field(default=None, description="The tap's name in the network namespace kumulus.")


class NodeInstanceStatus(Status):
    """What the agent sees and has done."""

    state: NodeInstanceState = Field(default=NodeInstanceState.PENDING, description="What the guest was seen to do.")
    reason: Label | None = Field(default=None, description="Why, as one CamelCase word.")
    message: Annotated[str, Field(max_length=4096)] | None = Field(default=None, description="Why, as a sentence.")
    progress: Percentage | None = Field(default=None, description="Per cent of the step that takes long.")
    steps: Annotated[list[StepRecord], Field(max_length=16), ListMap("name")] = Field(
        default_factory=list, description="When the steps of the first start were done."
    )
    ports: Annotated[list[NodePortStatus], Field(max_length=32), ListMap("uid")] = Field(
        default_factory=list, description="The ports as they are."
    )


class NodeInstance(Resource):
    """The work object of one Instance on one node: all that the agent needs, and what the agent reports."""

    DEFINITION: ClassVar = Definition(
        group="node",
        plural="nodeinstances",
        short_names=("ninst",),
        categories=_INTERNAL,
        columns=(
            Column("Instance", ".spec.instanceRef.name", "The Instance."),
            Column("Tenant", ".spec.instanceRef.namespace", "The Instance's namespace."),
            Column("State", ".status.state", "What the guest was seen to do."),
            READY,
            AGE,
            Column("Message", ".status.message", "Why it is so.", wide=True),
        ),
        selectable=(".spec.instanceRef.uid",),
    )

    spec: NodeInstanceSpec = Field(description="What the node is to run.")
    status: NodeInstanceStatus = Field(default_factory=NodeInstanceStatus, description="What the agent reports.")


class SliceEntry(Model):
    """A port of the network: what other nodes need to reach it."""

    port_uid: UID = Field(description="The Port's metadata.uid.")
    mac: MACAddress = Field(description="Its MAC.")
    ips: Annotated[list[IPAddress], Field(max_length=16), Atomic()] = Field(
        default_factory=list, description="Its addresses, for answering ARP and ND."
    )
    node_name: NodeName = Field(description="The node that it is bound to.")
    vtep: IPAddress | None = Field(default=None, description="That node's underlay address.")


class NetworkSliceSpec(Model):
    """A shard of the forwarding entries of a network."""

    network_uid: Annotated[UID, Immutable()] = Field(description="The Network's metadata.uid.")
    type: NetworkType = Field(description="How frames travel between nodes.")
    segmentation_id: SegmentationID | None = Field(default=None, description="The VNI or VLAN; absent for Flat.")
    entries: Annotated[list[SliceEntry], Field(max_length=200), ListMap("portUID", "nodeName")] = Field(
        default_factory=list, description="The bound ports. One that migrates has an entry on each node."
    )


class NetworkSlice(Resource):
    """Where the ports of a network are: what each node with such a port needs of the others."""

    DEFINITION: ClassVar = Definition(
        group="node",
        plural="networkslices",
        short_names=("netslice",),
        categories=_INTERNAL,
        columns=(
            Column("Network", ".spec.networkUID", "The Network's UID."),
            Column("Type", ".spec.type", "How frames travel between nodes."),
            Column("Segment", ".spec.segmentationID", "The VNI or VLAN.", type="integer"),
            AGE,
        ),
        selectable=(".spec.networkUID",),
        controller=Controller.NONE,
    )

    spec: NetworkSliceSpec = Field(description="The forwarding entries.")


class SliceRule(Model):
    """A rule of a security group with nothing left to look up."""

    direction: Direction = Field(description="As seen from the guest.")
    ether_type: EtherType = Field(description="The family of addresses.")
    protocol: Protocol | None = Field(default=None, description="The IP protocol. Absent: any.")
    port_range_min: int | None = Field(default=None, ge=0, le=65535, description="First port, or the ICMP type.")
    port_range_max: int | None = Field(default=None, ge=0, le=65535, description="Last port, or the ICMP code.")
    remote_ip_prefix: CIDR | None = Field(default=None, description="Only to or from these addresses.")
    remote_group_uid: UID | None = Field(default=None, description="Only to or from members of this group.")


class SliceMember(Model):
    """A member of a security group."""

    port_uid: UID = Field(description="The Port's metadata.uid.")
    ips: Annotated[list[IPAddressOrCIDR], Field(max_length=48), Atomic()] = Field(
        default_factory=list, description="The port's addresses, allowed address pairs among them."
    )


class SecurityGroupSliceSpec(Model):
    """A shard of a security group."""

    group_uid: Annotated[UID, Immutable()] = Field(description="The SecurityGroup's metadata.uid.")
    shard: int = Field(default=0, ge=0, description="The shard's number. Shard 0 holds the rules.")
    rules: Annotated[list[SliceRule], Field(max_length=512), Atomic()] = Field(
        default_factory=list, description="The group's rules."
    )
    members: Annotated[list[SliceMember], Field(max_length=500), ListMap("portUID")] = Field(
        default_factory=list, description="Some of the group's members."
    )


class SecurityGroupSlice(Resource):
    """Rules and members of a security group, for the nodes that enforce it or name it as a remote group."""

    DEFINITION: ClassVar = Definition(
        group="node",
        plural="securitygroupslices",
        short_names=("sgslice",),
        categories=_INTERNAL,
        columns=(
            Column("Group", ".spec.groupUID", "The SecurityGroup's UID."),
            Column("Shard", ".spec.shard", "The shard's number.", type="integer"),
            AGE,
        ),
        selectable=(".spec.groupUID",),
        controller=Controller.NONE,
    )

    spec: SecurityGroupSliceSpec = Field(description="Rules and members.")


KINDS: tuple[type[Resource], ...] = (NodeInstance, NetworkSlice, SecurityGroupSlice)
