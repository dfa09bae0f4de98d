"""Each domain's operators in a process of their own: together they do what the one process of all does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from all_operators import Replica, until
from compute_cloud import WORK
from scene import scene_of

from lab.api import ApiServer
from operators.main import BUILDERS
from operators.settings import Settings
from runtime.kind import LEASE

WORLD = """
Flavor $T-small: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi}
Image disk: {source: {url: $WEB/disk}, diskFormat: qcow2}
Network net: {}
Subnet sub: {networkRef: {name: net}, cidr: 10.1.0.0/26}
Instance vm: {flavorRef: {name: $T-small}, imageRef: {name: disk}, networks: [{name: eth0, networkRef: {name: net}}]}
"""


@contextmanager
def one_process_each(folder: Path, apiserver: ApiServer, settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(Replica(apiserver, settings, f"{domain}-alone", folder / f"{domain}.log", [domain]))
            for domain in BUILDERS
        ]
        yield
        for replica in replicas:  # all at once: each takes some time to end
            replica.process.terminate()


def test_each_domain_runs_alone(apiserver: ApiServer, tmp_path: Path) -> None:
    with scene_of(apiserver, tmp_path, "domains", partial(one_process_each, tmp_path)) as scene:
        scene.apply(WORLD)
        scene.until_current(WORLD)
        assert scene.cloud.list(WORK, f"kumulus-node-{scene.tenant}-node")
        holders = {
            domain: (scene.cloud.get(LEASE, f"kumulus-operator-{domain}", "kumulus-system") or {})["spec"]
            for domain in BUILDERS
        }
        assert {domain: spec["holderIdentity"] for domain, spec in holders.items()} == {
            domain: f"{domain}-alone" for domain in BUILDERS
        }
        scene.delete("Instance vm: {}")
        until(lambda: not scene.cloud.list(WORK, f"kumulus-node-{scene.tenant}-node"), lambda: "the work object stays")
