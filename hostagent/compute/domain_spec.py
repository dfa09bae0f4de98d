"""What a libvirt domain is made from: complete, and free of the API's types."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DomainType(StrEnum):
    KVM = "kvm"
    QEMU = "qemu"


@dataclass(frozen=True)
class Disk:
    """A disk of the guest. `backing_format` and `backing_path` are given together, for an overlay."""

    path: str
    format: str
    bus: str
    serial: str
    backing_path: str | None = None
    backing_format: str | None = None


@dataclass(frozen=True)
class Nic:
    """A network card on a tap that exists when the domain starts; `mtu` in bytes."""

    mac: str
    tap: str
    mtu: int
    model: str = "virtio"


@dataclass(frozen=True, kw_only=True)
class DomainSpec:
    """A guest. `memory` in bytes."""

    uid: str
    instance_namespace: str
    instance_name: str
    generation: int
    vcpus: int
    memory: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    console_log: str
    config_drive: str | None = None
    type: DomainType = DomainType.KVM
    machine: str = "q35"
    uefi: bool = False
    guest_agent: bool = False
    rng: bool = True
    video: str | None = None
    local_time: bool = False
    """Windows keeps the hardware clock in local time."""
