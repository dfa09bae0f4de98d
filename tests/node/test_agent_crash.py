"""The agent is killed at every step of a boot and of a delete: the result is the same, and nothing is left.

A whole node of the lab: real apiserver, real libvirtd, real data plane; no operators, the test writes the work objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_rig import NODE_INSTANCE, Rig

from crds.node import NodeInstanceState
from hostagent.compute.plan import Action
from lab import cluster, guests, services
from lab.binaries import ensure
from lab.hosts import enter, run_in
from lab.layout import CONTROL, CONTROL_ADDRESS, Layout
from runtime.client import Client
from runtime.kind import NAMESPACE

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a lab"),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).parents[2]
NODE = "node1"
UNDERLAY = "10.10.0.11"
IMAGE_PORT = 8099
SAMPLE = 6
NETWORK, SUBNET, GROUP = (str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("network", "subnet", "group"))
LEFTOVERS = """
import asyncio
import sys
from hostagent.network.dataplane import DataPlane
from hostagent.network.model import DesiredNode

async def main():
    plane = DataPlane()
    nothing = DesiredNode(underlay_ip=sys.argv[1], physical_networks={"public": "public0"})
    print(*await plane.leftovers(nothing), sep="\\n")
    await plane.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    layout = Layout(f"agent-{os.getpid()}")  # beside other runs on the machine
    try:
        cluster.up(layout, nodes=1)
        kubectl = [ensure(["kubectl"])["kubectl"], f"--kubeconfig={layout.kubeconfig}"]
        subprocess.run(
            [*kubectl, "apply", "--server-side", "--filename", ROOT / "crds/manifests"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(
            [*kubectl, "wait", "crd", "--all", "--for=condition=Established"], check=True, stdout=subprocess.DEVNULL
        )
        images = tmp_path_factory.mktemp("images")
        tiny = guests.build("tiny")
        shutil.copyfile(tiny, images / hashlib.sha256(tiny.read_bytes()).hexdigest())
        server = [sys.executable, "-m", "http.server", str(IMAGE_PORT), "--bind", CONTROL_ADDRESS]
        services.add(layout, "images", [*server, "--directory", str(images)], host=CONTROL)
        yield layout
    finally:
        cluster.down(layout)


class Node(Rig):
    """The lab's node, whose agent is a process of its own."""

    def __init__(self, client: Client, layout: Layout) -> None:
        super().__init__(client, layout.inside_kubeconfig, "qemu:///system", layout.node_data(NODE) / "kumulus")
        self.lab = layout

    @property
    def namespace(self) -> str:
        return f"kumulus-node-{NODE}"

    async def start(self, *program: str) -> asyncio.subprocess.Process:
        """An agent; by default one that is not killed."""
        words = [sys.executable, *(program or ("-m", "hostagent.main"))]
        options = {
            "kubeconfig": self.lab.inside_kubeconfig,
            "node-name": NODE,
            "underlay-ip": UNDERLAY,
            "physical-networks": "public=public0",
            "virt-type": "qemu",
            "shutdown-grace": 1,
            "log-level": "DEBUG",
        }
        words += [f"--{name}={value}" for name, value in options.items()]
        with self.lab.log("test-agent").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *enter(self.lab, NODE), "env", f"PYTHONPATH={ROOT}", *words, stdout=log, stderr=log
            )

    async def until_killed(self, action: Action, moment: str) -> None:
        """Runs an agent until it dies at the step."""
        process = await self.start(str(Path(__file__).parent / "killed_agent.py"), action.value, moment)
        try:
            async with asyncio.timeout(60):
                assert await process.wait() == -9
        finally:
            await end(process)

    def leftovers(self) -> dict[str, str]:
        """What is on the node that should not be there when no guest is."""
        data = self.layout
        return {
            "data plane": run_in(
                self.lab, NODE, ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", LEFTOVERS, UNDERLAY]
            ),
            "domains": run_in(self.lab, NODE, ["virsh", "list", "--all", "--uuid"]),
            "files": "\n".join(str(path) for path in data.instances.iterdir()),
            "ledger": "\n".join(str(path) for path in (data.ledger / "instances").iterdir()),
            "partial": "\n".join(str(path) for path in data.state_dir.rglob("*.partial")),
        }

    async def clean(self, seconds: float = 20) -> None:
        """Waits until nothing is left; what is, is told."""
        deadline = asyncio.get_running_loop().time() + seconds
        while left := {name: found for name, found in self.leftovers().items() if found.strip()}:
            assert asyncio.get_running_loop().time() < deadline, left
            await asyncio.sleep(0.2)

    def boots(self, uid: str) -> int:
        """How often the guest's kernel came up."""
        log = self.layout.instance(uid).console_log
        return log.read_text(errors="replace").count("KUMULUS-GUEST boot ") if log.exists() else 0


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile


async def end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await process.wait()


@pytest.fixture
async def node(layout: Layout) -> AsyncIterator[Node]:
    client = await Client.connect(layout.kubeconfig)
    node = Node(client, layout)
    namespaces = {each["metadata"]["name"] for each in (await client.list(NAMESPACE))[0]}
    for name in {node.namespace, "kumulus-slices"} - namespaces:
        await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield node
    await client.close()


def guest_with_card(node: Node) -> dict[str, Any]:
    """A work object with a card on a VXLAN network."""
    tiny = guests.build("tiny")
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    image = {
        "name": "tiny",
        "sha256": digest,
        "size": tiny.stat().st_size,
        "virtualSize": "64Mi",
        "format": "qcow2",
        "url": f"http://{CONTROL_ADDRESS}:{IMAGE_PORT}/{digest}",
    }
    port = {
        "name": "eth0",
        "uid": str(uuid.uuid4()),
        "portName": "web-eth0",
        "macAddress": "fa:16:3e:00:00:0a",
        "network": {"uid": NETWORK, "name": "internal", "type": "VXLAN", "segmentationID": 10001, "mtu": 1450},
        "fixedIPs": [{"ip": "10.0.1.10", "subnetUID": SUBNET}],
        "subnets": [
            {
                "uid": SUBNET,
                "cidr": "10.0.1.0/24",
                "gateway": "10.0.1.1",
                "dhcpServerIP": "10.0.1.2",
                "dhcpServerMAC": "fa:16:3e:ff:00:02",
            }
        ],
        "securityGroupUIDs": [GROUP],
    }
    return node.manifest(image, ports=[port], configDrive=True)


BOOT = (
    Action.FETCH_IMAGE,
    Action.MAKE_ROOT_DISK,
    Action.MAKE_CONFIG_DRIVE,
    Action.PROGRAM_PORTS,
    Action.CREATE_TAPS,
    Action.DEFINE,
    Action.START_PAUSED,
    Action.ATTACH_TAPS,
    Action.RESUME,
    Action.MARK_STARTED,
)
DELETE = (
    Action.DESTROY,
    Action.UNDEFINE,
    Action.DELETE_TAPS,
    Action.REMOVE_PORTS,
    Action.REMOVE_FILES,
    Action.REMOVE_FINALIZER,
)


def rounds() -> list[tuple[Action, str, Action, str]]:
    """Every step of a boot and of a delete with every moment, on as few guests as possible; by default some of them.

    All of them, with KUMULUS_ALL_CRASHES=1, take some 7 minutes on two cores.
    """
    boots = [(action, moment) for action in BOOT for moment in ("before", "within", "after")]
    deletes = [(action, moment) for action in DELETE for moment in ("before", "within", "after")]
    dice = random.Random(20261121)
    dice.shuffle(deletes)
    pairs = [(*boot, *deletes[number % len(deletes)]) for number, boot in enumerate(boots)]
    return pairs if os.environ.get("KUMULUS_ALL_CRASHES") else dice.sample(pairs, SAMPLE)


@pytest.mark.parametrize(("boot", "boot_moment", "delete", "delete_moment"), rounds())
async def test_killed_at_a_step(node: Node, boot: Action, boot_moment: str, delete: Action, delete_moment: str) -> None:
    if boot is Action.FETCH_IMAGE:
        for path in node.layout.images.glob("*"):
            path.unlink()
    uid = await node.create(guest_with_card(node))
    await node.until_killed(boot, boot_moment)
    agent = await node.start()
    try:
        await node.state(uid, NodeInstanceState.RUNNING)
    finally:
        await end(agent)
    assert node.boots(uid) <= 1

    await node.client.delete(NODE_INSTANCE, uid, node.namespace)
    await node.until_killed(delete, delete_moment)
    agent = await node.start()
    try:
        await node.gone(uid)
        await node.clean()
    finally:
        await end(agent)


async def test_a_restarted_agent_changes_nothing(node: Node) -> None:
    log = node.lab.log("test-agent")
    uid = await node.create(guest_with_card(node))
    agent = await node.start()
    try:
        version = (await node.state(uid, NodeInstanceState.RUNNING)).metadata.resource_version
    finally:
        await end(agent)
    before = log.stat().st_size
    agent = await node.start()
    try:
        async with asyncio.timeout(30):
            while "data plane:" not in (told := log.read_bytes()[before:].decode()):
                await asyncio.sleep(0.1)
        assert "data plane: 0 changes" in told
        assert (await node.get(uid)).metadata.resource_version == version
        await node.client.delete(NODE_INSTANCE, uid, node.namespace)
        await node.gone(uid)
        await node.clean()
    finally:
        await end(agent)


async def test_killed_libvirtd_during_boots_and_deletes(node: Node) -> None:
    """At random moments; QEMU processes that libvirt forgets are not left, and no guest boots twice."""
    dice = random.Random(7)
    agent = await node.start()
    try:
        for _ in range(6):
            uid = await node.create(guest_with_card(node))
            await asyncio.sleep(dice.uniform(0, 1.2))
            services.kill(node.lab, f"{NODE}/libvirtd")
            await node.state(uid, NodeInstanceState.RUNNING, 90)
            await node.client.delete(NODE_INSTANCE, uid, node.namespace)
            await asyncio.sleep(dice.uniform(0, 0.5))
            with contextlib.suppress(Exception):
                services.kill(node.lab, f"{NODE}/libvirtd")
            await node.gone(uid, 90)
            await node.clean()
            assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if uid.encode() in content(path)]
    finally:
        await end(agent)
