"""The agent on a real apiserver and a real libvirt: guests without network cards, from work object to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import libvirt
import pytest
from agent_rig import NODE_INSTANCE, ImageServer, Object, Rig
from libvirt_host import LibvirtHost

from crds.compute import Hypervisor
from crds.node import NetworkSlice, Step
from crds.node import NodeInstanceState as State
from hostagent.compute.executor import Superseded
from hostagent.compute.plan import Action
from hostagent.compute.resolve import FINALIZER
from hostagent.layout import Layout
from lab import guests
from lab.api import ApiServer
from lab.binaries import ensure
from runtime.client import Client
from runtime.kind import NAMESPACE, SECRET, kind_of

HYPERVISOR = kind_of(Hypervisor)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="runs libvirtd"),
    pytest.mark.timeout(300),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def apiserver() -> Iterator[ApiServer]:
    kubectl = ensure(["kubectl"])["kubectl"]
    with ApiServer() as api:
        manifests = [f"--filename={path}" for path in sorted((ROOT / "crds/manifests").glob("*.yaml"))]
        command = [kubectl, f"--kubeconfig={api.kubeconfig}"]
        subprocess.run([*command, "apply", "--server-side", *manifests], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*command, "wait", "crd", "--all", "--for=condition=Established"], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run([*command, "create", "namespace", "kumulus-slices"], check=True)
        yield api


@pytest.fixture(scope="module")
def libvirt_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    host = LibvirtHost(tmp_path_factory.mktemp("libvirt"))
    host.start()
    yield host
    host.stop()


@pytest.fixture(scope="session")
def tiny() -> Path:
    return guests.build("tiny")


@pytest.fixture
async def images() -> AsyncIterator[ImageServer]:
    async with ImageServer().running() as server:
        yield server


@pytest.fixture
def image(images: ImageServer, tiny: Path) -> Object:
    return images.add(tiny)


@pytest.fixture
async def rig(apiserver: ApiServer, libvirt_host: LibvirtHost, tmp_path: Path) -> AsyncIterator[Rig]:
    client = await Client.connect(apiserver.kubeconfig)
    rig = Rig(client, apiserver.kubeconfig, libvirt_host.uri, tmp_path)
    await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": rig.namespace}})
    yield rig
    await client.close()
    connection = libvirt.open(libvirt_host.uri)
    for domain in connection.listAllDomains():
        # Its guest may be ending just now: whichever it is, the domain is gone afterwards.
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefine()
    connection.close()


def domain_of(host: LibvirtHost, uid: str) -> libvirt.virDomain:
    return libvirt.open(host.uri).lookupByUUIDString(uid)


async def test_from_work_object_to_running_guest_and_back(
    rig: Rig, image: Object, images: ImageServer, libvirt_host: LibvirtHost
) -> None:
    async with rig.agent():
        created = rig.manifest(image, configDrive=True, userData="#!/bin/sh\ntrue\n")
        uid = await rig.create(created)
        found = await rig.state(uid, State.RUNNING)
        assert [record.name for record in found.status.steps] == list(Step)
        assert [record.at for record in found.status.steps] == sorted(record.at for record in found.status.steps)
        ready = {condition.type: condition for condition in found.status.conditions}["Ready"]
        assert (ready.status, ready.reason) == ("True", "Realised")
        assert found.status.observed_generation == found.metadata.generation
        assert domain_of(libvirt_host, uid).isActive()
        files = rig.layout.instance(uid)
        assert files.root_disk.stat().st_mode & 0o777 == 0o600
        assert files.console_log.stat().st_mode & 0o777 == 0o600
        async with asyncio.timeout(60):
            while "metadata source=config-drive" not in files.console_log.read_text(errors="replace"):
                await asyncio.sleep(0.2)

        await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
        await rig.gone(uid)
        assert not files.directory.exists()
        with pytest.raises(libvirt.libvirtError):
            domain_of(libvirt_host, uid)
        assert rig.layout.image(image["sha256"]).exists()
        assert not list((rig.layout.ledger / "instances").iterdir())
    assert len(images.requests) == 1


async def test_a_normal_boot_takes_one_status_write(rig: Rig, image: Object) -> None:
    async with rig.agent():
        uid = await rig.create(rig.manifest(image))
        found = await rig.state(uid, State.RUNNING)
        await asyncio.sleep(2)
        later = await rig.get(uid)
        # One write by the user, one by the agent: nothing else touches the object.
        assert later.metadata.resource_version == found.metadata.resource_version
        managers = (await rig.client.get(NODE_INSTANCE, uid, rig.namespace))["metadata"]["managedFields"]
        assert len([entry for entry in managers if entry.get("subresource") == "status"]) == 1


async def test_stop_keeps_the_disk_and_start_uses_it(rig: Rig, image: Object) -> None:
    async with rig.agent():
        uid = await rig.create(rig.manifest(image))
        await rig.state(uid, State.RUNNING)
        disk = rig.layout.instance(uid).root_disk
        before = disk.stat().st_ino
        await rig.patch(uid, powerState="Stopped")
        stopped = await rig.state(uid, State.STOPPED)
        assert {c.type: c.status for c in stopped.status.conditions}["Ready"] == "True"
        assert disk.stat().st_ino == before
        await rig.patch(uid, powerState="Running")
        await rig.state(uid, State.RUNNING)
        assert disk.stat().st_ino == before


@pytest.mark.parametrize(("policy", "ends"), [("Always", State.RUNNING), ("Never", State.STOPPED)])
async def test_a_guest_that_stops_by_itself(
    rig: Rig, image: Object, libvirt_host: LibvirtHost, policy: str, ends: State
) -> None:
    async with rig.agent():
        uid = await rig.create(rig.manifest(image, restartPolicy=policy))
        await rig.state(uid, State.RUNNING)
        first = domain_of(libvirt_host, uid).ID()
        # From libvirt's side this is a guest that went off without the agent's doing.
        domain_of(libvirt_host, uid).destroy()
        if policy == "Never":
            found = await rig.state(uid, ends, 10)
            assert found.status.reason == "GuestStopped"
            assert "powerState" in (found.status.message or "")
            await rig.patch(uid, powerState="Stopped")
            await rig.until(uid, lambda f: f.status.observed_generation == f.metadata.generation)
            await rig.patch(uid, powerState="Running")
            await rig.state(uid, State.RUNNING)
        else:
            async with asyncio.timeout(30):
                while (domain := domain_of(libvirt_host, uid)).ID() in (first, -1) or domain.state()[0] != 1:
                    await asyncio.sleep(0.1)


async def test_restarted_agent_and_killed_libvirtd_leave_the_guest_alone(
    rig: Rig, image: Object, libvirt_host: LibvirtHost
) -> None:
    async with rig.agent():
        uid = await rig.create(rig.manifest(image))
        await rig.state(uid, State.RUNNING)
        pids = libvirt_host.guests()
    version = (await rig.get(uid)).metadata.resource_version
    async with rig.agent():
        await asyncio.sleep(2)
        assert libvirt_host.guests() == pids
        assert (await rig.get(uid)).metadata.resource_version == version
        libvirt_host.kill()
        await asyncio.sleep(1)
        assert libvirt_host.guests() == pids
        libvirt_host.start()
        await rig.patch(uid, powerState="Stopped")
        await rig.state(uid, State.STOPPED)
        assert libvirt_host.guests() == []


@pytest.mark.parametrize("wish", ["run", "delete"])
async def test_a_start_that_libvirt_lost_is_begun_anew(
    rig: Rig, image: Object, libvirt_host: LibvirtHost, wish: str
) -> None:
    """libvirtd, killed before it noted QEMU's process, locks the guest for that start once it is back."""
    async with rig.agent():
        other = await rig.create(rig.manifest(image))
        await rig.state(other, State.RUNNING)
        (runs,) = libvirt_host.guests()
        uid = await rig.create(rig.manifest(image, powerState="Paused"))
        await rig.state(uid, State.PAUSED)
        (pid,) = set(libvirt_host.guests()) - {runs}
        libvirt_host.kill()
        os.kill(pid, signal.SIGKILL)
        note = libvirt_host.directory / f"run/qemu/{uid}.xml"
        text = note.read_text()
        status = "<domstatus state='paused' reason='starting up' pid='0'>"
        text = re.sub(r"<domstatus [^>]*>", f"{status}<job type='none' async='start' phase='none' flags='0x1'/>", text)
        note.write_text(text)
        libvirt_host.start()
        if wish == "run":
            await rig.patch(uid, powerState="Running")
        else:
            await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
        await asyncio.to_thread(libvirt_host.ended)
        assert not note.exists()
        libvirt_host.start()
        if wish == "run":
            await rig.state(uid, State.RUNNING, 30)
        else:
            await rig.gone(uid, 30)
        assert runs in libvirt_host.guests()


