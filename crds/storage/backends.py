"""Where volumes are kept: backends, the types that users choose from, and targets of backups."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.access import Access, AccessScope
from crds.markers import Atomic, ListMap, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Controller, Definition, Resource, SecretRef, Status
from crds.model import Model
from crds.quantity import PositiveQuantity, Quantity
from crds.types import HTTPURL, Label, Name, NodeName, Path, Properties, Text, Value


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class SelectorRequirement(Model):
    """A condition on a label, as in metav1.LabelSelector."""

    key: Name = Field(description="The label.")
    operator: SelectorOperator = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: Annotated[list[Value], Field(max_length=64), Atomic()] = Field(
        default_factory=list, description="With In and NotIn: the values."
    )

    RULES: ClassVar = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "values must be set with operator In and NotIn, and with no other; the operator is {self.operator}",
        ),
    )


class LabelSelector(Model):
    """Selects objects by their labels, as metav1.LabelSelector: all conditions must hold."""

    match_labels: Properties = Field(default_factory=dict, description="Labels and their values.")
    match_expressions: Annotated[list[SelectorRequirement], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="Further conditions."
    )


class Driver(StrEnum):
    """What keeps the volumes of a backend."""

    FILE = "File"
    LVM = "LVM"


class StorageProtocol(StrEnum):
    """How volumes are reached over the network."""

    ISCSI = "ISCSI"


class StorageBackendSpec(Model):
    """What keeps volumes, and on which nodes."""

    description: Text | None = Field(default=None, description="What the backend is, for people.")
    driver: Driver = Field(description="File: files in a directory. LVM: logical volumes.")
    node_selector: LabelSelector | None = Field(
        default=None, description="The nodes that the backend is on, by their labels. Default: all."
    )
    parameters: Properties = Field(
        default_factory=dict,
        description="What the driver needs. File: `path`. LVM: `volumeGroup`, and `thinPool` for thin volumes.",
    )
    protocol: StorageProtocol = Field(
        default=StorageProtocol.ISCSI, description="How volumes are reached over the network."
    )

    RULES: ClassVar = (
        Rule(
            "self.driver != 'LVM' || (has(self.parameters) && 'volumeGroup' in self.parameters)",
            "driver LVM needs parameters.volumeGroup: name the LVM volume group",
            field_path=".parameters",
        ),
        Rule(
            "self.driver != 'File' || (has(self.parameters) && 'path' in self.parameters)",
            "driver File needs parameters.path: name the directory",
            field_path=".parameters",
        ),
        Rule("self.driver == oldSelf.driver", "driver is immutable: create a new StorageBackend", field_path=".driver"),
    )


class BackendPhase(StrEnum):
    """Whether a backend can be used."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    DEGRADED = "Degraded"
    ERROR = "Error"


class BackendNode(Model):
    """What a backend has on one node."""

    node_name: NodeName = Field(description="The node.")
    capacity: Quantity = Field(description="Bytes that it can hold.")
    allocated: Quantity = Field(description="Bytes that volumes were promised.")
    free: Quantity = Field(description="Bytes that are not written yet.")


class StorageBackendStatus(Status):
    """What a backend has."""

    phase: BackendPhase = Field(default=BackendPhase.PENDING, description="Whether the backend can be used.")
    nodes: Annotated[list[BackendNode], Field(max_length=1024), ListMap("nodeName")] = Field(
        default_factory=list, description="What it has on each node."
    )


