"""Instances, and what they are made with: key pairs and server groups."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.conditions import Time
from crds.markers import Atomic, Immutable, ListMap, ListSet, Rule
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
    SecretKeyRef,
    Status,
)
from crds.model import Model
from crds.network.ports import SecurityGroupRefs
from crds.quantity import PositiveQuantity, Quantity
from crds.storage.volumes import VolumeSource
from crds.types import DNSLabel, IPAddress, Label, MACAddress, Name, NodeName, Percentage, Text, Value
from crds.vocabulary import PowerState, RestartPolicy

_HOT_PLUG = "remove this item and add one of another name"

USER_DATA_LIMIT = 65536
"""Bytes of user-data, before any encoding; Nova's limit."""


class ImageChangePolicy(StrEnum):
    """What a changed imageRef does."""

    FORBID = "Forbid"
    REBUILD = "Rebuild"


class EvacuationPolicy(StrEnum):
    """What happens to an instance whose node is lost."""

    AUTOMATIC = "Automatic"
    REBUILD = "Rebuild"
    MANUAL = "Manual"


class InstanceNetwork(Model):
    """A network card of the instance."""

    name: Label = Field(description="The card's name in the instance, for example eth0.")
    network_ref: Annotated[ObjectRef, Immutable(_HOT_PLUG)] | None = Field(
        default=None, description="The Network: a Port is made on it with the instance and deleted with it. Or portRef."
    )
    port_ref: Annotated[NameRef, Immutable(_HOT_PLUG)] | None = Field(
        default=None, description="A Port of this namespace, which outlives the instance. Or networkRef."
    )
    fixed_ip: Annotated[IPAddress, Immutable(_HOT_PLUG)] | None = Field(
        default=None, description="With networkRef: the address. Default: a free one."
    )
    security_group_refs: SecurityGroupRefs | None = Field(
        default=None,
        description="With networkRef: the security groups. Default: the tenant's group `default`; `[]`: none.",
    )

    RULES: ClassVar = (
        Rule(
            "has(self.networkRef) != has(self.portRef)",
            "network '{self.name}' must have exactly one of networkRef and portRef",
        ),
        Rule(
            "!has(self.fixedIP) || has(self.networkRef)",
            "network '{self.name}': fixedIP goes with networkRef; with portRef, set it in the Port's fixedIPs",
            field_path=".fixedIP",
        ),
        Rule(
            "!has(self.securityGroupRefs) || has(self.networkRef)",
            "network '{self.name}': securityGroupRefs go with networkRef; with portRef, set them in the Port",
            field_path=".securityGroupRefs",
        ),
    )


class VolumeTemplate(Model):
    """A volume that is made with the instance, named `<instance>-<name>`."""

    size: PositiveQuantity = Field(description="Its size.")
    volume_type_ref: NameRef | None = Field(default=None, description="The VolumeType. Default: the default one.")
    source: VolumeSource | None = Field(default=None, description="What it holds at first. Default: nothing.")


class InstanceVolume(Model):
    """A volume of the instance."""

    name: Label = Field(description="The volume's name in the instance.")
    volume_ref: Annotated[NameRef, Immutable(_HOT_PLUG)] | None = Field(
        default=None, description="A Volume of this namespace. Or template."
    )
    template: Annotated[VolumeTemplate, Immutable("change the Volume that was made of it")] | None = Field(
        default=None, description="A volume that is made with the instance."
    )
    boot_index: Annotated[int, Field(ge=0, le=15)] | None = Field(
        default=None, description="The place in the order of boot disks. 0: boot from this volume, instead of imageRef."
    )
    delete_on_termination: bool = Field(default=False, description="Whether it is deleted with the instance.")
    read_only: bool = Field(default=False, description="Whether the guest must not write to it.")

    RULES: ClassVar = (
        Rule(
            "has(self.volumeRef) != has(self.template)",
            "volume '{self.name}' must have exactly one of volumeRef and template",
        ),
    )


class SchedulerHints(Model):
    """Wishes about the node."""

    different_host: Annotated[list[Name], Field(max_length=64), ListSet()] = Field(
        default_factory=list, description="On no node of these instances."
    )
    same_host: Annotated[list[Name], Field(max_length=64), ListSet()] = Field(
        default_factory=list, description="On a node of one of these instances."
    )


