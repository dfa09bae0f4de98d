"""Instances on the real apiserver, with the real network operator and simulated hypervisors."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

import pytest
from compute_cloud import (
    FLAVOR,
    GROUP,
    HYPERVISOR,
    IMAGE,
    INSTANCE,
    KEY,
    KEY_PAIR,
    NETWORK,
    PORT,
    SUBNET,
    Cloud,
    condition,
)
from opnet_cloud import Operators

from lab.api import ApiServer
from operators import compute, network
from runtime.client import Client, Invalid
from runtime.kind import EVENT, SECRET


@pytest.fixture
async def cloud(client: Client, apiserver: ApiServer, request: pytest.FixtureRequest) -> AsyncIterator[Cloud]:
    name = "c-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[-36:].strip("-")
    async with Cloud(client, name) as cloud, Operators(apiserver, network.build, compute.build):
        yield cloud


async def test_an_instance_becomes_active_and_goes_without_a_trace(cloud: Cloud) -> None:
    node = await cloud.node("n1")
    await cloud.world()
    await cloud.create(KEY_PAIR, "alice", {"publicKey": KEY})
    await cloud.instance(
        "web", keyPairRefs=[{"name": "alice"}], metadata={"role": "web"}, userData="#cloud-config\n", configDrive=True
    )
    web = await cloud.until_ready("web")
    status = web["status"]
    port = await cloud.get(PORT, "web-eth0")
    assert port is not None
    (fixed,) = port["status"]["fixedIPs"]
    assert status["phase"] == "Active"
    assert status["nodeName"] == node.name
    assert status["addresses"] == [
        {
            "name": "eth0",
            "network": "internal",
            "ip": fixed["ip"],
            "mac": port["status"]["macAddress"],
            "port": "web-eth0",
        }
    ]
    assert [t["phase"] for t in status["phaseTransitions"]] == ["Scheduling", "Building", "Active"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Ready": "True",
        "Scheduled": "True",
        "NetworkReady": "True",
        "VolumesReady": "True",
        "Running": "True",
        "LiveMigratable": "False",
    }
    (work,) = await cloud.works()
    uid = web["metadata"]["uid"]
    assert work["metadata"]["name"] == uid
    assert work["metadata"]["namespace"] == node.namespace
    assert work["metadata"]["finalizers"] == ["node.kumulus.dev/agent"]
    spec = work["spec"]
    image, group = await cloud.get(IMAGE, "tiny"), await cloud.get(GROUP, "default")
    net, subnet = await cloud.get(NETWORK, "internal"), await cloud.get(SUBNET, "internal-v4")
    assert image
    assert group
    assert net
    assert subnet
    assert spec["instanceRef"] == {"namespace": cloud.tenant, "name": "web", "uid": uid}
    assert (spec["vcpus"], spec["memory"], spec["powerState"], spec["configDrive"]) == (1, "1Gi", "Running", True)
    digest = image["status"]["storedSha256"]
    assert spec["rootDisk"]["size"] == "2Gi"
    assert spec["rootDisk"]["image"]["url"] == f"https://image.kumulus-system.svc:8774/v1/images/{digest}"
    assert spec["rootDisk"]["image"]["format"] == "qcow2"
    assert spec["userData"] == "#cloud-config\n"
    meta = spec["metadata"]
    assert (meta["hostname"], meta["projectID"], meta["properties"]) == ("web", cloud.tenant, {"role": "web"})
    assert meta["keys"] == [{"name": "alice", "publicKey": KEY}]
    (nic,) = spec["ports"]
    assert (nic["name"], nic["uid"], nic["macAddress"]) == (
        "eth0",
        port["metadata"]["uid"],
        port["status"]["macAddress"],
    )
    assert nic["securityGroupUIDs"] == [group["metadata"]["uid"]]
    assert nic["network"]["uid"] == net["metadata"]["uid"]
    assert nic["network"]["segmentationID"] == net["status"]["segmentationID"]
    assert nic["network"]["mtu"] == net["status"]["mtu"]
    assert nic["fixedIPs"] == [{"ip": fixed["ip"], "subnetUID": subnet["metadata"]["uid"]}]
    server = subnet["status"]["dhcpServer"]
    (told,) = nic["subnets"]
    assert (told["dhcpServerIP"], told["dhcpServerMAC"], told["gateway"]) == (server["ip"], server["mac"], "10.0.1.1")

    await cloud.delete(INSTANCE, "web")
    await cloud.until_gone(INSTANCE, "web")
    await cloud.nothing_left()


async def test_two_instances_spread_over_two_nodes(cloud: Cloud) -> None:
    nodes = {(await cloud.node("n1")).name, (await cloud.node("n2")).name}
    await cloud.world()
    await cloud.instance("one")
    await cloud.instance("two")
    assert {(await cloud.until_ready(name))["status"]["nodeName"] for name in ("one", "two")} == nodes


async def test_stop_and_start_change_the_work_object_in_place(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    await cloud.instance("web")
    before = await cloud.until_ready("web")
    (work,) = await cloud.works()
    await cloud.patch(INSTANCE, "web", {"spec": {"powerState": "Stopped", "metadata": {"a": "b"}}})
    stopped = await cloud.until(INSTANCE, "web", lambda o: bool(o) and o["status"]["phase"] == "Stopped")
    stopped = await cloud.until_ready("web")
    assert condition(stopped, "Running")["status"] == "False"  # type: ignore[index]  # it is always there
    await cloud.patch(INSTANCE, "web", {"spec": {"powerState": "Running"}})
    await cloud.until(INSTANCE, "web", lambda o: bool(o) and o["status"]["phase"] == "Active")
    after = await cloud.until_ready("web")
    assert after["status"]["addresses"] == before["status"]["addresses"]
    (same,) = await cloud.works()
    assert same["metadata"]["uid"] == work["metadata"]["uid"]
    assert same["spec"]["metadata"]["properties"] == {"a": "b"}
    reasons = {event["reason"] for event in await _events(cloud, "web")}
    assert {"Scheduled", "Started", "Stopped"} <= reasons


async def _events(cloud: Cloud, name: str) -> list[dict]:
    events, _ = await cloud.client.list(EVENT, cloud.tenant)
    return [event for event in events if event["regarding"]["name"] == name]


async def test_what_is_missing_is_told_one_by_one_and_then_it_converges(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.instance("web", keyPairRefs=[{"name": "alice"}])
    told = await cloud.until_told("web", "FlavorNotFound", "Image tiny does not exist", "KeyPair alice")
    assert "Network internal of card eth0 does not exist" in told["message"]
    web = await cloud.get(INSTANCE, "web")
    assert web
    assert condition(web, "NetworkReady")["reason"] == "NetworkNotFound"  # type: ignore[index]  # it is always there
    assert condition(web, "Reconciling") is not None
    await cloud.network()
    await cloud.until_told("web", "FlavorNotFound", "SecurityGroup default of card eth0 does not exist")
    await cloud.group()
    await cloud.create(KEY_PAIR, "alice", {"publicKey": KEY})
    await cloud.flavor()
    await cloud.until_told("web", "ImageNotFound")
    await cloud.image()
    assert (await cloud.until_ready("web"))["status"]["phase"] == "Active"


async def test_an_image_that_is_not_active_yet_is_waited_for(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.flavor()
    await cloud.create(IMAGE, "tiny", {"source": {"upload": {}}, "diskFormat": "qcow2"})
    await cloud.instance("web", networks=None)
    await cloud.until_told("web", "ImageNotActive", "Queued")
    await cloud.delete(IMAGE, "tiny")
    await cloud.until_told("web", "ImageNotFound")
    await cloud.image()
    await cloud.until_ready("web")


async def test_another_tenants_image_is_missing_unless_it_is_shared(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.flavor()
    async with Cloud(cloud.client, f"{cloud.tenant}-b") as other:
        await other.image()
        await cloud.instance("web", networks=None, imageRef={"name": "tiny", "namespace": other.tenant})
        unshared = await cloud.until_told("web", "ImageNotFound")
        absent = await _told_of_absent(cloud, other)
        assert unshared["message"].replace("/tiny ", "/none ") == absent["message"]
        await other.patch(IMAGE, "tiny", {"spec": {"access": {"scope": "Shared", "tenants": [cloud.tenant]}}})
        await cloud.until_ready("web")


async def _told_of_absent(cloud: Cloud, other: Cloud) -> dict:
    await cloud.instance("lost", networks=None, imageRef={"name": "none", "namespace": other.tenant})
    return await cloud.until_told("lost", "ImageNotFound")


@pytest.mark.parametrize(
    ("flavor", "image", "reason", "words"),
    [
        ({"rootDisk": "1Gi"}, {"minDisk": "2Gi"}, "FlavorTooSmall", ["2Gi (its minDisk)", "larger rootDisk"]),
        ({"memory": "256Mi"}, {"minMemory": "512Mi"}, "FlavorTooSmall", ["512Mi", "more memory"]),
        ({"rootDisk": "512Mi"}, {}, "FlavorTooSmall", ["1Gi (the image's disk)"]),
        ({"swap": "1Gi"}, {}, "NotSupported", ["spec.swap"]),
        ({}, {"deactivated": True}, "ImageUnusable", ["deactivated"]),
        (
            {"memory": "64Gi"},
            {},
            "FlavorTooLarge",
            ["1 MemoryFilter (needs 64Gi, free 16Gi at most)", "larger than every"],
        ),
    ],
)
async def test_what_cannot_work_is_stalled_with_a_sentence(
    cloud: Cloud, flavor: dict, image: dict, reason: str, words: list[str]
) -> None:
    await cloud.node("n1")
    await cloud.flavor(**flavor)
    await cloud.image(**image)
    await cloud.instance("web", networks=None)
    await cloud.until_told("web", reason, *words)
    web = await cloud.get(INSTANCE, "web")
    assert web
    assert web["status"]["phase"] == "Error"
    assert condition(web, "Stalled")["status"] == "True"  # type: ignore[index]  # asked for right here
    assert not await cloud.works()
    await cloud.delete(INSTANCE, "web")
    await cloud.until_gone(INSTANCE, "web")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"volumes": [{"name": "data", "volumeRef": {"name": "data"}}]}, "spec.volumes"),
        ({"rescue": {"imageRef": {"name": "tiny"}}}, "spec.rescue"),
        ({"serverGroupRef": {"name": "web"}}, "spec.serverGroupRef"),
        ({"availabilityZone": "az1"}, "spec.availabilityZone"),
        ({"powerState": "Paused"}, "spec.powerState: Paused"),
    ],
)
async def test_what_comes_later_is_told_before_anything_is_built(cloud: Cloud, spec: dict, field: str) -> None:
    await cloud.node("n1")
    await cloud.world()
    await cloud.instance("web", **spec)
    await cloud.until_told("web", "NotSupported", f"{field} ", "not supported by this release")
    assert await cloud.get(PORT, "web-eth0") is None
    assert not await cloud.allocations()


async def test_a_change_that_cannot_be_made_disturbs_nothing(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    await cloud.flavor("large", vcpus=2)
    await cloud.instance("web")
    await cloud.until_ready("web")
    (before,) = await cloud.works()
    await cloud.patch(INSTANCE, "web", {"spec": {"flavorRef": {"name": f"{cloud.tenant}-large"}}})
    await cloud.until_told("web", "NotSupported", "spec.flavorRef", f"set it back to {cloud.tenant}-small")
    web = await cloud.get(INSTANCE, "web")
    assert web
    assert web["status"]["phase"] == "Active"
    assert condition(web, "Running")["status"] == "True"  # type: ignore[index]  # it is always there
    (after,) = await cloud.works()
    assert after["spec"] == before["spec"]
    await cloud.patch(INSTANCE, "web", {"spec": {"flavorRef": {"name": f"{cloud.tenant}-small"}}})
    await cloud.until_ready("web")


async def test_a_full_cloud_says_so_and_goes_on_when_there_is_room(cloud: Cloud) -> None:
    await cloud.node("n1", memory="2Gi")
    await cloud.world()
    for name in ("one", "two"):
        await cloud.instance(name)
        await cloud.until_ready(name)
    await cloud.instance("three")
    await cloud.until_told("three", "NoValidHost", "0 of 1 host fit: 1 MemoryFilter (needs 1Gi, free 0 at most).")
    three = await cloud.get(INSTANCE, "three")
    assert three
    assert three["status"]["phase"] == "Scheduling"
    await cloud.delete(INSTANCE, "one")
    assert (await cloud.until_ready("three"))["status"]["phase"] == "Active"


async def test_a_node_in_maintenance_takes_nothing_new(cloud: Cloud) -> None:
    node = await cloud.node("n1")
    await cloud.world()
    await cloud.patch(HYPERVISOR, node.name, {"spec": {"maintenance": "Cordon"}})
    await cloud.until(HYPERVISOR, node.name, lambda o: bool(o) and o["status"].get("observedGeneration") == 2)
    await cloud.instance("web")
    await cloud.until_told("web", "NoValidHost", "1 EnabledFilter (in maintenance)")
    await cloud.patch(HYPERVISOR, node.name, {"spec": {"maintenance": "None"}})
    await cloud.until_ready("web")


async def test_a_port_of_ones_own_is_used_by_one_instance_and_outlives_it(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    await cloud.create(PORT, "mine", {"networkRef": {"name": "internal"}, "fixedIPs": [{"ip": "10.0.1.50"}]})
    networks = [{"name": "eth0", "portRef": {"name": "mine"}}]
    await cloud.instance("one", networks=networks)
    one = await cloud.until_ready("one")
    assert one["status"]["addresses"][0]["ip"] == "10.0.1.50"
    await cloud.instance("two", networks=networks)
    await cloud.until_told("two", "PortInUse", "Port mine is used by instance one")
    await cloud.delete(INSTANCE, "one")
    await cloud.until_gone(INSTANCE, "one")
    two = await cloud.until_ready("two")
    assert two["status"]["addresses"][0]["ip"] == "10.0.1.50"


async def test_a_foreign_port_that_has_the_name_is_not_taken(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    await cloud.create(PORT, "web-eth0", {"networkRef": {"name": "internal"}})
    await cloud.instance("web")
    await cloud.until_told("web", "PortNameTaken", "Port web-eth0 exists and was not made for this instance")
    await cloud.delete(PORT, "web-eth0")
    await cloud.until_ready("web")


async def test_ports_carry_fixed_ip_and_groups_over_and_follow_changes(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    web_group = await cloud.group("web")
    nic = {"name": "eth0", "networkRef": {"name": "internal"}, "fixedIP": "10.0.1.77", "securityGroupRefs": []}
    await cloud.instance("web", networks=[nic])
    web = await cloud.until_ready("web")
    assert web["status"]["addresses"][0]["ip"] == "10.0.1.77"
    (work,) = await cloud.works()
    assert work["spec"]["ports"][0].get("securityGroupUIDs", []) == []
    await cloud.patch(INSTANCE, "web", {"spec": {"networks": [{**nic, "securityGroupRefs": [{"name": "web"}]}]}})

    def regrouped(obj: dict | None) -> bool:
        return bool(obj) and obj["spec"].get("securityGroupRefs") == [{"name": "web"}]  # type: ignore[index]  # not None

    await cloud.until(PORT, "web-eth0", regrouped)
    await cloud.until_ready("web")
    (work,) = await cloud.works()
    assert work["spec"]["ports"][0]["securityGroupUIDs"] == [web_group["metadata"]["uid"]]


async def test_an_address_that_is_taken_is_told_by_the_port(cloud: Cloud) -> None:
    await cloud.node("n1")
    await cloud.world()
    nic = {"name": "eth0", "networkRef": {"name": "internal"}, "fixedIP": "10.0.1.77"}
    await cloud.instance("one", networks=[nic])
    await cloud.until_ready("one")
    await cloud.instance("two", networks=[nic])

    def told(obj: dict | None) -> bool:
        found = condition(obj or {}, "Ready") or {}
        return "Port two-eth0: " in found.get("message", "") and "10.0.1.77" in found["message"]

    await cloud.until(INSTANCE, "two", told)


async def test_user_data_in_a_secret_is_copied_to_the_node_and_removed(cloud: Cloud) -> None:
    node = await cloud.node("n1")
    await cloud.world()
    await cloud.instance("web", userDataSecretRef={"name": "boot"})
    await cloud.until_told("web", "UserDataNotFound", "Secret boot of spec.userDataSecretRef does not exist")
    await cloud.client.create(
        SECRET,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "boot", "namespace": cloud.tenant},
            "stringData": {"userData": "#cloud-config\n"},
        },
    )
    web = await cloud.until_ready("web")
    (work,) = await cloud.works()
    name = f"{web['metadata']['uid']}-userdata"
    assert work["spec"]["userDataSecretName"] == name
    copy = await cloud.client.get(SECRET, name, node.namespace)
    assert base64.b64decode(copy["data"]["userData"]) == b"#cloud-config\n"
    await cloud.delete(INSTANCE, "web")
    await cloud.until_gone(INSTANCE, "web")
    assert name not in await cloud.secrets(node)


async def test_key_pairs_and_flavors_say_what_they_are(cloud: Cloud) -> None:
    await cloud.create(KEY_PAIR, "good", {"publicKey": KEY})
    good = await cloud.until_ready("good", KEY_PAIR)
    assert good["status"]["fingerprint"] == "SHA256:LG1yzwyL4AhqDJLiN1yCmOZ4g4zLJPyWZ6n3wJ7hIX4"
    await cloud.create(KEY_PAIR, "bad", {"publicKey": KEY.replace("AAAAIGVI", "AAAA")})
    await cloud.until_told("bad", "InvalidKey", "cut off", kind=KEY_PAIR)
    with pytest.raises(Invalid, match="one line in OpenSSH form"):
        await cloud.create(KEY_PAIR, "ugly", {"publicKey": "no key"})
    name = await cloud.flavor()
    await cloud.until_ready(name, FLAVOR)
