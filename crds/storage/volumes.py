"""Volumes, their attachments, snapshots and backups."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.conditions import Time
from crds.markers import Immutable, ListMap, Rule
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
from crds.quantity import PositiveQuantity, Quantity
from crds.types import UID, IPAddress, Label, Name, NodeName, Percentage, Text

_SIZE = Column("Size", ".status.size", "Its size.")


class VolumeSource(Model):
    """What a volume holds at first: exactly one member."""

    image_ref: ObjectRef | None = Field(default=None, description="An Image.")
    snapshot_ref: NameRef | None = Field(default=None, description="A Snapshot of this namespace.")
    volume_ref: NameRef | None = Field(default=None, description="A clone of a Volume of this namespace.")
    backup_ref: NameRef | None = Field(default=None, description="A VolumeBackup of this namespace.")

    RULES: ClassVar = (
        Rule(
            "[has(self.imageRef), has(self.snapshotRef), has(self.volumeRef), has(self.backupRef)]"
            ".exists_one(member, member)",
            "exactly one of imageRef, snapshotRef, volumeRef and backupRef must be set; for an empty volume, no source",
        ),
    )


class VolumeSpec(Model):
    """What is asked of a volume."""

    description: Text | None = Field(default=None, description="What the volume is for, for people.")
    size: Annotated[
        PositiveQuantity,
        Rule(
            "quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0",
            "a volume may only grow: {string(self)} is less than {string(oldSelf)}",
        ),
    ] = Field(description="Its size; it may grow, also while it is attached.")
    volume_type_ref: NameRef | None = Field(
        default=None, description="The VolumeType. Default: the default one. Changing it retypes the volume."
    )
    source: Annotated[VolumeSource, Immutable("create a new Volume")] | None = Field(
        default=None, description="What it holds at first. Default: nothing."
    )
    availability_zone: Annotated[Label, Immutable("create a new Volume in the other zone")] | None = Field(
        default=None, description="The zone that it must be in. Default: any."
    )


class VolumePhase(StrEnum):
    """Where a volume is in its life."""

    CREATING = "Creating"
    AVAILABLE = "Available"
    IN_USE = "InUse"
    EXTENDING = "Extending"
    RETYPING = "Retyping"
    MIGRATING = "Migrating"
    RESTORING = "Restoring"
    ERROR = "Error"
    DELETING = "Deleting"


class VolumeAttachment(Model):
    """An instance that has the volume."""

    instance: Name = Field(description="The Instance.")
    device: Label | None = Field(default=None, description="The disk that the guest sees, for example vdb.")


class VolumeStatus(Status):
    """What a volume has."""

    phase: VolumePhase = Field(default=VolumePhase.CREATING, description="Where the volume is in its life.")
    size: Quantity | None = Field(default=None, description="The size that it has now.")
    backend: Name | None = Field(default=None, description="The StorageBackend that keeps it.")
    node_name: NodeName | None = Field(default=None, description="The node that it is on.")
    volume_type: Name | None = Field(default=None, description="The VolumeType that it has now.")
    bootable: bool | None = Field(default=None, description="Whether it was made from an image.")
    encrypted: bool | None = Field(default=None, description="Whether it is encrypted.")
    progress: Percentage | None = Field(default=None, description="Per cent of a step that takes long.")
    attachments: Annotated[list[VolumeAttachment], Field(max_length=64), ListMap("instance")] = Field(
        default_factory=list, description="The instances that have it."
    )


class Volume(Resource):
    """A disk that outlives instances."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="volumes",
        short_names=("vol",),
        columns=(
            PHASE,
            READY,
            Column("Size", ".spec.size", "Its size."),
            Column("Type", ".spec.volumeTypeRef.name", "Its VolumeType."),
            Column("Instance", ".status.attachments[*].instance", "The Instance that has it."),
            Column("Backend", ".status.backend", "The StorageBackend that keeps it.", wide=True),
            Column("Node", ".status.nodeName", "The node that it is on.", wide=True),
            REASON,
            AGE,
        ),
        selectable=(".spec.volumeTypeRef.name",),
        controller=Controller.PLANNED,
    )

    spec: VolumeSpec = Field(description="What is asked of the volume.")
    status: VolumeStatus = Field(default_factory=VolumeStatus, description="What the volume has.")


class BoundObject(Model):
    """An object by its name and UID."""

    name: Name = Field(description="The object's name.")
    uid: UID = Field(description="Its metadata.uid.")


class VolumeBindingSpec(Model):
    """Which volume is attached to which instance on which node."""

    volume_ref: Annotated[BoundObject, Immutable()] = Field(description="The Volume, in the same namespace.")
    instance_ref: Annotated[BoundObject, Immutable()] = Field(description="The Instance, in the same namespace.")
    node_name: Annotated[NodeName, Immutable()] = Field(description="The node that the instance is on.")
    volume_node_name: NodeName | None = Field(default=None, description="The node that the volume is on.")
    read_only: bool = Field(default=False, description="Whether the guest must not write to it.")
    attach_generation: int = Field(
        default=1, ge=1, description="Counts the attachments; each has its own target name and credentials."
    )


class VolumeBindingPhase(StrEnum):
    """How far an attachment is."""

    PENDING = "Pending"
    EXPORTED = "Exported"
    ATTACHED = "Attached"
    DETACHING = "Detaching"
    ERROR = "Error"


