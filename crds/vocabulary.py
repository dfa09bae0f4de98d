"""Enumerations that several groups share."""

from __future__ import annotations

from enum import StrEnum


class NetworkType(StrEnum):
    """How a network's frames travel between nodes."""

    FLAT = "Flat"
    VLAN = "VLAN"
    VXLAN = "VXLAN"


class Direction(StrEnum):
    """As seen from the guest: Ingress is what it receives."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class EtherType(StrEnum):
    """The family of IP addresses."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class Protocol(StrEnum):
    """An IP protocol by its IANA name in lower case, as Neutron has them."""

    AH = "ah"
    DCCP = "dccp"
    ESP = "esp"
    GRE = "gre"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"
    IGMP = "igmp"
    IPIP = "ipip"
    OSPF = "ospf"
    PGM = "pgm"
    RSVP = "rsvp"
    SCTP = "sctp"
    TCP = "tcp"
    UDP = "udp"
    UDPLITE = "udplite"
    VRRP = "vrrp"


class PowerState(StrEnum):
    """What the user wants a guest to do."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    SHELVED = "Shelved"


class RestartPolicy(StrEnum):
    """When a guest that stopped by itself, or whose node rebooted, is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class DiskFormat(StrEnum):
    """The format of a disk image's bytes."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    ISO = "iso"


class DiskBus(StrEnum):
    """The bus that a disk is on, as the guest sees it."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"


class VifModel(StrEnum):
    """The network card that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


class Firmware(StrEnum):
    """What starts the guest."""

    BIOS = "bios"
    UEFI = "uefi"


class VideoModel(StrEnum):
    """The graphics card that the guest sees."""

    VIRTIO = "virtio"
    VGA = "vga"
    QXL = "qxl"
    NONE = "none"


class OSType(StrEnum):
    """The family of the guest's operating system; it decides on clock and timers."""

    LINUX = "linux"
    WINDOWS = "windows"
    OTHER = "other"
