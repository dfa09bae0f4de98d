"""The agent's part of a Hypervisor's status, which it writes by the API's names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crds.compute import Hypervisor, HypervisorStatus
from hostagent.compute.hypervisor import HostInfo
from hostagent.registration import HYPERVISOR, disk_size, own_status
from hostagent.settings import Settings, VirtType
from runtime.kind import kind_of

HOST = HostInfo(8, 32 << 30, "x86_64", "Skylake-Server", "7.2.0", "9.0.0")


def test_names_are_the_api_s() -> None:
    assert kind_of(Hypervisor) == HYPERVISOR
    settings = Settings(
        node_name="n1",
        underlay_ip="10.0.0.1",
        virt_type=VirtType.QEMU,
        physical_networks={"b": "x", "a": "y"},
        reserved_disk=20 << 30,
    )
    written = own_status(settings, HOST, disk=500 << 30, instances=3, quarantined=1, mtu=1500)
    names = {field.alias for field in HypervisorStatus.model_fields.values()}
    assert written.keys() <= names
    read = HypervisorStatus.model_validate(written)
    assert read.capacity is not None
    assert (read.capacity.vcpus, read.capacity.memory, read.capacity.disk) == (8, 32 << 30, 500 << 30)
    assert read.reserved is not None
    assert (read.reserved.memory, read.reserved.disk) == (1 << 30, 20 << 30)
    assert (read.underlay_mtu, read.physical_networks, read.quarantined) == (1500, ["a", "b"], 1)
    # A repeat writes nothing: what the model would write is what the agent wrote.
    assert {key: value for key, value in read.to_dict().items() if key in written} == written


def test_what_a_file_system_keeps_for_root_is_not_told_as_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    values = os.statvfs_result((4096, 4096, 1000, 300, 250, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda directory: values)
    assert disk_size(Path("/")) == 950 * 4096
