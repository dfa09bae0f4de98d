"""The libvirt side of the agent on a real libvirtd: definitions, states, events, repeated calls."""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from libvirt_host import LibvirtHost

from hostagent.compute.domain_spec import Disk, DomainSpec, DomainType
from hostagent.compute.domain_xml import domain_xml
from hostagent.compute.hypervisor import DomainState, HypervisorError, HypervisorUnavailable, StateReason
from hostagent.compute.libvirt_connection import LibvirtConnection
from hostagent.compute.libvirt_hypervisor import LibvirtHypervisor
from hostagent.compute.orphans import end_orphans
from hostagent.compute.root_disk import make_overlay
from hostagent.errors import NodeError, Reason
from lab import guests

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs libvirtd"),
    pytest.mark.timeout(180),
]
GOLDEN = Path(__file__).parents[1] / "unit/domain_xml"
UID = "0f8fad5b-d9cb-469f-a165-708677289500"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    host = LibvirtHost(tmp_path_factory.mktemp("libvirt"))
    host.start()
    yield host
    host.stop()


class Watched:
    """A hypervisor with what it told."""

    def __init__(self, uri: str) -> None:
        self.hypervisor = LibvirtHypervisor(LibvirtConnection(uri))
        self.connected = asyncio.Event()
        self.changed: asyncio.Queue[str] = asyncio.Queue()
        self.hypervisor.subscribe(self.changed.put_nowait, self.connected.set)


@pytest.fixture
async def watched(host: LibvirtHost) -> AsyncIterator[Watched]:
    watched = Watched(host.uri)
    running = asyncio.create_task(watched.hypervisor.run())
    async with asyncio.timeout(20):
        await watched.connected.wait()
    yield watched
    for uid in await watched.hypervisor.domains():
        await watched.hypervisor.destroy(uid)
        await watched.hypervisor.undefine(uid)
    running.cancel()


async def guest(tmp_path: Path) -> DomainSpec:
    base = guests.build("tiny")
    disk = tmp_path / "root.qcow2"
    await make_overlay(base, "qcow2", disk, 64 << 20)
    return DomainSpec(
        uid=UID,
        instance_namespace="acme",
        instance_name="web-1",
        generation=1,
        vcpus=1,
        memory=96 << 20,
        disks=(Disk(str(disk), "qcow2", "virtio", UID[:20], str(base), "qcow2"),),
        nics=(),
        console_log=str(tmp_path / "console.log"),
        type=DomainType.QEMU,
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.xml")), ids=lambda path: path.stem)
async def test_libvirt_s_schema_accepts_every_golden_file(watched: Watched, path: Path) -> None:
    # Without KVM a host knows neither the type nor a model of its CPU; the rest is validated as it is.
    text = (
        path.read_text().replace('type="kvm"', 'type="qemu"').replace('<cpu mode="host-model" check="partial" />', "")
    )
    await watched.hypervisor.define(text)
    (found,) = (await watched.hypervisor.domains()).values()
    assert (found.state, found.owner) == (DomainState.SHUT_OFF, "acme/web-1")


async def test_a_definition_that_the_schema_refuses_is_an_error(watched: Watched) -> None:
    text = (GOLDEN / "plain-qemu.xml").read_text().replace("<vcpu", "<nonsense/><vcpu")
    with pytest.raises(HypervisorError, match="nonsense"):
        await watched.hypervisor.define(text)


async def test_a_guest_s_life_each_call_twice(watched: Watched, tmp_path: Path) -> None:
    hypervisor = watched.hypervisor
    assert await hypervisor.domain(UID) is None
    xml = domain_xml(await guest(tmp_path))
    for _ in range(2):
        await hypervisor.define(xml)
    for _ in range(2):
        await hypervisor.start_paused(UID)
    found = await hypervisor.domain(UID)
    assert found is not None
    assert (found.state, found.reason) == (DomainState.PAUSED, StateReason.NOT_YET_STARTED)
    for _ in range(2):
        await hypervisor.resume(UID)
    found = await hypervisor.domain(UID)
    assert found is not None
    assert found.state is DomainState.RUNNING
    for _ in range(2):
        await hypervisor.destroy(UID)
    found = await hypervisor.domain(UID)
    assert found is not None
    assert (found.state, found.reason) == (DomainState.SHUT_OFF, StateReason.DESTROYED)
    for _ in range(2):
        await hypervisor.undefine(UID)
    assert await hypervisor.domain(UID) is None
    await hypervisor.destroy(UID)


async def test_a_guest_that_goes_off_is_told_at_once(watched: Watched, host: LibvirtHost, tmp_path: Path) -> None:
    hypervisor = watched.hypervisor
    await hypervisor.define(domain_xml(await guest(tmp_path)))
    await hypervisor.start_paused(UID)
    await hypervisor.resume(UID)
    (pid,) = host.guests()
    while not watched.changed.empty():
        watched.changed.get_nowait()
    os.kill(pid, 9)
    async with asyncio.timeout(10):
        assert await watched.changed.get() == UID
        while (found := await hypervisor.domain(UID)) is None or found.state is not DomainState.SHUT_OFF:
            await watched.changed.get()
    assert found.reason is StateReason.CRASHED


async def test_a_qemu_that_libvirt_lost_is_ended(tmp_path: Path) -> None:
    uid = str(uuid.uuid4())  # its own: it is ended wherever on the machine it runs
    argv = ("qemu-system-x86_64", "-display", "none", "-S", "-nodefaults", "-uuid", uid)
    process = await asyncio.create_subprocess_exec(*argv)
    try:
        async with asyncio.timeout(10):
            while uid.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(end_orphans, "another") == []
        assert await asyncio.to_thread(end_orphans, uid) == [process.pid]
        assert await process.wait() == -9
    finally:
        if process.returncode is None:
            process.kill()


async def test_a_qemu_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = str(uuid.uuid4())
    argv = ("qemu-system-x86_64", "-display", "none", "-S", "-nodefaults", "-uuid", uid)
    process = await asyncio.create_subprocess_exec(*argv)
    try:
        async with asyncio.timeout(10):
            while uid.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                await asyncio.sleep(0.05)
        monkeypatch.setattr("hostagent.compute.orphans._END_WITHIN_MS", 1)
        # As good as none: what waits for a disk does not end either.
        monkeypatch.setattr("hostagent.compute.orphans.signal.SIGKILL", 0)
        with pytest.raises(TimeoutError, match=str(process.pid)):
            await asyncio.to_thread(end_orphans, uid)
    finally:
        monkeypatch.undo()
        process.kill()
        await process.wait()


async def test_without_a_daemon_nothing_is_concluded(tmp_path: Path) -> None:
    watched = Watched(f"qemu:///system?socket={tmp_path}/none")
    running = asyncio.create_task(watched.hypervisor.run())
    await asyncio.sleep(0.5)
    with pytest.raises(HypervisorUnavailable):
        await watched.hypervisor.domain(UID)
    running.cancel()


async def test_an_overlay_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "root.qcow2"
    with pytest.raises(NodeError) as raised:
        await make_overlay(tmp_path / "missing.qcow2", "qcow2", target, 1 << 20)
    assert raised.value.reason is Reason.DISK_FAILED
    assert not target.exists()
    base = guests.build("tiny")
    await make_overlay(base, "qcow2", target, 1 << 30)
    assert [path.name for path in tmp_path.iterdir()] == ["root.qcow2"]
    checked = await asyncio.to_thread(
        subprocess.run, ["qemu-img", "info", "--output=json", target], capture_output=True, text=True, check=True
    )
    assert '"virtual-size": 1073741824' in checked.stdout
