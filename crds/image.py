"""Group `image`: images and where their bytes are kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.access import Access
from crds.markers import Immutable, Rule
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
    SecretRef,
    Status,
)
from crds.model import Model
from crds.quantity import Quantity
from crds.types import HTTPURL, SHA256, Label, Name, Path, Percentage, Text
from crds.vocabulary import DiskBus, DiskFormat, Firmware, OSType, VideoModel, VifModel


class ImageUpload(Model):
    """Takes the bytes with a PUT to a URL that a Secret named in the status holds."""


class ImageSource(Model):
    """Where the bytes come from: exactly one member."""

    url: HTTPURL | None = Field(default=None, description="Fetched from here, http or https.")
    upload: ImageUpload | None = Field(
        default=None, description="`{}`: uploaded by the user. A Secret named in the status holds the URL for a PUT."
    )
    instance_ref: NameRef | None = Field(default=None, description="The root disk of an Instance of this namespace.")
    volume_ref: NameRef | None = Field(default=None, description="A Volume of this namespace.")
    image_ref: ObjectRef | None = Field(default=None, description="A copy of another Image.")

    RULES: ClassVar = (
        Rule(
            "[has(self.url), has(self.upload), has(self.instanceRef), has(self.volumeRef), has(self.imageRef)]"
            ".exists_one(member, member)",
            "exactly one of url, upload, instanceRef, volumeRef and imageRef must be set",
        ),
    )


class ImageProperties(Model):
    """What a guest made from the image needs, as Glance's hw_* and os_* properties."""

    hw_disk_bus: DiskBus | None = Field(default=None, description="The bus of the disks. Default: virtio.")
    hw_vif_model: VifModel | None = Field(default=None, description="The network cards. Default: virtio.")
    hw_firmware: Firmware | None = Field(default=None, description="What starts the guest. Default: bios.")
    hw_machine_type: Label | None = Field(default=None, description="QEMU's machine type. Default: the node's.")
    hw_video_model: VideoModel | None = Field(default=None, description="The graphics card. Default: the node's.")
    hw_guest_agent: bool | None = Field(default=None, description="Whether the guest runs the QEMU guest agent.")
    hw_rng: bool | None = Field(default=None, description="Whether the guest has a random number generator.")
    os_type: OSType | None = Field(default=None, description="The family of the operating system. Default: linux.")
    os_distro: Label | None = Field(default=None, description="The distribution, for people and tools: debian.")
    os_version: Label | None = Field(default=None, description="Its version, for people and tools: 12.")
    os_admin_user: Label | None = Field(default=None, description="The user to log in as, for people and tools.")


class ImageSpec(Model):
    """What an image is to be."""

    description: Text | None = Field(default=None, description="What the image is, for people.")
    source: Annotated[ImageSource, Immutable("create a new Image for new bytes")] = Field(
        description="Where the bytes come from."
    )
    sha256: Annotated[SHA256, Immutable("create a new Image for new bytes")] | None = Field(
        default=None, description="The checksum that the bytes must have. Absent: not checked, only told in the status."
    )
    disk_format: Annotated[DiskFormat, Immutable("create a new Image")] = Field(
        description="The format that the bytes have; refused if the bytes say otherwise."
    )
    access: Access = Field(default=Access(), description="Who may use the image.")
    protected: bool = Field(default=False, description="Whether the image's deletion is held back until this is false.")
    deactivated: bool = Field(default=False, description="Whether the image is withheld from new instances.")
    min_disk: Quantity | None = Field(default=None, description="The smallest root disk that it works with.")
    min_memory: Quantity | None = Field(default=None, description="The least memory that it works with.")
    properties: ImageProperties = Field(
        default_factory=ImageProperties, description="What a guest made from the image needs."
    )
    store_ref: Annotated[NameRef, Immutable("create a new Image")] | None = Field(
        default=None, description="The ImageStore that keeps the bytes. Default: the default store."
    )


class ImagePhase(StrEnum):
    """Where an image is in its life."""

    QUEUED = "Queued"
    SAVING = "Saving"
    IMPORTING = "Importing"
    ACTIVE = "Active"
    DEACTIVATED = "Deactivated"
    ERROR = "Error"


