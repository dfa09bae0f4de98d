"""What an instance's world is made of, and whom a change wakes: wiring of caches, without an apiserver."""

from __future__ import annotations

from typing import Any, cast

import pytest

from operators.compute.instance.caches import Caches
from operators.compute.instance.wakeups import wake
from operators.domain import Context
from operators.settings import Settings
from runtime.cache import Key
from runtime.client import Client
from runtime.cluster import Cluster
from runtime.events import Recorder

Object = dict[str, Any]
WEB, OTHER = Key("acme", "web"), Key("acme", "other")


def meta(name: str, namespace: str | None = "acme", version: int = 1, **more: Any) -> Object:
    given = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), **more}
    return given | ({"namespace": namespace} if namespace else {})


def instance(name: str, node: str | None = None, version: int = 1, **spec: Any) -> Object:
    plain = {"flavorRef": {"name": "small"}, "imageRef": {"name": "tiny"}}
    status = {"nodeName": node} if node else {}
    return {"metadata": meta(name, version=version), "spec": plain | spec, "status": status}


def record(node: str, *names: str, version: int = 1) -> Object:
    size = {"vcpus": 1, "memory": "1Gi", "disk": "1Gi"}
    entries = [{"uid": f"uid-{name}", "namespace": "acme", "name": name, **size} for name in names]
    return {"metadata": meta(node, None, version), "spec": {"allocations": entries}}


def hypervisor(node: str, phase: str, version: int = 1) -> Object:
    return {"metadata": meta(node, None, version), "spec": {}, "status": {"phase": phase}}


@pytest.fixture
def caches() -> Caches:
    nobody = cast(Client, None)  # nothing is asked of the API
    return Caches(Context(Cluster(nobody), Recorder(nobody, "test", "test"), Settings()))


def test_who_avoids_another_avoids_the_node_that_the_other_is_about_to_have(caches: Caches) -> None:
    caches.instances.observe(instance("web", schedulerHints={"differentHost": ["other", "third", "missing"]}))
    caches.instances.observe(instance("other"))
    caches.instances.observe(instance("third", "node3"))
    caches.records.observe(record("node1", "other"))
    caches.records.observe(record("node2", "web"))
    web = caches.instances.get("web", "acme")
    assert web is not None
    assert caches.world(web).avoid == {"node1", "node3"}


def test_an_instance_that_only_has_its_node_is_woken_for_what_it_waits_for(caches: Caches) -> None:
    woken: list[Key] = []
    wake(caches, woken.append)
    caches.instances.observe(instance("web", "node1", keyPairRefs=[{"name": "alice"}]))
    caches.records.observe(record("node1", "web"))
    caches.hypervisors.observe(hypervisor("node1", "Up"))
    for change in (
        lambda: caches.key_pairs.observe({"metadata": meta("alice"), "spec": {"publicKey": "ssh-ed25519 AAAA"}}),
        lambda: caches.hypervisors.observe(hypervisor("node1", "Down", 2)),
        lambda: caches.hypervisors.observe(hypervisor("node1", "Up", 3)),
    ):
        woken.clear()
        change()
        assert woken == [WEB]
