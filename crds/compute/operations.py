"""What is done to an instance once: actions, migrations, snapshots, consoles."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.conditions import Time
from crds.duration import Duration
from crds.markers import Atomic, Immutable, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Controller, Definition, NameRef, Resource, SecretKeyRef, Status
from crds.model import Model
from crds.types import HTTPURL, DNSLabel, Name, NodeName, Percentage, Text

_INSTANCE = Column("Instance", ".spec.instanceRef.name", "The Instance.")


class Action(StrEnum):
    """What is to be done."""

    REBOOT = "Reboot"
    CONFIRM_RESIZE = "ConfirmResize"
    CRASH_DUMP = "CrashDump"
    SET_PASSWORD = "SetPassword"  # noqa: S105 - the name of an action


class RebootType(StrEnum):
    """How a guest is rebooted."""

    SOFT = "Soft"
    HARD = "Hard"


class Reboot(Model):
    """Reboots the guest."""

    type: RebootType = Field(
        default=RebootType.SOFT, description="Soft: the guest is asked to, then made to. Hard: like the reset button."
    )


class ConfirmResize(Model):
    """Accepts a resize: what would be needed to go back is deleted."""


class CrashDump(Model):
    """Makes the guest write a crash dump, by an NMI."""


class SetPassword(Model):
    """Sets a password in the guest, through its QEMU guest agent."""

    user: Name = Field(default="root", description="Whose password.")
    password_secret_ref: SecretKeyRef = Field(
        description="A Secret of this namespace; its key is `password` by default."
    )


class InstanceActionSpec(Model):
    """What is to be done, and to which instance; it must not change."""

    instance_ref: NameRef = Field(description="The Instance, in the same namespace.")
    action: Action = Field(description="What is to be done. The member of the same name holds the details.")
    reboot: Reboot | None = Field(default=None, description="With Reboot.")
    confirm_resize: ConfirmResize | None = Field(default=None, description="With ConfirmResize.")
    crash_dump: CrashDump | None = Field(default=None, description="With CrashDump.")
    set_password: SetPassword | None = Field(default=None, description="With SetPassword, where it is needed.")
    ttl: Duration = Field(default=timedelta(hours=24), description="How long the object is kept once it is done.")

    RULES: ClassVar = (
        Rule("self == oldSelf", "an InstanceAction is immutable: create a new one"),
        Rule(
            "(!has(self.reboot) || self.action == 'Reboot')"
            " && (!has(self.confirmResize) || self.action == 'ConfirmResize')"
            " && (!has(self.crashDump) || self.action == 'CrashDump')"
            " && (!has(self.setPassword) || self.action == 'SetPassword')",
            "with action {self.action}, no member of another action must be set",
        ),
        Rule(
            "self.action != 'SetPassword' || has(self.setPassword)",
            "action SetPassword needs setPassword: name the Secret that holds the password",
        ),
    )


class OperationPhase(StrEnum):
    """How far an operation is."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class OperationStatus(Status):
    """How far an operation is."""

    phase: OperationPhase = Field(default=OperationPhase.PENDING, description="How far it is.")
    started_at: Time | None = Field(default=None, description="When it began.")
    finished_at: Time | None = Field(default=None, description="When it was done, or failed.")


class InstanceAction(Resource):
    """Something to be done to an instance once, that no field can say. Kept for a while as an audit trail."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="instanceactions",
        short_names=("instact",),
        columns=(
            _INSTANCE,
            Column("Action", ".spec.action", "What is to be done."),
            PHASE,
            READY,
            Column("Finished", ".status.finishedAt", "When it was done.", type="date"),
            REASON,
            AGE,
        ),
        selectable=(".spec.instanceRef.name",),
        controller=Controller.PLANNED,
    )

    spec: InstanceActionSpec = Field(description="What is to be done.")
    status: OperationStatus = Field(default_factory=OperationStatus, description="How far it is.")


class MigrationType(StrEnum):
    """How an instance moves."""

    LIVE = "Live"
    COLD = "Cold"
    EVACUATE = "Evacuate"


class MigrationDesiredState(StrEnum):
    """Whether a migration is to go on."""

    RUN = "Run"
    ABORT = "Abort"


class InstanceMigrationSpec(Model):
    """Which instance moves, where to and how."""

    instance_ref: Annotated[NameRef, Immutable("create a new InstanceMigration")] = Field(
        description="The Instance, in the same namespace."
    )
    type: Annotated[MigrationType, Immutable("create a new InstanceMigration")] = Field(
        description="Live: while it runs. Cold: stopped, moved and started. Evacuate: off a node that is lost."
    )
    target_node: Annotated[NodeName, Immutable("create a new InstanceMigration")] | None = Field(
        default=None, description="The node to move to. Default: the scheduler's choice."
    )
    desired_state: Annotated[
        MigrationDesiredState,
        Rule("oldSelf != 'Abort' || self == 'Abort'", "an aborted migration cannot go on: create a new one"),
    ] = Field(default=MigrationDesiredState.RUN, description="Abort stops it; the instance stays where it is.")


class MigrationPhase(StrEnum):
    """How far a migration is."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ABORTED = "Aborted"


