"""From a work object to the domain that it asks for."""

from __future__ import annotations

import re

from crds.node import NodeInstance, NodeInstanceSpec
from crds.vocabulary import Firmware, OSType, PowerState, VideoModel
from hostagent.compute.domain_spec import Disk, DomainSpec, DomainType, Nic
from hostagent.compute.plan import Desired
from hostagent.layout import Layout
from hostagent.network import names

FINALIZER = "node.kumulus.dev/agent"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEFAULT_MACHINE = "q35"
_SERIAL_MAX = 20
"""virtio-blk's VIRTIO_BLK_ID_BYTES."""


def fault_of(work: NodeInstance) -> str | None:
    """Why a work object must not be acted upon: names of files and domains are made of what it says. None: it may."""
    uid, name = work.spec.instance_ref.uid, work.metadata.name
    if not _UUID.fullmatch(uid) or uid != name:
        return f"The work object is named {name!r} and is for the UID {uid!r}: both must be the same UUID."
    if not _SHA256.fullmatch(work.spec.root_disk.image.sha256):
        return f"The image's checksum {work.spec.root_disk.image.sha256!r} is no SHA-256 in hexadecimal digits."
    return None


def desired_of(work: NodeInstance) -> Desired:
    """What decides on steps."""
    return Desired(
        power_state=PowerState(work.spec.power_state),
        restart_policy=work.spec.restart_policy,
        config_drive=work.spec.config_drive,
        deleting=work.metadata.deletion_timestamp is not None,
        held=FINALIZER in work.metadata.finalizers,
    )


def domain_spec(work: NodeInstance, layout: Layout, domain_type: DomainType) -> DomainSpec:
    """The domain. Taps are named as the data plane names them."""
    spec = work.spec
    files = layout.instance(spec.instance_ref.uid)
    root = Disk(
        path=str(files.root_disk),
        format="qcow2",
        bus=spec.machine.disk_bus.value,
        serial=spec.instance_ref.uid[:_SERIAL_MAX],
        backing_path=str(layout.image(spec.root_disk.image.sha256)),
        backing_format=spec.root_disk.image.format.value,
    )
    return DomainSpec(
        uid=spec.instance_ref.uid,
        instance_namespace=spec.instance_ref.namespace,
        instance_name=spec.instance_ref.name,
        generation=work.metadata.generation or 0,
        vcpus=spec.vcpus,
        memory=int(spec.memory),
        disks=(root,),
        nics=tuple(
            Nic(port.mac_address, names.tap(port.uid), port.network.mtu, spec.machine.vif_model.value)
            for port in spec.ports
        ),
        console_log=str(files.console_log),
        config_drive=str(files.config_drive) if spec.config_drive else None,
        type=domain_type,
        machine=spec.machine.machine_type or _DEFAULT_MACHINE,
        uefi=spec.machine.firmware is Firmware.UEFI,
        guest_agent=spec.machine.guest_agent,
        rng=spec.machine.rng,
        video=_video(spec),
        local_time=spec.machine.os_type is OSType.WINDOWS,
    )


def _video(spec: NodeInstanceSpec) -> str | None:
    model = spec.machine.video_model
    return None if model is None or model is VideoModel.NONE else model.value
