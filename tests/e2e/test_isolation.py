"""What hostile guests try, counted on the receiving side. Every try has a control: a legitimate frame that arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.e2e import frames as f
from tests.e2e import objects as o
from tests.e2e.cloud import Cloud, Object

Name = Callable[[], str]

NOBODY = "fa:16:3e:de:ad:01"
LISTEN_SECONDS = 8


def nic(instance: Object, network: str) -> tuple[str, str]:
    """MAC and address of the instance on a network."""
    entry = next(a for a in instance["status"]["addresses"] if a["network"] == network)
    return entry["mac"], entry["ip"]


class Guest:
    """An instance reached by ssh on its second interface; the first is the one under test."""

    def __init__(self, cloud: Cloud, instance: Object) -> None:
        self._cloud = cloud
        self.mac, self.ip = nic(instance, "internal")
        self.public = nic(instance, "public")[1]
        cloud.until_ssh(self.public)

    def run(self, command: str, *, check: bool = True, seconds: float = 60) -> str:
        return self._cloud.ssh(self.public, command, check=check, seconds=seconds)

    def send(self, frame: bytes) -> None:
        self.run(f"rawsend eth0 {frame.hex()} 3 20")

    def listening(self, seconds: int = LISTEN_SECONDS) -> Callable[[], str]:
        """Starts to record what arrives on eth0; call the result for the record."""
        self.run(
            f"rm -f /tmp/frames; (rawrecv eth0 {seconds} >/tmp/frames 2>&1 &);"
            " until grep -q listening /tmp/frames; do :; done"
        )
        return lambda: self.run("until grep -q '^frames' /tmp/frames; do sleep 1; done; cat /tmp/frames", seconds=60)


@pytest.fixture
def pair(cloud: Cloud, tenant: Name) -> tuple[Guest, Guest]:
    """Two guests of one tenant on two nodes; nothing but anti-spoofing keeps frames from one to the other."""
    name = tenant()
    cloud.apply(*o.world_of(name, cloud.public_key))
    networks = [o.internal_nic(), o.public_nic()]
    for instance in ("attacker", "victim"):
        cloud.apply(o.instance(name, instance, networks=networks, keyPairRefs=[{"name": "key"}]))
    ready = [cloud.until_ready("instance", i, name) for i in ("attacker", "victim")]
    assert ready[0]["status"]["nodeName"] != ready[1]["status"]["nodeName"]
    attacker, victim = (Guest(cloud, instance) for instance in ready)
    return attacker, victim


def test_forged_frames_do_not_arrive(pair: tuple[Guest, Guest]) -> None:
    attacker, victim = pair
    assert "3 packets received" in attacker.run(f"ping -c 3 -W 5 {victim.ip}")

    def datagram(
        mark: str, *, mac: str = attacker.mac, ip: str = attacker.ip, ports: tuple[int, int] = (4000, 4001)
    ) -> bytes:
        packet = f.ipv4(ip, victim.ip, 17, f.udp(*ports, mark.encode()))
        return f.ethernet(mac, victim.mac, 0x0800, packet)

    forged = {
        "MAC": datagram("forged-mac", mac=NOBODY),
        "victim's MAC": datagram("stolen-mac", mac=victim.mac),
        "IP": datagram("forged-ip", ip="10.0.1.77"),
        "another network's IP": datagram("martian-ip", ip="192.0.2.1"),
        "DHCP answer": datagram("rogue-dhcp", ports=(67, 68)),
        "VLAN tag": f.ethernet(attacker.mac, victim.mac, 0x8100, b"\0\x05\x08\0" + datagram("vlan-tag")[14:]),
        "ARP reply": f.ethernet(
            attacker.mac, victim.mac, 0x0806, f.arp_reply(attacker.mac, "10.0.1.1", victim.mac, victim.ip)
        ),
        "ARP sender MAC": f.ethernet(
            attacker.mac, victim.mac, 0x0806, f.arp_reply(NOBODY, attacker.ip, victim.mac, victim.ip)
        ),
        "router advertisement": f.ethernet(
            attacker.mac,
            "33:33:00:00:00:01",
            0x86DD,
            bytes.fromhex("6000000000103aff")
            + bytes.fromhex("fe80")
            + bytes(13)
            + b"\x66"
            + bytes.fromhex("ff02")
            + bytes(13)
            + b"\x01"
            + bytes.fromhex("8600000040000708")
            + bytes(8),
        ),
    }
    record = victim.listening(20)
    attacker.send(datagram("control-1"))
    for frame in forged.values():
        attacker.send(frame)
    attacker.send(datagram("control-2"))
    seen = record()
    for control in ("control-1", "control-2"):
        assert control.encode().hex() in seen, "the control frame must arrive, or the test proves nothing"
    passed = [what for what, frame in forged.items() if frame[12:].hex() in seen or frame.hex() in seen]
    assert not passed, f"got through: {passed}"
    marks = [
        m
        for m in ("forged-mac", "stolen-mac", "forged-ip", "martian-ip", "rogue-dhcp", "vlan-tag")
        if m.encode().hex() in seen
    ]
    assert not marks, f"got through: {marks}"


def test_a_guest_that_takes_another_address_is_cut_off(pair: tuple[Guest, Guest]) -> None:
    attacker, victim = pair
    assert "2 packets received" in attacker.run(f"ping -c 2 -W 5 {victim.ip}")
    attacker.run("ip addr add 10.0.1.77/24 dev eth0")
    stolen = attacker.run(f"ping -c 2 -W 2 -I 10.0.1.77 {victim.ip}", check=False)
    assert " 0 packets received" in stolen
    assert "2 packets received" in attacker.run(f"ping -c 2 -W 5 -I {attacker.ip} {victim.ip}")


def test_without_a_rule_nothing_comes_in_and_answers_come_back(cloud: Cloud, tenant: Name) -> None:
    name = tenant()
    closed = {
        **o.open_group(name, "closed"),
        "spec": {"rules": [{"name": "out", "direction": "Egress", "etherType": "IPv4"}]},
    }
    cloud.apply(*o.world_of(name, cloud.public_key), closed)
    for instance, group in (("one", "open"), ("two", "closed")):
        networks = [o.internal_nic(group), o.public_nic()]
        cloud.apply(o.instance(name, instance, networks=networks, keyPairRefs=[{"name": "key"}]))
    one, two = (Guest(cloud, cloud.until_ready("instance", i, name)) for i in ("one", "two"))
    assert " 0 packets received" in one.run(f"ping -c 2 -W 2 {two.ip}", check=False)
    assert "2 packets received" in two.run(f"ping -c 2 -W 5 {one.ip}"), "answers to what went out come back"
    # A rule added: it opens without a restart. The same rule removed: it closes again.
    opened = {**closed, "spec": o.open_group(name)["spec"]}
    cloud.apply(opened)
    _until_ping(one, two.ip, answered=True)
    cloud.apply(closed)
    _until_ping(one, two.ip, answered=False)


def _until_ping(guest: Guest, address: str, *, answered: bool) -> None:
    wanted = "1 packets received" if answered else " 0 packets received"
    out = guest.run(
        f"for i in $(seq 30); do ping -c 1 -W 1 {address} | grep -q '{wanted}' && echo DONE && break; sleep 0.2; done",
        check=False,
    )
    assert "DONE" in out, f"{address}: never {wanted}"


def test_two_tenants_with_the_same_addresses_do_not_meet(cloud: Cloud, tenant: Name) -> None:
    names = [tenant(), tenant()]
    guests: dict[tuple[str, str], Guest] = {}
    for name in names:
        cloud.apply(*o.world_of(name, cloud.public_key))
        for instance, address in (("one", "10.0.1.51"), ("two", "10.0.1.52")):
            networks = [o.internal_nic(fixedIP=address), o.public_nic()]
            cloud.apply(o.instance(name, instance, networks=networks, keyPairRefs=[{"name": "key"}]))
    for name in names:
        for instance in ("one", "two"):
            guests[name, instance] = Guest(cloud, cloud.until_ready("instance", instance, name))
            assert guests[name, instance].ip == {"one": "10.0.1.51", "two": "10.0.1.52"}[instance]
    first, second = names
    record = guests[second, "two"].listening(10)
    pinged = guests[first, "one"].run("ping -c 3 -W 5 10.0.1.52")
    assert "3 packets received" in pinged
    # Both tenants at once, each answered by its own.
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda g=guests[name, "one"]: results.append(g.run("ping -c 3 -W 5 10.0.1.52")))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([r for r in results if "3 packets received" in r]) == 2
    sources = {line.split()[2][12:24] for line in record().splitlines() if line.startswith("frame ")}
    own = {guests[second, i].mac.replace(":", "") for i in ("one", "two")}
    foreign = {guests[first, i].mac.replace(":", "") for i in ("one", "two")}
    assert own & sources, "the second tenant's own frames arrive"
    assert not foreign & sources
