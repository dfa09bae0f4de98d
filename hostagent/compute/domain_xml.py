"""The libvirt domain of a guest: the one place that writes domain XML (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hostagent.compute.domain_spec import Disk, DomainSpec, DomainType, Nic

METADATA_URI = "https://kumulus.dev/xmlns/instance/1"
MANUFACTURER = "Kumulus"
PRODUCT = "OpenStack Nova"
"""What cloud-init's ds-identify knows the datasource OpenStack by (its `dmi_product_name`)."""

_DEVICE_PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}

ET.register_namespace("kumulus", METADATA_URI)


def domain_xml(spec: DomainSpec) -> str:
    """The definition that libvirt is given. The same spec gives the same text."""
    domain = ET.Element("domain", type=spec.type.value)
    _text(domain, "name", spec.uid)
    _text(domain, "uuid", spec.uid)
    _text(domain, "title", f"{spec.instance_namespace}/{spec.instance_name}")
    _metadata(domain, spec)
    _text(domain, "memory", str(spec.memory // 1024), unit="KiB")
    _text(domain, "vcpu", str(spec.vcpus), placement="static")
    _sysinfo(domain, spec)
    _os(domain, spec)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if spec.type is DomainType.KVM:
        # With full emulation QEMU's own default model is the only one that every host can run.
        ET.SubElement(domain, "cpu", mode="host-model", check="partial")
    _clock(domain, spec)
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    _power_management(domain)
    _devices(domain, spec)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(domain: ET.Element, spec: DomainSpec) -> None:
    """Marks the domain as ours, also when its work object is not to be seen."""
    metadata = ET.SubElement(domain, "metadata")
    instance = ET.SubElement(metadata, f"{{{METADATA_URI}}}instance")
    _text(instance, f"{{{METADATA_URI}}}namespace", spec.instance_namespace)
    _text(instance, f"{{{METADATA_URI}}}name", spec.instance_name)
    _text(instance, f"{{{METADATA_URI}}}generation", str(spec.generation))


def _sysinfo(domain: ET.Element, spec: DomainSpec) -> None:
    sysinfo = ET.SubElement(domain, "sysinfo", type="smbios")
    system = ET.SubElement(sysinfo, "system")
    for name, value in (
        ("manufacturer", MANUFACTURER),
        ("product", PRODUCT),
        ("serial", spec.uid),
        ("uuid", spec.uid),
        ("family", "Virtual Machine"),
    ):
        _text(system, "entry", value, name=name)


def _os(domain: ET.Element, spec: DomainSpec) -> None:
    os = ET.SubElement(domain, "os", {"firmware": "efi"} if spec.uefi else {})
    _text(os, "type", "hvm", arch="x86_64", machine=spec.machine)
    ET.SubElement(os, "boot", dev="hd")
    ET.SubElement(os, "smbios", mode="sysinfo")


def _clock(domain: ET.Element, spec: DomainSpec) -> None:
    clock = ET.SubElement(domain, "clock", offset="localtime" if spec.local_time else "utc")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")
    ET.SubElement(clock, "timer", name="hpet", present="no")


def _power_management(domain: ET.Element) -> None:
    # A guest that suspends itself would be neither running nor stopped, and nobody would wake it.
    power = ET.SubElement(domain, "pm")
    ET.SubElement(power, "suspend-to-mem", enabled="no")
    ET.SubElement(power, "suspend-to-disk", enabled="no")


def _devices(domain: ET.Element, spec: DomainSpec) -> None:
    devices = ET.SubElement(domain, "devices")
    if any(disk.bus == "scsi" for disk in spec.disks):
        ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    taken: dict[str, int] = {}
    for disk in spec.disks:
        _disk(devices, disk, _next_device(taken, disk.bus))
    if spec.config_drive is not None:
        # On the bus that the guest has a driver for; it is found by its label.
        bus = spec.disks[0].bus if spec.disks else "virtio"
        _config_drive(devices, spec.config_drive, bus, _next_device(taken, bus))
    for nic in spec.nics:
        _interface(devices, nic)
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=spec.console_log, append="on")
    ET.SubElement(serial, "target", type="isa-serial", port="0")
    console = ET.SubElement(devices, "console", type="file")
    ET.SubElement(console, "source", path=spec.console_log, append="on")
    ET.SubElement(console, "target", type="serial", port="0")
    if spec.guest_agent:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    if spec.video is not None:
        video = ET.SubElement(devices, "video")
        ET.SubElement(video, "model", type=spec.video)
    ET.SubElement(devices, "memballoon", model="virtio")
    if spec.rng:
        rng = ET.SubElement(devices, "rng", model="virtio")
        _text(rng, "backend", "/dev/urandom", model="random")


def _next_device(taken: dict[str, int], bus: str) -> str:
    prefix = _DEVICE_PREFIX[bus]
    number = taken.get(prefix, 0)
    taken[prefix] = number + 1
    return prefix + chr(ord("a") + number)


def _disk(devices: ET.Element, disk: Disk, device: str) -> None:
    element = ET.SubElement(devices, "disk", type="file", device="disk")
    # Formats are said, never probed: a guest could write a header into its disk that names a file of the host.
    ET.SubElement(element, "driver", name="qemu", type=disk.format, cache="none", discard="unmap")
    ET.SubElement(element, "source", file=disk.path)
    if disk.backing_path is not None and disk.backing_format is not None:
        backing = ET.SubElement(element, "backingStore", type="file")
        ET.SubElement(backing, "format", type=disk.backing_format)
        ET.SubElement(backing, "source", file=disk.backing_path)
        ET.SubElement(backing, "backingStore")
    else:
        ET.SubElement(element, "backingStore")
    ET.SubElement(element, "target", dev=device, bus=disk.bus)
    _text(element, "serial", disk.serial)


def _config_drive(devices: ET.Element, path: str, bus: str, device: str) -> None:
    # virtio has no CD-ROM, SATA and IDE have no read-only disk.
    element = ET.SubElement(devices, "disk", type="file", device="disk" if bus == "virtio" else "cdrom")
    ET.SubElement(element, "driver", name="qemu", type="raw")
    ET.SubElement(element, "source", file=path)
    ET.SubElement(element, "target", dev=device, bus=bus)
    ET.SubElement(element, "readonly")


def _interface(devices: ET.Element, nic: Nic) -> None:
    interface = ET.SubElement(devices, "interface", type="ethernet")
    ET.SubElement(interface, "mac", address=nic.mac)
    # The tap is the data plane's: made before the start, moved to its namespace once QEMU has opened it.
    ET.SubElement(interface, "target", dev=nic.tap, managed="no")
    ET.SubElement(interface, "model", type=nic.model)
    ET.SubElement(interface, "mtu", size=str(nic.mtu))
