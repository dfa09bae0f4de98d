"""Frames between guests of two nodes on the real kernel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from network_desired import Cloud, network, port
from network_world import World

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


async def test_guests_of_two_nodes_reach_each_other_over_vxlan(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    net = network("blue")
    cloud = Cloud([net])
    a = cloud.place(port("a", net, "10.0.1.10", "fa:16:3e:00:00:0a", "open"), one.underlay_ip)
    b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b", "open"), two.underlay_ip)
    for node in (one, two):
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert report.ok, report.problems
    guest_a, guest_b = await one.boot(a.uid, a.mac), await two.boot(b.uid, b.mac)
    guest_a.configure("10.0.1.10/24")
    guest_b.configure("10.0.1.11/24")
    assert guest_a.pings("10.0.1.11", 3)
    for node in (one, two):
        report = await node.dataplane.reconcile(cloud.desired(node.underlay_ip))
        assert report.operations == ()
        assert {each.state for each in report.ports.values()} == {"Active"}