async def test_a_guest_that_libvirt_runs_after_all_is_no_orphan(
    rig: Rig, image: Object, libvirt_host: LibvirtHost
) -> None:
    async with rig.agent() as agent:
        uid = await rig.create(rig.manifest(image))
        work = await rig.state(uid, State.RUNNING)
        with pytest.raises(Superseded):
            await agent._instances._executor.run(Action.END_ORPHANS, work, agent._instances._memories[uid])
        assert len(libvirt_host.guests()) == 1


async def test_an_object_that_another_finalizer_keeps_holds_nothing_on_the_node(rig: Rig, image: Object) -> None:
    async with rig.agent() as agent:
        manifest = rig.manifest(image)
        manifest["metadata"]["finalizers"].append("example.org/other")
        uid = await rig.create(manifest)
        await rig.state(uid, State.RUNNING)
        await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
        left = await rig.until(uid, lambda found: FINALIZER not in found.metadata.finalizers)
        assert not rig.layout.instance(uid).directory.exists()
        # Its ports are not asked for again, whatever is remembered of it.
        assert agent._instances.released(left)
        await rig.client.merge_patch(NODE_INSTANCE, uid, rig.namespace, {"metadata": {"finalizers": None}})
        await rig.gone(uid)
        async with asyncio.timeout(10):
            while list((rig.layout.ledger / "instances").iterdir()):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("uid", ["../images", "another", "/etc"])
