"""Domain XML against golden files. `UPDATE_GOLDEN=1 pytest tests/unit/test_domain_xml.py` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_objects import port, work_object

from hostagent.compute.domain_spec import DomainType
from hostagent.compute.domain_xml import domain_xml
from hostagent.compute.resolve import domain_spec
from hostagent.layout import Layout

GOLDEN = Path(__file__).parent / "domain_xml"
LAYOUT = Layout(Path("/var/lib/kumulus"))

CASES = {
    "plain-kvm": (work_object(), DomainType.KVM),
    "plain-qemu": (work_object(), DomainType.QEMU),
    "windows-uefi": (
        work_object(
            machine={
                "firmware": "uefi",
                "osType": "windows",
                "videoModel": "virtio",
                "guestAgent": True,
                "rng": False,
                "diskBus": "sata",
                "vifModel": "e1000e",
                "machineType": "q35",
            },
            configDrive=True,
        ),
        DomainType.KVM,
    ),
    "scsi-config-drive": (work_object(machine={"diskBus": "scsi"}, configDrive=True), DomainType.KVM),
    "virtio-config-drive": (work_object(configDrive=True), DomainType.KVM),
    "two-cards": (
        work_object(ports=[port(), port(name="eth1", uid="ffffffffffffff", macAddress="fa:16:3e:00:00:51")]),
        DomainType.KVM,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    work, kind = CASES[name]
    made = domain_xml(domain_spec(work, LAYOUT, kind))
    path = GOLDEN / f"{name}.xml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(made)
    assert made == path.read_text()


def test_text_from_users_cannot_become_markup() -> None:
    work = work_object(instanceRef={"namespace": "a<b>", "name": 'x"/><devices/>', "uid": "u&u"})
    made = domain_xml(domain_spec(work, LAYOUT, DomainType.KVM))
    assert made.count("<devices>") == 1
    assert "u&amp;u" in made