class InstanceMigrationStatus(Status):
    """How far a migration is."""

    phase: MigrationPhase = Field(default=MigrationPhase.PENDING, description="How far it is.")
    progress: Percentage | None = Field(default=None, description="Per cent of what is copied.")
    source_node: NodeName | None = Field(default=None, description="The node that it comes from.")
    target_node: NodeName | None = Field(default=None, description="The node that it goes to.")
    started_at: Time | None = Field(default=None, description="When it began.")
    finished_at: Time | None = Field(default=None, description="When it was done, or failed.")


class InstanceMigration(Resource):
    """The move of an instance to another node."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="instancemigrations",
        short_names=("instmig",),
        columns=(
            _INSTANCE,
            Column("Type", ".spec.type", "How it moves."),
            PHASE,
            Column("Progress", ".status.progress", "Per cent of what is copied.", type="integer"),
            Column("Source", ".status.sourceNode", "The node that it comes from."),
            Column("Target", ".status.targetNode", "The node that it goes to."),
            READY,
            REASON,
            AGE,
        ),
        selectable=(".spec.instanceRef.name",),
        controller=Controller.PLANNED,
    )

    spec: InstanceMigrationSpec = Field(description="Which instance moves, where to and how.")
    status: InstanceMigrationStatus = Field(default_factory=InstanceMigrationStatus, description="How far it is.")


class InstanceSnapshotSpec(Model):
    """Which instance becomes which image; it must not change."""

    instance_ref: NameRef = Field(description="The Instance, in the same namespace.")
    image_name: DNSLabel = Field(description="The name of the Image that is made in the same namespace.")
    description: Text | None = Field(default=None, description="The Image's description.")
    quiesce: bool = Field(default=False, description="Whether the guest's file systems are frozen meanwhile.")

    RULES: ClassVar = (Rule("self == oldSelf", "an InstanceSnapshot is immutable: create a new one"),)


class InstanceSnapshotStatus(OperationStatus):
    """What a snapshot has made."""

    image: Name | None = Field(default=None, description="The Image of the root disk.")
    volume_snapshots: Annotated[list[Name], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="The Snapshots of the volumes."
    )


class InstanceSnapshot(Resource):
    """An image made of an instance's root disk."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="instancesnapshots",
        short_names=("instsnap",),
        columns=(
            _INSTANCE,
            Column("Image", ".spec.imageName", "The Image that is made."),
            PHASE,
            READY,
            REASON,
            AGE,
        ),
        selectable=(".spec.instanceRef.name",),
        controller=Controller.PLANNED,
    )

    spec: InstanceSnapshotSpec = Field(description="Which instance becomes which image.")
    status: InstanceSnapshotStatus = Field(default_factory=InstanceSnapshotStatus, description="What it has made.")


class ConsoleType(StrEnum):
    """What a console shows."""

    NO_VNC = "NoVNC"
    SERIAL = "Serial"


class ConsoleSpec(Model):
    """Which console, and for how long; it must not change."""

    instance_ref: NameRef = Field(description="The Instance, in the same namespace.")
    type: ConsoleType = Field(default=ConsoleType.NO_VNC, description="NoVNC: the screen. Serial: the serial port.")
    ttl: Duration = Field(default=timedelta(minutes=10), description="How long the URL can be opened.")

    RULES: ClassVar = (Rule("self == oldSelf", "a Console is immutable: create a new one"),)


class ConsolePhase(StrEnum):
    """Whether a console can be opened."""

    PENDING = "Pending"
    ACTIVE = "Active"
    EXPIRED = "Expired"
    ERROR = "Error"


class ConsoleStatus(Status):
    """How a console is opened."""

    phase: ConsolePhase = Field(default=ConsolePhase.PENDING, description="Whether it can be opened.")
    url: HTTPURL | None = Field(default=None, description="The page to open, without the token.")
    secret_ref: NameRef | None = Field(default=None, description="The Secret that holds the one-time token.")
    expires_at: Time | None = Field(default=None, description="When it can no longer be opened.")


class Console(Resource):
    """Access to the screen or serial port of an instance, for a while."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="consoles",
        short_names=("con",),
        columns=(
            _INSTANCE,
            Column("Type", ".spec.type", "What it shows."),
            PHASE,
            READY,
            Column("URL", ".status.url", "The page to open.", wide=True),
            Column("Expires", ".status.expiresAt", "When it can no longer be opened.", wide=True),
            REASON,
            AGE,
        ),
        controller=Controller.PLANNED,
    )

    spec: ConsoleSpec = Field(description="Which console, and for how long.")
    status: ConsoleStatus = Field(default_factory=ConsoleStatus, description="How the console is opened.")
