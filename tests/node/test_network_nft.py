"""Whatever may be asked for, nft takes it, and reads back what was written: on the real kernel, from state to state."""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_desired import network, port, uid
from network_world import within

from hostagent.network import names, netns
from hostagent.network.allocate import allocate, observed_numbers
from hostagent.network.check import checked
from hostagent.network.firewall import Firewall
from hostagent.network.groups import PROTOCOLS
from hostagent.network.losses import pending, stale_connections, with_pending
from hostagent.network.model import AddressPair, DesiredNode, FixedIP, Network, Port, Rule, SecurityGroup
from hostagent.network.nft_table import commands
from hostagent.network.tables import build

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.timeout(120),
]

TABLES = [("bridge", "kumulus"), ("inet", "kumulus")]
GROUPS = [uid("one"), uid("two"), "Z" * 64]
ADDRESSES = ["10.0.1.10", "0.0.0.0", "255.255.255.255", "169.254.169.254", "::", "::1", "fe80::1", "::ffff:1.2.3.4"]  # noqa: S104 - nothing is bound
WIDE = ["0.0.0.0/0", "::/0", "128.0.0.0/1", "::/1", "::/64", "::/65", "ffff::/16", "fe80::/10", "::ffff:0:0/96"]
NUMBERS = [None, 0, 1, 8, 255, 256, 65535, 65536, -1]


@pytest.fixture
def firewall(tmp_path: Path) -> Iterator[Firewall]:
    path = tmp_path / "netns/kumulus"
    netns.create(path)
    yield within(path, Firewall)
    netns.delete(path)
    netns.release_directory(path.parent)


class Dice(random.Random):
    """What a tenant may write, and some of what only a broken operator would."""

    def prefix(self) -> str:
        if self.random() < 0.3:
            return self.choice([*ADDRESSES, *WIDE])
        if self.random() < 0.5:
            return str(ipaddress.ip_network((self.getrandbits(32), self.randint(0, 32)), strict=False))
        bits = self.choice([self.getrandbits(128), self.getrandbits(16), (1 << 128) - 1 - self.getrandbits(10)])
        return str(ipaddress.ip_network((bits, self.randint(0, 128)), strict=False))

    def rule(self) -> Rule:
        return Rule(
            direction=self.choice(["Ingress", "Egress", "Sideways"]),
            ether_type=self.choice(["IPv4", "IPv6", None]),
            protocol=self.choice([None, "bogus", *PROTOCOLS]),
            port_range_min=self.choice(NUMBERS),
            port_range_max=self.choice(NUMBERS),
            remote_ip_prefix=self.choice([None, "nonsense", self.prefix()]),
            remote_group=self.choice([None, None, *GROUPS, "missing", "-"]),
        )

    def group(self, group_uid: str) -> SecurityGroup:
        rules = tuple(self.rule() for _ in range(self.randint(0, 8)))
        return SecurityGroup(group_uid, rules, tuple(self.prefix() for _ in range(self.randint(0, 8))))

    def port(self, number: int, networks: list[Network]) -> Port:
        macs = [None, "fa:16:3e:00:00:00", "fa:16:3e:00:00:0a"]
        return port(
            f"port-{number}",
            self.choice(networks),
            "10.0.1.10",
            f"fa:16:3e:00:00:{number:02x}",
            fixed_ips=tuple(FixedIP("s", self.choice(ADDRESSES)) for _ in range(self.randint(0, 3))),
            allowed_address_pairs=tuple(
                AddressPair(self.prefix(), self.choice(macs)) for _ in range(self.randint(0, 5))
            ),
            port_security=self.random() < 0.8,
            security_groups=tuple(self.sample(GROUPS, self.randint(0, 3))),
        )

    def node(self) -> DesiredNode:
        networks = [network("blue", 1), network("red", 2)]
        return DesiredNode(
            "172.30.0.1",
            networks=tuple(networks),
            ports=tuple(self.port(number, networks) for number in self.sample(range(7), 5)),
            groups=tuple(self.group(each) for each in GROUPS),
        )


@pytest.mark.parametrize("seed", [5, random.randrange(1 << 30)], ids=["known", "new"])
def test_nft_takes_whatever_passes_the_checks_and_reads_it_back(firewall: Firewall, seed: int) -> None:
    dice = Dice(seed)
    for turn in range(50):
        desired, _ = checked(dice.node())
        found = firewall.tables(TABLES)
        old_bridge, old_inet = found.get(TABLES[0]), found.get(TABLES[1])
        taps, bridges = (
            [names.tap(each.uid) for each in desired.ports],
            [names.bridge(each.uid) for each in desired.networks],
        )
        tables = build(desired, allocate(taps, bridges, observed_numbers(old_bridge, old_inet)))
        # Connections that are to end are never ended here, as of an agent that dies each time: they add up.
        stale = pending(old_bridge) | stale_connections(old_bridge, old_inet, tables.bridge, tables.inet)
        bridge = with_pending(tables.bridge, stale)
        firewall.commit([*commands(tables.inet, old_inet), *commands(bridge, old_bridge)])
        now = firewall.tables(TABLES)
        left = [*commands(bridge, now[TABLES[0]]), *commands(tables.inet, now[TABLES[1]])]
        assert left == [], (seed, turn)