class VolumeExport(Model):
    """How the volume is reached."""

    portal: IPAddress = Field(description="The address of the node that serves it.")
    port: int = Field(ge=1, le=65535, description="The TCP port.")
    target: Annotated[str, Field(max_length=223)] = Field(description="The iSCSI target name (RFC 3720).")
    lun: int = Field(default=1, ge=0, le=16383, description="The logical unit.")


class VolumeBindingStatus(Status):
    """How far an attachment is."""

    phase: VolumeBindingPhase = Field(default=VolumeBindingPhase.PENDING, description="How far the attachment is.")
    export: VolumeExport | None = Field(default=None, description="How the volume is reached.")
    device: Label | None = Field(default=None, description="The disk that the guest sees, for example vdb.")


class VolumeBinding(Resource):
    """The attachment of a volume to an instance; storage and compute both read it. Users do not write it."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="volumebindings",
        short_names=("vb",),
        columns=(
            Column("Volume", ".spec.volumeRef.name", "The Volume."),
            Column("Instance", ".spec.instanceRef.name", "The Instance."),
            PHASE,
            READY,
            Column("Node", ".spec.nodeName", "The node that the instance is on."),
            Column("Device", ".status.device", "The disk that the guest sees."),
            REASON,
            AGE,
        ),
        selectable=(".spec.instanceRef.uid", ".spec.volumeRef.uid", ".spec.nodeName"),
        controller=Controller.PLANNED,
    )

    spec: VolumeBindingSpec = Field(description="What is attached to what.")
    status: VolumeBindingStatus = Field(default_factory=VolumeBindingStatus, description="How far it is.")


class SnapshotSpec(Model):
    """Which volume; it must not change."""

    volume_ref: Annotated[NameRef, Immutable("create a new Snapshot")] = Field(
        description="The Volume, in the same namespace."
    )
    description: Text | None = Field(default=None, description="What the snapshot is for, for people.")


class SnapshotPhase(StrEnum):
    """Where a snapshot is in its life."""

    CREATING = "Creating"
    AVAILABLE = "Available"
    ERROR = "Error"
    DELETING = "Deleting"


class SnapshotStatus(Status):
    """What a snapshot has."""

    phase: SnapshotPhase = Field(default=SnapshotPhase.CREATING, description="Where the snapshot is in its life.")
    size: Quantity | None = Field(default=None, description="Size of the volume when it was made.")
    backend: Name | None = Field(default=None, description="The StorageBackend that keeps it.")
    node_name: NodeName | None = Field(default=None, description="The node that it is on.")
    taken_at: Time | None = Field(default=None, description="The time that it shows the volume at.")


class Snapshot(Resource):
    """A volume as it was at one time."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="snapshots",
        short_names=("snap",),
        columns=(Column("Volume", ".spec.volumeRef.name", "The Volume."), PHASE, READY, _SIZE, REASON, AGE),
        selectable=(".spec.volumeRef.name",),
        controller=Controller.PLANNED,
    )

    spec: SnapshotSpec = Field(description="Which volume.")
    status: SnapshotStatus = Field(default_factory=SnapshotStatus, description="What the snapshot has.")


class VolumeBackupSpec(Model):
    """What is backed up, and where to; it must not change."""

    volume_ref: NameRef | None = Field(default=None, description="A Volume of this namespace. Or snapshotRef.")
    snapshot_ref: NameRef | None = Field(default=None, description="A Snapshot of this namespace. Or volumeRef.")
    target_ref: NameRef | None = Field(default=None, description="The BackupTarget. Default: the default one.")
    incremental: bool = Field(default=False, description="Whether only what changed since the last backup is kept.")
    description: Text | None = Field(default=None, description="What the backup is for, for people.")

    RULES: ClassVar = (
        Rule("self == oldSelf", "the spec of a VolumeBackup is immutable: create a new VolumeBackup"),
        Rule("has(self.volumeRef) != has(self.snapshotRef)", "exactly one of volumeRef and snapshotRef must be set"),
    )


class VolumeBackupPhase(StrEnum):
    """Where a backup is in its life."""

    PENDING = "Pending"
    CREATING = "Creating"
    AVAILABLE = "Available"
    ERROR = "Error"
    DELETING = "Deleting"


class VolumeBackupStatus(Status):
    """What a backup has."""

    phase: VolumeBackupPhase = Field(default=VolumeBackupPhase.PENDING, description="Where the backup is in its life.")
    progress: Percentage | None = Field(default=None, description="Per cent that is written.")
    size: Quantity | None = Field(default=None, description="Bytes that it takes in the target.")
    volume_size: Quantity | None = Field(default=None, description="Size of the volume when it was made.")
    parent: Name | None = Field(default=None, description="The backup that an incremental one builds on.")
    location: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Where in the target it is; enough to restore it on an empty cluster."
    )
    completed_at: Time | None = Field(default=None, description="When it was done.")


class VolumeBackup(Resource):
    """A copy of a volume in another place."""

    DEFINITION: ClassVar = Definition(
        group="storage",
        plural="volumebackups",
        short_names=("vbak",),
        columns=(
            Column("Volume", ".spec.volumeRef.name", "The Volume."),
            PHASE,
            READY,
            _SIZE,
            Column("Target", ".spec.targetRef.name", "The BackupTarget."),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: VolumeBackupSpec = Field(description="What is backed up, and where to.")
    status: VolumeBackupStatus = Field(default_factory=VolumeBackupStatus, description="What the backup has.")
