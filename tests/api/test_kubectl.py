"""What users do with kubectl: apply in any order, wait, get, describe, explain, delete in any order."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from all_operators import until
from scene import Scene, scene_of
from shorthand import name_of

from lab.api import ApiServer
from runtime.kind import NAMESPACE

WORLD = (
    "Flavor $T-small: {vcpus: 1, memory: 512Mi, rootDisk: 1Gi}",
    "KeyPair key: {publicKey: $KEY}",
    "Secret boot: {userData: '#cloud-config'}",
    "Image disk: {source: {url: $WEB/disk}, diskFormat: qcow2}",
    "Image copy: {source: {imageRef: {name: disk}}, diskFormat: qcow2}",
    "Network net: {}",
    "Subnet v4: {networkRef: {name: net}, cidr: 10.1.0.0/24}",
    "Subnet v6: {networkRef: {name: net}, cidr: 'fd00:1::/64'}",
    "SecurityGroup web: {rules: [{name: in, direction: Ingress, remoteGroupRef: {name: db}}]}",
    "SecurityGroup db: {rules: [{name: in, direction: Ingress, remoteGroupRef: {name: web}}]}",
    "Port port: {networkRef: {name: net}, fixedIPs: [{ip: 10.1.0.50}], securityGroupRefs: [{name: db}]}",
    "Instance one: {flavorRef: {name: $T-small}, imageRef: {name: copy}, keyPairRefs: [{name: key}],"
    " userDataSecretRef: {name: boot}, networks: [{name: eth0, portRef: {name: port}}]}",
    "Instance two: {flavorRef: {name: $T-small}, imageRef: {name: disk}, networks: ["
    "{name: eth0, networkRef: {name: net}, securityGroupRefs: [{name: web}]}, {name: eth1, networkRef: {name: net}}]}",
)
"""Each after what it refers to."""


def forwards(world: tuple[str, ...]) -> list[str]:
    return list(world)


def backwards(world: tuple[str, ...]) -> list[str]:
    return list(reversed(world))


def shuffled(world: tuple[str, ...]) -> list[str]:
    return random.Random(42).sample(world, len(world))


@pytest.fixture(scope="module")
def scene(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_of(apiserver, tmp_path_factory.mktemp("scene"), "order") as scene:
        yield scene


@pytest.mark.parametrize(
    ("applied", "deleted"),
    [(backwards, forwards), (forwards, backwards), (shuffled, shuffled)],
    ids=["applied backwards, deleted forwards", "applied forwards, deleted backwards", "shuffled"],
)
def test_any_order_converges(scene: Scene, applied, deleted) -> None:  # type: ignore[no-untyped-def]  # see above
    scene.by_kubectl("apply", given=applied(WORLD))
    scene.until_current(*WORLD)
    held = [scene.held_by(scene.get(scene.named(name))["metadata"]["uid"]) for name in ("Instance one", "Instance two")]
    assert [len(things) for things in held] == [2, 2]  # a place on the node and a work object, each once

    scene.by_kubectl("delete", "--wait=false", given=deleted(WORLD))

    def left() -> list[str]:
        return [str(obj) for obj in map(name_of, scene.objects(*WORLD)) if scene.get(obj)] + scene.leaks()

    until(lambda: not left(), lambda: f"left: {left()}")


def test_a_tenant_may_come_after_what_is_in_it_and_goes_as_a_whole(scene: Scene) -> None:
    other = Scene(scene.kubectl, scene.cloud, f"{scene.tenant}-late", {**scene.values, "T": f"{scene.tenant}-late"})
    other.by_kubectl("apply", given=["Namespace $T: {kumulus.dev/tenant: $T}", *WORLD, "Tenant $T: {}"])
    other.until_current(*WORLD, "Tenant $T: {}")
    scene.kubectl.ok("delete", "tenant", other.tenant, "--timeout=60s")
    assert scene.cloud.get(NAMESPACE, other.tenant) is None
    assert scene.leaks() == []


TABLES = {
    "ten": ("$T", {"PHASE": "Active", "READY": "True"}),
    "hv": ("$T-node", {"PHASE": "Up", "READY": "True", "VCPUS": "64", "MEMORY": "64Gi"}),
    "fl": ("$T-small", {"VCPUS": "1", "MEMORY": "512Mi", "DISK": "1Gi", "READY": "True"}),
    "kp": ("key", {"READY": "True", "TYPE": "ssh-ed25519"}),
    "img": ("disk", {"PHASE": "Active", "READY": "True", "PROGRESS": "100"}),
    "net": ("net", {"PHASE": "Active", "READY": "True", "TYPE": "VXLAN"}),
    "sub": ("v4", {"READY": "True", "NETWORK": "net", "CIDR": "10.1.0.0/24", "GATEWAY": "10.1.0.1"}),
    "secgroup": ("web", {"READY": "True", "RULES": "1"}),
    "port": ("port", {"PHASE": "Active", "ADDRESS": "10.1.0.50", "INSTANCE": "one", "NODE": "$T-node"}),
    "inst": ("one", {"PHASE": "Active", "READY": "True", "NODE": "$T-node", "ADDRESS": "10.1.0.50"}),
}
"""By short name: an object, and what `kubectl get` says of it."""


def table(text: str) -> dict[str, dict[str, str]]:
    """What `kubectl get` prints: of each object, by name, its columns."""
    header, *lines = text.splitlines()
    begins = [match.start() for match in re.finditer(r"(?<!\S)\S", header)]
    rows = [[line[a:b].strip() for a, b in pairwise([*begins, None])] for line in (header, *lines)]
    return {row[rows[0].index("NAME")]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def test_kubectl_tells_the_story(scene: Scene) -> None:
    kubectl, here = scene.kubectl, f"--namespace={scene.tenant}"
    scene.by_kubectl("apply", given=WORLD)
    objects = [name_of(obj) for obj in scene.objects(*WORLD, "Tenant $T: {}", "Hypervisor $T-node: {}")]
    ready = [f"{obj.kind.plural}.{obj.kind.group}/{obj.name}" for obj in objects if obj.kind.group]
    kubectl.ok("wait", "--for=condition=Ready", "--timeout=30s", here, *ready)
    for kind, (name, expected) in TABLES.items():
        (name, *values) = scene.words([name, *expected.values()])
        found = table(kubectl.ok("get", kind, here))[name]
        assert {column: found[column] for column in expected} == dict(zip(expected, values, strict=True))
        assert found["AGE"]
        assert table(kubectl.ok("get", kind, here, "--output=wide"))[name].get("REASON")
    everywhere = table(kubectl.ok("get", "inst", "-A"))
    assert everywhere["one"]["NAMESPACE"] == scene.tenant
    story = kubectl.ok("describe", "inst", "one", here)
    for sentence in ("Scheduled .* The instance goes to node", "Started .* The guest runs on node"):
        assert re.search(sentence, story.partition("Events:")[2])
    scene.by_kubectl("delete", "--timeout=60s", given=WORLD)


@pytest.mark.parametrize("kind", TABLES)
def test_kubectl_explains_every_field(scene: Scene, kind: str) -> None:
    for part in ("spec", "status"):
        fields = scene.kubectl.ok("explain", f"{kind}.{part}").partition("FIELDS:\n")[2]
        found = re.findall(r"^  (\w+)\t<.*\n(?:  enum: .*\n)?(.*)", fields, re.MULTILINE)
        assert found
        assert [name for name, text in found if not re.match(r"    [A-Z0-9`].*", text)] == []