class Rescue(Model):
    """Boots another image, with the own disk as second disk."""

    image_ref: ObjectRef = Field(description="The Image to boot.")


class InstanceSpec(Model):
    """What is asked of an instance."""

    description: Text | None = Field(default=None, description="What the instance is for, for people.")
    flavor_ref: NameRef = Field(description="The Flavor. Changing it resizes the instance.")
    image_ref: ObjectRef | None = Field(
        default=None, description="The Image to boot, of another namespace if it was shared. Or a volume, bootIndex 0."
    )
    image_change_policy: ImageChangePolicy = Field(
        default=ImageChangePolicy.FORBID,
        description="What a changed imageRef does. Forbid: it is refused. Rebuild: the root disk is made anew; UUID,"
        " ports and volumes stay.",
    )
    power_state: PowerState = Field(
        default=PowerState.RUNNING,
        description="Running, Stopped (shut down), Paused (CPUs halted), Suspended (memory saved to disk) or Shelved"
        " (disk saved, node freed).",
    )
    restart_policy: RestartPolicy = Field(
        default=RestartPolicy.ALWAYS,
        description="When the guest is started again after it stopped by itself or its node rebooted: Always, OnFailure"
        " (it crashed) or Never.",
    )
    key_pair_refs: Annotated[
        list[NameRef],
        Field(max_length=16),
        ListMap("name"),
        Immutable("a guest reads its keys at first boot; add a key in the guest, or create a new Instance"),
    ] = Field(default_factory=list, description="The ssh keys that the guest gets at its first boot.")
    hostname: Annotated[DNSLabel, Immutable("rename the guest from within, or create a new Instance")] | None = Field(
        default=None, description="The guest's host name. Default: the instance's name."
    )
    user_data: (
        Annotated[
            str,
            Field(max_length=2 * USER_DATA_LIMIT),
            Rule(
                f"bytes(self).size() <= {USER_DATA_LIMIT}",
                f"user-data of {{string(bytes(self).size())}} bytes is too large: it must be at most {USER_DATA_LIMIT}"
                " bytes (64 KiB); compress it, or let it #include a URL",
            ),
            Immutable("a guest reads it at first boot; create a new Instance"),
        ]
        | None
    ) = Field(default=None, description="What the guest is told to do at first boot, for example #cloud-config.")
    user_data_secret_ref: Annotated[SecretKeyRef, Immutable("create a new Instance")] | None = Field(
        default=None, description="Instead of userData: a Secret of this namespace; its key is `userData` by default."
    )
    metadata: Annotated[dict[str, Value], Field(max_length=128)] = Field(
        default_factory=dict, description="Keys and values that the guest can read."
    )
    config_drive: Annotated[bool, Immutable("create a new Instance")] = Field(
        default=False, description="Whether the guest gets its metadata as a disk too."
    )
    networks: Annotated[list[InstanceNetwork], Field(max_length=32), ListMap("name")] = Field(
        default_factory=list, description="The network cards, in this order."
    )
    volumes: Annotated[list[InstanceVolume], Field(max_length=32), ListMap("name")] = Field(
        default_factory=list, description="The volumes, in this order."
    )
    availability_zone: Annotated[Label, Immutable("create a new Instance in the other zone")] | None = Field(
        default=None, description="The zone that the instance must be in. Default: any."
    )
    server_group_ref: Annotated[NameRef, Immutable("create a new Instance in the other group")] | None = Field(
        default=None, description="The ServerGroup that it is in."
    )
    scheduler_hints: SchedulerHints | None = Field(default=None, description="Wishes about the node.")
    evacuation_policy: EvacuationPolicy = Field(
        default=EvacuationPolicy.MANUAL,
        description="When its node is lost. Automatic: started elsewhere, if all disks are remote. Rebuild: with a"
        " fresh local root disk. Manual: nothing.",
    )
    locked: bool = Field(default=False, description="Whether actions on the instance are refused until this is false.")
    rescue: Rescue | None = Field(default=None, description="Boots another image, with the own disk as second disk.")
    requested_node: NodeName | None = Field(
        default=None, description="The node to be on. Needs a role of the infrastructure."
    )

    RULES: ClassVar = (
        Rule(
            "!has(self.volumes) || self.volumes.all(one, !has(one.bootIndex)"
            " || self.volumes.exists_one(other, has(other.bootIndex) && other.bootIndex == one.bootIndex))",
            "every bootIndex must be different",
            field_path=".volumes",
        ),
        Rule(
            "!has(self.networks) || self.networks.all(one, !has(one.portRef)"
            " || self.networks.exists_one(other, has(other.portRef) && other.portRef.name == one.portRef.name))",
            "a Port must be used by one network only",
            field_path=".networks",
        ),
        Rule(
            "!(has(self.userData) && has(self.userDataSecretRef))",
            "at most one of userData and userDataSecretRef must be set",
        ),
        Rule(
            "oldSelf.imageChangePolicy == 'Rebuild' || self.imageChangePolicy == 'Rebuild'"
            " || (has(self.imageRef) == has(oldSelf.imageRef)"
            " && (!has(self.imageRef) || self.imageRef == oldSelf.imageRef))",
            "imageRef must not change while imageChangePolicy is Forbid: set it to Rebuild to lose the root disk and"
            " make it anew, or create a new Instance",
            field_path=".imageRef",
        ),
    )


