"""From `kubectl apply` to a running guest, and back to nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from tests.e2e import objects as o
from tests.e2e.cloud import Cloud
from tests.e2e.conftest import assert_nothing_left

Name = Callable[[], str]


def test_an_instance_boots_finds_its_metadata_and_answers(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    user_data = "#!/bin/sh\necho user-data says hello\n"
    networks = [o.internal_nic(), o.public_nic()]
    cloud.apply(*o.world_of(name, cloud.public_key))
    cloud.apply(o.instance(name, "one", networks=networks, keyPairRefs=[{"name": "key"}], userData=user_data))
    instance = cloud.until_ready("instance", "one", name)
    status = instance["status"]
    assert status["phase"] == "Active"
    assert status["nodeName"] in cloud.nodes
    addresses = {a["network"]: a["ip"] for a in status["addresses"]}
    console = cloud.until_console(instance, "user-data says hello")
    for address in addresses.values():
        assert address in console, "the guest got its addresses by DHCP"
    cloud.until_ssh(addresses["public"])
    assert cloud.ssh(addresses["public"], "hostname").strip() == "one"
    meta = json.loads(
        cloud.ssh(addresses["public"], "wget -qO- http://169.254.169.254/openstack/latest/meta_data.json")
    )
    assert meta["uuid"] == instance["metadata"]["uid"]
    assert meta["project_id"] == name
    table = cloud.kubectl("get", "inst", "-A").stdout
    row = next(line.split() for line in table.splitlines() if line.startswith(name))
    assert "Active" in row
    assert status["nodeName"] in row


def test_stop_keeps_everything_and_start_brings_it_back(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key))
    instance = o.instance(name, "one", networks=[o.internal_nic(), o.public_nic()], keyPairRefs=[{"name": "key"}])
    cloud.apply(instance)
    before = cloud.until_ready("instance", "one", name)
    cloud.until_console(before, "KUMULUS-GUEST dhcp")
    cloud.apply(o.instance(name, "one", **(instance["spec"] | {"powerState": "Stopped"})))
    cloud.until("instance", "one", name, lambda i: i is not None and i["status"]["phase"] == "Stopped", 90)
    cloud.until_ready("instance", "one", name)
    cloud.apply(o.instance(name, "one", **(instance["spec"] | {"powerState": "Running"})))
    cloud.until("instance", "one", name, lambda i: i is not None and i["status"]["phase"] == "Active", 90)
    after = cloud.until_ready("instance", "one", name)
    assert after["status"]["addresses"] == before["status"]["addresses"]
    assert after["status"]["nodeName"] == before["status"]["nodeName"]
    address = next(a["ip"] for a in after["status"]["addresses"] if a["network"] == "public")
    cloud.until_ssh(address)


def test_applied_in_any_order_it_converges(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    everything = o.world_of(name, cloud.public_key)
    namespace, rest = everything[0], [*everything[1:], o.instance(name, "one"), o.instance(name, "two")]
    random.Random(7).shuffle(rest)
    rest.sort(key=lambda obj: obj["kind"] != "Instance")  # the instances first of all
    cloud.apply(namespace)
    for obj in rest:
        cloud.apply(obj)
    nodes = {cloud.until_ready("instance", i, name)["status"]["nodeName"] for i in ("one", "two")}
    assert nodes == set(cloud.nodes), "two instances spread over two nodes"


def test_deleted_in_any_order_nothing_is_left(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key), o.instance(name, "one"), o.instance(name, "two"))
    for instance in ("one", "two"):
        cloud.until_ready("instance", instance, name)
    # What is used first: each must wait for what uses it, and say so.
    for kind, victim in (
        ("network", "internal"),
        ("subnet", "internal-v4"),
        ("port", "one-eth0"),
        ("securitygroup", "open"),
        ("image", "tiny"),
    ):
        cloud.delete(kind, victim, name, wait=False)
    for kind, victim in (("network", "internal"), ("subnet", "internal-v4"), ("port", "one-eth0")):
        cloud.until_condition(kind, victim, name, "InUse")
    assert cloud.get("instance", "one", name)["status"]["phase"] == "Active"  # type: ignore[index]  # it is there
    for instance in ("two", "one"):
        cloud.delete("instance", instance, name, wait=False)
    for kind, victim in (
        ("instance", "one"),
        ("instance", "two"),
        ("port", "one-eth0"),
        ("subnet", "internal-v4"),
        ("network", "internal"),
        ("securitygroup", "open"),
        ("image", "tiny"),
    ):
        cloud.until(kind, victim, name, lambda obj: obj is None, 90)


def test_a_tenant_deleted_as_a_whole_leaves_nothing(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key), o.instance(name, "one"), o.instance(name, "two"))
    cloud.until_ready("instance", "one", name)  # `two` may still be on its way
    cloud.delete("tenant", name, wait=False)
    cloud.until("tenant", name, None, lambda obj: obj is None, 120)
    assert cloud.get("namespace", name) is None
    assert_nothing_left(cloud, [name])


def test_the_agents_identity_reaches_nothing_of_another_node(cloud: Cloud) -> None:
    first, second = cloud.nodes
    kubeconfig = str(cloud.layout.agent_kubeconfig(first))

    def may(verb: str, what: str, namespace: str) -> bool:
        argv = ["auth", "can-i", verb, what, f"--namespace={namespace}", f"--as=system:kumulus:node:{first}"]
        return (
            cloud.kubectl(*argv, "--as-group=kumulus:nodes", "--as-group=system:authenticated", check=False).returncode
            == 0
        )

    assert kubeconfig
    assert may("list", "nodeinstances.node.kumulus.dev", f"kumulus-node-{first}")
    assert may("get", "networkslices.node.kumulus.dev", "kumulus-slices")
    for verb, what in (("list", "nodeinstances.node.kumulus.dev"), ("get", "secrets"), ("update", "leases")):
        assert not may(verb, what, f"kumulus-node-{second}")
    for what in ("instances.compute.kumulus.dev", "ports.network.kumulus.dev", "secrets"):
        assert not may("list", what, "infra")