class StorageBackend(Resource):
    """Nodes that keep volumes, and how."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="storagebackends",
        short_names=("sb",),
        scope="Cluster",
        columns=(
            PHASE,
            READY,
            Column("Driver", ".spec.driver", "What keeps the volumes."),
            Column("Protocol", ".spec.protocol", "How they are reached."),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: StorageBackendSpec = Field(description="What keeps volumes, and on which nodes.")
    status: StorageBackendStatus = Field(default_factory=StorageBackendStatus, description="What the backend has.")


IOPS = Annotated[int, Field(ge=1, le=10_000_000)]


class VolumeQoS(Model):
    """The most that a volume may do; total or read and write apart."""

    total_iops: IOPS | None = Field(default=None, description="Operations per second.")
    read_iops: IOPS | None = Field(default=None, description="Read operations per second.")
    write_iops: IOPS | None = Field(default=None, description="Write operations per second.")
    total_bandwidth: PositiveQuantity | None = Field(default=None, description="Bits per second.")
    read_bandwidth: PositiveQuantity | None = Field(default=None, description="Bits per second that are read.")
    write_bandwidth: PositiveQuantity | None = Field(default=None, description="Bits per second that are written.")

    RULES: ClassVar = (
        Rule(
            "!has(self.totalIOPS) || !(has(self.readIOPS) || has(self.writeIOPS))",
            "totalIOPS must not be set together with readIOPS or writeIOPS",
        ),
        Rule(
            "!has(self.totalBandwidth) || !(has(self.readBandwidth) || has(self.writeBandwidth))",
            "totalBandwidth must not be set together with readBandwidth or writeBandwidth",
        ),
    )


class VolumeTypeSpec(Model):
    """What volumes of the type are like."""

    description: Text | None = Field(default=None, description="What the type is for, for people.")
    backend_selector: LabelSelector | None = Field(
        default=None, description="The StorageBackends that may keep such volumes, by their labels. Default: all."
    )
    extra_specs: Properties = Field(default_factory=dict, description="Wishes that drivers know.")
    qos: VolumeQoS | None = Field(default=None, description="The most that such a volume may do. Default: no limit.")
    multi_attach: bool = Field(default=False, description="Whether several instances may have such a volume at once.")
    encrypted: bool = Field(default=False, description="Whether such volumes are encrypted.")
    default: bool = Field(default=False, description="Whether volumes that name no type are of this one.")
    access: Access = Field(default=Access(scope=AccessScope.PUBLIC), description="Who may use the type.")

    RULES: ClassVar = (
        Rule(
            "self.encrypted == oldSelf.encrypted && self.multiAttach == oldSelf.multiAttach",
            "encrypted and multiAttach are immutable, since volumes were made with them: create a new VolumeType",
        ),
    )


class VolumeType(Resource):
    """A kind of volume that users choose: which backend, how fast, encrypted or not."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="volumetypes",
        short_names=("vt",),
        scope="Cluster",
        columns=(
            READY,
            Column("Default", ".spec.default", "Whether volumes that name none are of it.", type="boolean"),
            Column("Encrypted", ".spec.encrypted", "Whether volumes are encrypted.", type="boolean"),
            Column("Scope", ".spec.access.scope", "Who may use it.", wide=True),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: VolumeTypeSpec = Field(default=VolumeTypeSpec(), description="What volumes of the type are like.")
    status: Status = Field(default_factory=Status, description="State of the type.")


class S3Target(Model):
    """A bucket of an S3 service."""

    endpoint: HTTPURL = Field(description="The service.")
    bucket: Label = Field(description="The bucket.")
    region: Label | None = Field(default=None, description="The region, if the service asks for one.")
    prefix: Annotated[str, Field(max_length=255)] | None = Field(default=None, description="Put before every key.")
    credentials_secret_ref: SecretRef = Field(description="A Secret with the keys accessKeyID and secretAccessKey.")


class DirectoryTarget(Model):
    """A directory that all storage nodes see, for example a mount of NFS."""

    path: Path = Field(description="The directory.")


class Compression(StrEnum):
    """How backups are compressed."""

    NONE = "None"
    ZSTD = "Zstd"


class BackupTargetSpec(Model):
    """Where backups go: exactly one of s3 and directory."""

    description: Text | None = Field(default=None, description="What the target is, for people.")
    default: bool = Field(default=False, description="Whether backups that name no target go here.")
    s3: S3Target | None = Field(default=None, description="A bucket.")
    directory: DirectoryTarget | None = Field(default=None, description="A directory.")
    compression: Compression = Field(default=Compression.ZSTD, description="How backups are compressed.")

    RULES: ClassVar = (Rule("has(self.s3) != has(self.directory)", "exactly one of s3 and directory must be set"),)


class BackupTarget(Resource):
    """A place that keeps backups."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="backuptargets",
        short_names=("bt",),
        scope="Cluster",
        columns=(
            READY,
            Column("Default", ".spec.default", "Whether backups that name none go here.", type="boolean"),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: BackupTargetSpec = Field(description="Where backups go.")
    status: Status = Field(default_factory=Status, description="State of the target.")