async def test_names_do_not_lead_out_of_the_state_directory(rig: Rig, image: Object, uid: str) -> None:
    async with rig.agent():
        manifest = rig.manifest(image)
        manifest["spec"]["instanceRef"]["uid"] = uid
        name = await rig.create(manifest)
        found = await rig.state(name, State.ERROR)
        assert found.status.reason == "InvalidWorkObject"
        await rig.client.delete(NODE_INSTANCE, name, rig.namespace)
        await rig.until(name, lambda found: found.status.state == State.DELETING)
        assert rig.layout.images.is_dir()
        assert rig.layout.instance_uids() == []


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def unmount(path: Path) -> None:
    subprocess.run(["umount", path], check=True)


async def test_a_full_disk_keeps_nobody_from_stopping_and_deleting(
    apiserver: ApiServer, image: Object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.compute.console_log.SCAN_EVERY", 0.3)
    state, slices = tmp_path / "state", "kumulus-slices"
    state.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", state)
    client = await Client.connect(apiserver.kubeconfig)
    host = LibvirtHost(tmp_path / "libvirt")
    try:
        host.start()
        rig = Rig(client, apiserver.kubeconfig, host.uri, state)
        await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": rig.namespace}})
        async with rig.agent():
            uid = await rig.create(rig.manifest(image))
            await rig.state(uid, State.RUNNING)
            log = rig.layout.instance(uid).console_log
            with log.open("ab") as console:
                console.write(b"x" * (3 << 20))
            with (state / "filling").open("wb", buffering=0) as filling, contextlib.suppress(OSError):
                while True:
                    filling.write(bytes(4096))
            network = {"kind": "NetworkSlice", "metadata": {"name": f"full-{uid}-0", "namespace": slices}}
            network["apiVersion"] = NODE_INSTANCE.api_version
            network["spec"] = {"networkUID": uid, "type": "VXLAN", "segmentationID": 7, "mtu": 1450, "shard": 0}
            await client.create(kind_of(NetworkSlice), network)
            async with asyncio.timeout(10):
                while log.stat().st_size > 1 << 20:
                    await asyncio.sleep(0.1)
            # The log's room is taken too.
            with (state / "filling").open("ab", buffering=0) as filling, contextlib.suppress(OSError):
                while True:
                    filling.write(bytes(4096))
            await rig.patch(uid, powerState="Stopped")
            await rig.state(uid, State.STOPPED, 20)
            more = await rig.create(rig.manifest(image))
            found = await rig.until(more, lambda found: found.status.reason in ("DiskFull", "DiskFailed"))
            assert "No space left" in (found.status.message or "")
            for each in (uid, more):
                await client.delete(NODE_INSTANCE, each, rig.namespace)
                await rig.gone(each, 20)
            (state / "filling").unlink()
            await client.delete(kind_of(NetworkSlice), network["metadata"]["name"], slices)
    finally:
        await client.close()
        host.stop()
        unmount(state)


async def test_a_second_agent_keeps_its_hands_off(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    argv = [sys.executable, "-m", "hostagent.main", f"--state-dir={tmp_path}", "--underlay-ip=127.0.0.1"]
    with layout.held():
        ended = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert ended.returncode == 1
    assert "another host agent" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agent.lock"]


async def test_a_work_object_that_vanishes_is_no_deletion(rig: Rig, image: Object, libvirt_host: LibvirtHost) -> None:
    async with rig.agent():
        uid = await rig.create(rig.manifest(image))
        await rig.state(uid, State.RUNNING)
    # As after etcd was restored from an older snapshot: nobody deleted it, it is not there.
    await rig.client.merge_patch(NODE_INSTANCE, uid, rig.namespace, {"metadata": {"finalizers": None}})
    await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
    async with rig.agent():
        async with asyncio.timeout(20):
            while True:
                hypervisors = (await rig.client.list(HYPERVISOR))[0]
                mine = [each for each in hypervisors if each["metadata"]["name"] == rig.settings.node_name]
                if mine and mine[0].get("status", {}).get("quarantined") == 1:
                    break
                await asyncio.sleep(0.1)
        assert domain_of(libvirt_host, uid).isActive()
        assert rig.layout.instance(uid).root_disk.exists()


async def test_guests_come_back_from_the_ledger_while_the_api_is_away(
    rig: Rig, image: Object, libvirt_host: LibvirtHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.client.create(
        SECRET,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "ud", "namespace": rig.namespace},
            "stringData": {"userData": "#!/bin/sh\n"},
        },
    )
    async with rig.agent():
        uid = await rig.create(rig.manifest(image, userDataSecretName="ud"))
        await rig.state(uid, State.RUNNING)
    domain_of(libvirt_host, uid).destroy()
    nowhere = rig.layout.state_dir / "nowhere.kubeconfig"
    text = Path(rig.settings.kubeconfig or "").read_text()
    nowhere.write_text(re.sub(r"https://127\.0\.0\.1:\d+", "https://127.0.0.1:1", text))
    monkeypatch.setattr("hostagent.work.WAIT_FOR_API", 1.0)
    away = await Client.connect(nowhere)
    async with rig.agent(client=away):
        async with asyncio.timeout(30):
            while not domain_of(libvirt_host, uid).isActive():
                await asyncio.sleep(0.1)
    await away.close()
    for path in rig.layout.ledger.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


async def test_what_cannot_be_is_told(rig: Rig, image: Object, images: ImageServer) -> None:
    async with rig.agent():
        wrong = {**image, "sha256": "0" * 64, "url": image["url"]}
        missing = {**image, "sha256": "1" * 64, "url": f"{images.url}/v1/images/{'1' * 64}"}
        wrong_uid = await rig.create(rig.manifest(wrong))
        missing_uid = await rig.create(rig.manifest(missing))
        no_secret = await rig.create(rig.manifest(image, userDataSecretName="none"))
        found = await rig.state(wrong_uid, State.ERROR)
        assert found.status.reason == "ImageCorrupt"
        assert image["sha256"] in (found.status.message or "")
        found = await rig.state(missing_uid, State.ERROR)
        assert found.status.reason == "ImageRefused"
        assert {c.type: c.status for c in found.status.conditions}["Stalled"] == "True"
        found = await rig.until(no_secret, lambda f: f.status.reason == "UserDataMissing")
        assert not list(rig.layout.images.glob("*.partial"))
        for uid in (wrong_uid, missing_uid, no_secret):
            await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
            await rig.gone(uid)


async def test_one_download_serves_many_guests_and_goes_on_where_it_broke(
    rig: Rig, image: Object, images: ImageServer
) -> None:
    images.break_after = 5 << 20
    async with rig.agent():
        uids = [await rig.create(rig.manifest(image, memory="64Mi")) for _ in range(3)]
        for uid in uids:
            await rig.state(uid, State.RUNNING, 120)
    assert images.requests[0] == ""
    assert len(images.requests) == 2
    assert images.requests[1].startswith("bytes=")


async def test_a_delete_does_not_wait_for_a_download(rig: Rig, image: Object, images: ImageServer) -> None:
    images.stall = asyncio.Event()
    async with rig.agent():
        uid = await rig.create(rig.manifest(image))
        found = await rig.state(uid, State.DOWNLOADING)
        assert found.status.progress is not None
        await rig.client.delete(NODE_INSTANCE, uid, rig.namespace)
        await rig.gone(uid, 5)
        images.stall.set()
        async with asyncio.timeout(20):
            while not rig.layout.image(image["sha256"]).exists():
                await asyncio.sleep(0.1)