class InstancePhase(StrEnum):
    """Where an instance is in its life."""

    PENDING = "Pending"
    SCHEDULING = "Scheduling"
    BUILDING = "Building"
    ACTIVE = "Active"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    RESCUED = "Rescued"
    RESIZING = "Resizing"
    VERIFY_RESIZE = "VerifyResize"
    MIGRATING = "Migrating"
    SHELVED = "Shelved"
    SHELVED_OFFLOADED = "ShelvedOffloaded"
    ERROR = "Error"
    DELETING = "Deleting"


class InstanceAddress(Model):
    """An address of the instance."""

    name: Label | None = Field(default=None, description="The card's name in spec.networks.")
    network: Name = Field(description="The Network.")
    ip: IPAddress = Field(description="The address.")
    mac: MACAddress = Field(description="The card's MAC.")
    port: Name | None = Field(default=None, description="The Port.")
    floating_ip: IPAddress | None = Field(default=None, description="The outside address that leads to it.")


class InstanceVolumeStatus(Model):
    """A volume as it is."""

    name: Label = Field(description="The volume's name in spec.volumes.")
    volume: Name | None = Field(default=None, description="The Volume.")
    device: Label | None = Field(default=None, description="The disk that the guest sees, for example vdb.")


class PhaseTransition(Model):
    """When a phase began."""

    phase: InstancePhase = Field(description="The phase.")
    at: Time = Field(description="When it began.")


class EffectiveFlavor(Model):
    """What the instance has been given."""

    name: Name = Field(description="The Flavor.")
    vcpus: int = Field(ge=0, description="Virtual CPUs.")
    memory: Quantity = Field(description="Memory.")
    root_disk: Quantity = Field(description="Size of the root disk.")


class InstanceStatus(Status):
    """What an instance is."""

    phase: InstancePhase = Field(default=InstancePhase.PENDING, description="Where the instance is in its life.")
    node_name: NodeName | None = Field(default=None, description="The node that it is on.")
    addresses: Annotated[list[InstanceAddress], Field(max_length=256), Atomic()] = Field(
        default_factory=list, description="Its addresses, in the order of spec.networks."
    )
    volumes: Annotated[list[InstanceVolumeStatus], Field(max_length=32), ListMap("name")] = Field(
        default_factory=list, description="Its volumes."
    )
    flavor: EffectiveFlavor | None = Field(default=None, description="The size that it has now.")
    image: Name | None = Field(default=None, description="The Image that its root disk was made from.")
    progress: Percentage | None = Field(default=None, description="Per cent of a step that takes long.")
    phase_transitions: Annotated[list[PhaseTransition], Field(max_length=32), Atomic()] = Field(
        default_factory=list, description="When its last phases began."
    )


