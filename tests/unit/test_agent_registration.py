"""The agent's part of a Hypervisor's status, which it writes by the API's names."""

from __future__ import annotations

from crds.compute import Hypervisor, HypervisorStatus
from hostagent.compute.hypervisor import HostInfo
from hostagent.registration import HYPERVISOR, own_status
from hostagent.settings import Settings, VirtType
from runtime.kind import kind_of

HOST = HostInfo(8, 32 << 30, "x86_64", "Skylake-Server", "Intel", "7.2.0", "9.0.0")


def test_names_are_the_api_s() -> None:
    assert kind_of(Hypervisor) == HYPERVISOR
    settings = Settings(
        node_name="n1", underlay_ip="10.0.0.1", virt_type=VirtType.QEMU, physical_networks={"b": "x", "a": "y"}
    )
    written = own_status(settings, HOST, disk=500 << 30, instances=3, quarantined=1, mtu=1500)
    names = {field.alias for field in HypervisorStatus.model_fields.values()}
    assert written.keys() <= names
    read = HypervisorStatus.model_validate(written)
    assert read.capacity is not None
    assert (read.capacity.vcpus, read.capacity.memory, read.capacity.disk) == (8, 32 << 30, 500 << 30)
    assert read.reserved is not None
    assert read.reserved.memory == 1 << 30
    assert (read.underlay_mtu, read.physical_networks, read.quarantined) == (1500, ["a", "b"], 1)
    # A repeat writes nothing: what the model would write is what the agent wrote.
    assert {key: value for key, value in read.to_dict().items() if key in written} == written
