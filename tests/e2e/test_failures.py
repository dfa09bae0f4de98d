"""What operators of racks meet: the API away, a node gone, a full disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab import services
from lab.probe import wait_for
from tests.e2e import objects as o
from tests.e2e.cloud import Cloud
from tests.e2e.test_crash import guest_pids
from tests.e2e.test_isolation import Guest

Name = Callable[[], str]


@contextmanager
def stopped(cloud: Cloud, component: str) -> Iterator[None]:
    try:
        services.down(cloud.layout, component)
        yield
    finally:
        services.up(cloud.layout, component)


def pair_of_guests(cloud: Cloud, name: str) -> list[Guest]:
    cloud.apply(*o.world_of(name, cloud.public_key))
    for instance in ("one", "two"):
        networks = [o.internal_nic(), o.public_nic()]
        cloud.apply(o.instance(name, instance, networks=networks, keyPairRefs=[{"name": "key"}]))
    return [Guest(cloud, cloud.until_ready("instance", i, name)) for i in ("one", "two")]


def test_guests_do_not_notice_that_the_api_and_the_agents_are_away(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    one, two = pair_of_guests(cloud, name)
    before = guest_pids(cloud)
    one.run(f"(ping -i 0.1 -c 200 -W 1 {two.ip} >/tmp/pings 2>&1 &)")
    with stopped(cloud, "kube-apiserver"):
        for node in cloud.nodes:
            cloud.kill(f"{node}/hostagent")
        # What an agent answers, it answers again without the API, from what it has written down.
        two.run(
            "until wget -qO- http://169.254.169.254/openstack/latest/meta_data.json | grep -q uuid; do sleep 0.5; done",
            seconds=60,
        )
        two.run("udhcpc -n -q -f -i eth0 -s /bin/true", seconds=30)
        pinged = one.run("until grep -q received /tmp/pings; do sleep 0.5; done; cat /tmp/pings", seconds=60)
    assert "200 packets received" in pinged, pinged[-300:]
    assert guest_pids(cloud) == before
    cloud.until_ready("instance", "one", name)
    # And the agents take up work again.
    cloud.apply(o.instance(name, "three"))
    cloud.until_ready("instance", "three", name)


@pytest.mark.timeout(400)
def test_a_node_whose_agent_is_gone_is_told_and_gets_no_guests(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key), o.instance(name, "one"), o.instance(name, "two"))
    placed = {cloud.until_ready("instance", i, name)["status"]["nodeName"]: i for i in ("one", "two")}
    before = guest_pids(cloud)
    gone, kept = cloud.nodes[1], cloud.nodes[0]
    with stopped(cloud, f"{gone}/hostagent"):
        cloud.until("hypervisor", gone, None, lambda h: h is not None and h["status"]["phase"] == "Down", 90)

        def ready(status: str) -> Callable[[object], bool]:
            def holds(instance: object) -> bool:
                assert isinstance(instance, dict)
                conditions = instance["status"]["conditions"]
                return any(c["type"] == "Ready" and c["status"] == status for c in conditions)

            return holds

        cloud.until("instance", placed[gone], name, ready("Unknown"), 60)
        cloud.apply(o.instance(name, "three"))
        assert cloud.until_ready("instance", "three", name)["status"]["nodeName"] == kept
    cloud.until_ready("hypervisor", gone, None, 60)
    cloud.until_ready("instance", placed[gone], name, 60)
    after = guest_pids(cloud)
    assert {uid: after.get(uid) for uid in before} == before


def test_a_full_disk_is_told_and_nothing_half_done_stays(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key))
    cloud.until_ready("image", "tiny", name)
    small = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/var/lib/kumulus/images"]
    for node in cloud.nodes:
        cloud.run(node, *small)
    try:
        cloud.apply(o.instance(name, "one"))
        told = cloud.until_condition("instance", "one", name, "DiskFull", 60)
        assert "/var/lib/kumulus" in told["message"] or "space" in told["message"]
    finally:
        for node in cloud.nodes:
            wait_for(
                lambda node=node: cloud.run(node, "umount", "/var/lib/kumulus/images", check=False).returncode == 0,  # type: ignore[misc]  # mypy does not infer a default's type
                20,
                "the small file system stays in use",
            )
    cloud.until_ready("instance", "one", name)