class Instance(Resource):
    """A virtual machine."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="instances",
        short_names=("inst",),
        columns=(
            PHASE,
            READY,
            Column("Node", ".status.nodeName", "The node that it is on."),
            Column("Address", ".status.addresses[*].ip", "Its first address."),
            Column("Floating-IP", ".status.addresses[*].floatingIP", "Its first outside address.", wide=True),
            Column("Flavor", ".spec.flavorRef.name", "Its size.", wide=True),
            Column("Image", ".spec.imageRef.name", "What its root disk was made from.", wide=True),
            REASON,
            AGE,
        ),
        selectable=(".spec.flavorRef.name", ".spec.imageRef.name", ".spec.powerState", ".status.nodeName"),
    )
    RULES: ClassVar = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name '{self.metadata.name}' must be a DNS label, because the guest is told it as its host name:"
            " lower case letters, digits and '-', at most 63",
        ),
        # Not a rule of the spec, which is also a template's.
        Rule(
            "has(self.spec.imageRef) != (has(self.spec.volumes)"
            " && self.spec.volumes.exists(volume, has(volume.bootIndex) && volume.bootIndex == 0))",
            "exactly one of imageRef and a volume with bootIndex: 0 must be set: it is what the instance boots from",
            field_path=".spec",
        ),
    )

    spec: InstanceSpec = Field(description="What is asked of the instance.")
    status: InstanceStatus = Field(default_factory=InstanceStatus, description="What the instance is.")


class KeyPairSpec(Model):
    """A public ssh key."""

    public_key: Annotated[
        str,
        Field(max_length=8192),
        Rule("!self.contains('PRIVATE KEY')", "this is a private key, which must stay with you: use the .pub file"),
        Rule(
            "self.contains('PRIVATE KEY') || self.matches('^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)"
            "|sk-ssh-ed25519@openssh[.]com|sk-ecdsa-sha2-nistp256@openssh[.]com)"
            " AAAA[0-9A-Za-z+/]{16,}={0,3}( [^\\\\n\\\\r]*)?[\\\\n]?$')",
            "not a public ssh key: it must be one line in OpenSSH form, for example"
            " 'ssh-ed25519 AAAA... alice', as in ~/.ssh/id_ed25519.pub",
        ),
        Immutable("create a new KeyPair"),
    ] = Field(description="The key in OpenSSH form: one line, as in ~/.ssh/id_ed25519.pub.")


class KeyPairStatus(Status):
    """What a key is."""

    fingerprint: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="The key's fingerprint, as ssh-keygen -l prints it."
    )
    type: Label | None = Field(default=None, description="The key's type, for example ssh-ed25519.")


class KeyPair(Resource):
    """A public ssh key that instances are made with."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="keypairs",
        short_names=("kp",),
        columns=(
            READY,
            Column("Type", ".status.type", "The key's type."),
            Column("Fingerprint", ".status.fingerprint", "The key's fingerprint."),
            REASON,
            AGE,
        ),
    )

    spec: KeyPairSpec = Field(description="The key.")
    status: KeyPairStatus = Field(default_factory=KeyPairStatus, description="What the key is.")


class ServerGroupPolicy(StrEnum):
    """How instances of a group are placed."""

    AFFINITY = "Affinity"
    ANTI_AFFINITY = "AntiAffinity"
    SOFT_AFFINITY = "SoftAffinity"
    SOFT_ANTI_AFFINITY = "SoftAntiAffinity"


class ServerGroupSpec(Model):
    """How instances of the group are placed."""

    policy: Annotated[ServerGroupPolicy, Immutable("create a new ServerGroup")] = Field(
        description="Affinity: on one node. AntiAffinity: on different nodes. Soft: if it can be done."
    )
    max_servers_per_host: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="With AntiAffinity: how many may share a node. Default: 1."
    )

    RULES: ClassVar = (
        Rule(
            "!has(self.maxServersPerHost) || self.policy == 'AntiAffinity'",
            "maxServersPerHost goes with policy AntiAffinity only, and the policy is {self.policy}: remove it",
            field_path=".maxServersPerHost",
        ),
    )


class ServerGroupStatus(Status):
    """Who is in a group."""

    members: Annotated[list[Name], Field(max_length=1024), ListSet()] = Field(
        default_factory=list, description="The instances that are in it."
    )


class ServerGroup(Resource):
    """Instances that are placed together or apart."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="servergroups",
        short_names=("srvgrp",),
        columns=(Column("Policy", ".spec.policy", "How instances are placed."), READY, REASON, AGE),
        controller=Controller.PLANNED,
    )

    spec: ServerGroupSpec = Field(description="How instances of the group are placed.")
    status: ServerGroupStatus = Field(default_factory=ServerGroupStatus, description="Who is in the group.")