class ImageStatus(Status):
    """What an image is."""

    phase: ImagePhase = Field(
        default=ImagePhase.QUEUED,
        description="Queued: waits for its bytes or its turn. Saving: bytes arrive. Importing: inspected and converted."
        " Active: usable. Deactivated: withheld. Error: see the conditions.",
    )
    progress: Percentage | None = Field(default=None, description="Per cent of Saving or Importing.")
    size: Quantity | None = Field(default=None, description="Bytes that the store keeps.")
    virtual_size: Quantity | None = Field(default=None, description="Size of the disk that a guest sees.")
    sha256: SHA256 | None = Field(default=None, description="The checksum of the bytes as they came.")
    stored_sha256: SHA256 | None = Field(
        default=None, description="The checksum of what the store keeps and nodes fetch: a plain qcow2."
    )
    detected_format: DiskFormat | None = Field(
        default=None, description="The format that the bytes turned out to have."
    )
    upload_secret_ref: NameRef | None = Field(
        default=None, description="The Secret in this namespace whose key `url` takes the upload."
    )
    url: HTTPURL | None = Field(default=None, description="Where the image service serves what it stored to nodes.")
    store: Name | None = Field(default=None, description="The ImageStore that keeps the bytes.")


class Image(Resource):
    """A disk image that instances and volumes are made from."""

    DEFINITION: ClassVar = Definition(
        group="image",
        plural="images",
        short_names=("img",),
        columns=(
            PHASE,
            READY,
            Column("Progress", ".status.progress", "Per cent done.", type="integer"),
            Column("Size", ".status.size", "Bytes that are stored."),
            Column("Virtual", ".status.virtualSize", "Size of the disk that a guest sees.", wide=True),
            Column("Format", ".spec.diskFormat", "The format of the bytes as they came.", wide=True),
            Column("Scope", ".spec.access.scope", "Who may use it.", wide=True),
            REASON,
            AGE,
        ),
        selectable=(".spec.access.scope",),
    )

    spec: ImageSpec = Field(description="What the image is to be.")
    status: ImageStatus = Field(default_factory=ImageStatus, description="What the image is.")


class DirectoryStore(Model):
    """A directory of the image service's volume."""

    path: Path = Field(description="The directory.")


class S3Store(Model):
    """A bucket of an S3 service."""

    endpoint: HTTPURL = Field(description="The service.")
    bucket: Label = Field(description="The bucket.")
    region: Label | None = Field(default=None, description="The region, if the service asks for one.")
    prefix: Annotated[str, Field(max_length=255)] | None = Field(default=None, description="Put before every key.")
    credentials_secret_ref: SecretRef = Field(description="A Secret with the keys accessKeyID and secretAccessKey.")


class HTTPStore(Model):
    """A web server that has the bytes and takes none."""

    url: HTTPURL = Field(description="The address below which images are.")


class ImageStoreSpec(Model):
    """Where bytes are kept: exactly one of directory, s3 and http."""

    default: bool = Field(default=False, description="Whether images that name no store are kept here.")
    directory: DirectoryStore | None = Field(default=None, description="A directory.")
    s3: S3Store | None = Field(default=None, description="A bucket.")
    http: HTTPStore | None = Field(default=None, description="A web server, read only.")

    RULES: ClassVar = (
        Rule(
            "[has(self.directory), has(self.s3), has(self.http)].exists_one(member, member)",
            "exactly one of directory, s3 and http must be set",
        ),
    )


class StorePhase(StrEnum):
    """Whether a store can be used."""

    PENDING = "Pending"
    AVAILABLE = "Available"
    ERROR = "Error"


class ImageStoreStatus(Status):
    """What a store has."""

    phase: StorePhase = Field(default=StorePhase.PENDING, description="Whether the store can be used.")
    capacity: Quantity | None = Field(default=None, description="Bytes that it can hold, if known.")
    images: int | None = Field(default=None, ge=0, description="Images that it keeps.")


class ImageStore(Resource):
    """A place that keeps images' bytes."""

    DEFINITION: ClassVar = Definition(
        group="image",
        plural="imagestores",
        scope="Cluster",
        columns=(
            PHASE,
            READY,
            Column("Default", ".spec.default", "Whether images that name no store go here.", type="boolean"),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: ImageStoreSpec = Field(description="Where bytes are kept.")
    status: ImageStoreStatus = Field(default_factory=ImageStoreStatus, description="What the store has.")


KINDS: tuple[type[Resource], ...] = (Image, ImageStore)
