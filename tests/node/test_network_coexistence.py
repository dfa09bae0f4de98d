"""Kumulus beside a CNI and kube-proxy in the node's own namespace: neither notices the other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from network_desired import Cloud, network, port
from network_world import Node, World

from hostagent.network import netns

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(60),
]

# Of a cluster as kubeadm and flannel make it: nothing is forwarded but for pods, whatever leaves their range is
# masqueraded, and the range is that of the tenants' subnets.
RULES = """
table ip filter {
  chain FORWARD {
    type filter hook forward priority 0; policy drop;
    iifname "cni0" accept
    oifname "cni0" accept
    counter comment "others"
  }
}
table ip nat {
  chain POSTROUTING {
    type nat hook postrouting priority 100;
    ip saddr 10.0.0.0/16 ip daddr != 10.0.0.0/16 counter masquerade
  }
}
"""
POD_PREFIX = "10.0.1"
CNI_VNI = CNI_PORT = 8472


class Cni:
    """A bridge with a pod on each node, joined by a VXLAN of the CNI's own, in the nodes' own namespaces."""

    def __init__(self, nodes: list[Node], directory: Path) -> None:
        self.nodes = nodes
        self.pods: dict[str, Path] = {}
        for number, node in enumerate(nodes, 1):
            pod = directory / f"pod-{node.name}"
            netns.create(pod)
            self.pods[node.name] = pod
            node.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1", "net.ipv4.ip_forward=1")
            node.run("nft", RULES)
            node.run("ip", "link", "add", "cni0", "type", "bridge")
            vxlan = ["id", str(CNI_VNI), "dstport", str(CNI_PORT), "local", node.underlay_ip]
            node.run("ip", "link", "add", "flannel.1", "master", "cni0", "type", "vxlan", *vxlan)
            node.run("ip", "link", "add", "pod", "master", "cni0", "type", "veth", "peer", "eth0", "netns", str(pod))
            for device in ("cni0", "flannel.1", "pod"):
                node.run("ip", "link", "set", device, "up")
            node.run("ip", "address", "add", f"{POD_PREFIX}.{200 + number}/24", "dev", "eth0", path=pod)
            node.run("ip", "link", "set", "eth0", "up", path=pod)
            for other in nodes:
                if other is not node:
                    peer = ["dev", "flannel.1", "dst", other.underlay_ip]
                    node.run("bridge", "fdb", "append", "00:00:00:00:00:00", *peer)

    def pods_meet(self) -> bool:
        first = self.nodes[0]
        target = f"{POD_PREFIX}.202"  # the pod of the second
        said = first.run("ping", "-n", "-c1", "-W1", target, path=self.pods[first.name], check=False)
        return " 0% packet loss" in said

    def dispose(self) -> None:
        for pod in self.pods.values():
            netns.delete(pod)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.dispose()


def own_things(node: Node) -> tuple[str, str]:
    """What the node has of its own: firewall and settings."""
    names = ("net.bridge.bridge-nf-call-iptables", "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter")
    tables = [node.run("nft", "-s", "list", "table", "ip", name) for name in ("filter", "nat")]
    return "".join(tables), node.run("sysctl", *names)


def counted(node: Node) -> list[str]:
    """The rules that tenants' packets would have met."""
    tables = "".join(node.run("nft", "list", "table", "ip", name) for name in ("filter", "nat"))
    return [line.strip() for line in tables.splitlines() if "counter packets" in line]


async def test_a_cni_and_tenants_with_its_addresses_do_not_notice_each_other(world: World) -> None:
    one, two = world.node("one"), world.node("two")
    cni = Cni([one, two], world.namespaces)
    try:
        assert cni.pods_meet()
        before = [own_things(node) for node in (one, two)]

        net = network("blue", CNI_VNI)
        cloud = Cloud([net])
        a = cloud.place(port("a", net, "10.0.1.10", "fa:16:3e:00:00:0a", "open"), one.underlay_ip)
        b = cloud.place(port("b", net, "10.0.1.11", "fa:16:3e:00:00:0b", "open"), one.underlay_ip)
        c = cloud.place(port("c", net, "10.0.1.12", "fa:16:3e:00:00:0c", "open"), two.underlay_ip)
        for node in (one, two):
            assert (await node.dataplane.reconcile(cloud.desired(node.underlay_ip))).ok
        guests = [await one.boot(a.uid, a.mac), await one.boot(b.uid, b.mac), await two.boot(c.uid, c.mac)]
        for guest, each in zip(guests, (a, b, c), strict=True):
            guest.configure(f"{each.fixed_ips[0].ip}/24")

        assert guests[0].pings("10.0.1.11", 3)
        assert guests[0].pings("10.0.1.12", 3)
        assert not guests[0].pings(f"{POD_PREFIX}.202"), "a guest reached a pod"
        assert cni.pods_meet()
        for node in (one, two):
            assert [line for line in counted(node) if "counter packets 0 bytes 0 " not in line] == []
            assert len(counted(node)) == 2
        assert [own_things(node) for node in (one, two)] == before

        for guest in guests:
            guest.pull_the_plug()
        for node in (one, two):
            await node.dataplane.teardown()
        assert [own_things(node) for node in (one, two)] == before
        assert cni.pods_meet()
    finally:
        cni.dispose()
