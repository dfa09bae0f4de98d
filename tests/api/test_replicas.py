"""Two operator processes: the leader is killed, or stands still and comes back, in the middle of its work."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from all_operators import Replica, settings_in, until
from compute_cloud import RECORD, WORK
from opnet_cloud import IP_ALLOCATION
from scene import Scene, scene_of

from lab.api import ApiServer
from operators.settings import Settings
from runtime.kind import LEASE

INSTANCES = 24
SETUP = """
Flavor $T-small: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi}
Image disk: {source: {url: $WEB/disk}, diskFormat: qcow2}
Network net: {}
Subnet sub: {networkRef: {name: net}, cidr: 10.1.0.0/26}
"""


def crowd(letter: str) -> str:
    """Many instances in short form, named after the letter."""
    card = "networks: [{name: eth0, networkRef: {name: net}}]"
    return "".join(
        f"Instance {letter}{number}: {{flavorRef: {{name: $T-small}}, imageRef: {{name: disk}}, {card}}}\n"
        for number in range(INSTANCES)
    )


class Replicas:
    """Processes of one cluster: they share the image store, and each has an image service of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[str, Replica] = {}

    @contextmanager
    def begun(self, apiserver: ApiServer, settings: Settings) -> Iterator[None]:
        self._apiserver, self._settings = apiserver, settings
        with self._stack:
            self.add("first")
            self.add("second")
            yield
            for replica in self._running.values():  # all at once: each takes some seconds to end
                replica.process.terminate()

    def add(self, identity: str) -> None:
        settings = replace(
            settings_in(self._folder / identity), lease_duration=9, image_store=self._settings.image_store
        )
        replica = Replica(self._apiserver, settings, identity, self._folder / f"{identity}.log")
        self._running[identity] = self._stack.enter_context(replica)

    def leader(self, scene: Scene) -> Replica | None:
        lease = scene.cloud.get(LEASE, "kumulus-operator", "kumulus-system") or {"spec": {}}
        return self._running.get(lease["spec"].get("holderIdentity"))


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    return Replicas(tmp_path)


@pytest.fixture
def scene(apiserver: ApiServer, tmp_path: Path, replicas: Replicas) -> Iterator[Scene]:
    with scene_of(apiserver, tmp_path, "replicas", replicas.begun) as scene:
        scene.apply(SETUP)
        scene.until_current(SETUP)
        yield scene


def test_another_replica_goes_on(scene: Scene, replicas: Replicas) -> None:
    still = strike_down(scene, replicas, signal.SIGSTOP, crowd("a"))
    still.process.send_signal(signal.SIGCONT)
    assert still.process.wait(20) == 1
    assert "LostLease" in still.log.read_text()
    converges(scene, crowd("a"))

    replicas.add("third")
    strike_down(scene, replicas, signal.SIGKILL, crowd("b"))
    converges(scene, crowd("a") + crowd("b"))


def strike_down(scene: Scene, replicas: Replicas, blow: signal.Signals, work: str) -> Replica:
    """Gives the leader work, sends it a signal in the middle of it, and waits until another leads."""

    def at_work() -> int:
        return len(scene.cloud.list(WORK, f"kumulus-node-{scene.tenant}-node"))

    old, before = replicas.leader(scene), at_work()
    assert old is not None
    scene.apply(work)
    until(lambda: at_work() > before, lambda: "no instance was begun")
    old.process.send_signal(blow)
    assert at_work() < before + INSTANCES, "the leader was done too soon for this test to show anything"
    until(lambda: replicas.leader(scene) not in (old, None), lambda: "nobody took over", 40)
    return old


def converges(scene: Scene, instances: str) -> None:
    """All are Ready, and nothing was allocated twice."""
    scene.until_current(SETUP, instances)
    records, works = scene.cloud.list(RECORD), scene.cloud.list(WORK)
    places = [one for record in records for one in record["spec"].get("allocations") or []]
    guests = [work["spec"]["instanceRef"] for work in works]
    addresses = [obj["spec"]["holder"] for obj in scene.cloud.list(IP_ALLOCATION, scene.tenant)]
    once = {obj["metadata"]["name"]: 1 for obj in scene.objects(instances)}
    for found in (places, guests):
        assert Counter(one["name"] for one in found if one["namespace"] == scene.tenant) == once
    assert Counter(one["name"] for one in addresses) == {**{f"{name}-eth0": 1 for name in once}, "sub": 1}
