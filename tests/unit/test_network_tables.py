"""nft tables as values: the commands between two of them, and what they are read from."""

from __future__ import annotations

import pytest

from hostagent.network.nft_table import Chain, Collection, Hook, Table, commands, fingerprint, parse

HOOK = Hook("forward", 0, "drop")


def table(elements: dict[tuple[str, ...], str] | None = None, *rules: str, interval: bool = False) -> Table:
    return Table(
        "inet",
        "t",
        {"s": Collection(("ipv4_addr",), interval=interval, elements=elements or {})},
        {"c": Chain(rules, HOOK)},
    )


def seen(desired: Table) -> Table:
    """A table as it is read back: rules by their comments."""
    chains = {
        name: Chain(tuple(fingerprint(rule) for rule in chain.rules), chain.hook)
        for name, chain in desired.chains.items()
    }
    return Table(desired.family, desired.name, desired.collections, chains)


A, B = ("10.0.0.1",), ("10.0.0.2",)


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        (table({A: ""}, "accept"), table({A: ""}, "accept"), []),
        (table({A: "", B: ""}), table({A: ""}), ["add element inet t s { 10.0.0.2 }"]),
        (table({A: ""}), table({A: "", B: ""}), ["delete element inet t s { 10.0.0.2 }"]),
        (
            table({A: ""}, interval=True),
            table({B: ""}, interval=True),
            ["flush set inet t s", "add element inet t s { 10.0.0.1 }"],
        ),
        (
            table(None, "accept"),
            table(None, "drop"),
            ["flush chain inet t c", f'add rule inet t c accept comment "{fingerprint("accept")}"'],
        ),
        (
            Table("inet", "t"),
            table({A: ""}, "ip saddr @s accept"),
            ["flush chain inet t c", "delete set inet t s", "delete chain inet t c"],
        ),
    ],
)
def test_commands(desired: Table, observed: Table, expected: list[str]) -> None:
    assert commands(desired, seen(observed)) == expected


def test_a_new_table_is_made_in_the_order_that_nft_needs() -> None:
    desired = Table(
        "inet",
        "t",
        {"v": Collection(("mark",), "verdict", elements={("5",): "goto c"})},
        {"c": Chain(("accept",)), "hooked": Chain(("meta mark vmap @v",), HOOK)},
    )
    assert [line.split(" comment")[0] for line in commands(desired, None)] == [
        "add table inet t",
        "add chain inet t c",
        "add chain inet t hooked { type filter hook forward priority 0; policy drop; }",
        "add map inet t v { type mark : verdict; }",
        "add element inet t v { 5 : goto c }",
        "add rule inet t c accept",
        "add rule inet t hooked meta mark vmap @v",
    ]


def test_another_hook_or_type_needs_the_table_anew() -> None:
    desired = table({A: ""}, "accept")
    for observed in (
        Table("inet", "t", desired.collections, {"c": Chain(("accept",), Hook("forward", 5, "drop"))}),
        Table("inet", "t", {"s": Collection(("ipv6_addr",))}, desired.chains),
    ):
        found = commands(desired, seen(observed))
        assert found[:2] == ["delete table inet t", "add table inet t"]
        assert "add element inet t s { 10.0.0.1 }" in found


def test_devices_are_quoted_and_changed_values_replaced() -> None:
    old = Table("bridge", "t", {"m": Collection(("ifname",), "mark", elements={("tap1",): "1"})}, {})
    new = Table("bridge", "t", {"m": Collection(("ifname",), "mark", elements={("tap1",): "2"})}, {})
    assert commands(new, old) == [
        'delete element bridge t m { "tap1" }',
        'add element bridge t m { "tap1" : 2 }',
    ]


def test_parse_reads_what_nft_lists() -> None:
    listing = {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "bridge", "name": "t", "handle": 1}},
            {"table": {"family": "inet", "name": "other", "handle": 2}},
            {
                "set": {
                    "family": "bridge",
                    "name": "src",
                    "table": "t",
                    "type": ["ifname", "ether_addr", "ipv4_addr"],
                    "flags": ["interval"],
                    "elem": [
                        {"concat": ["tap0", "fa:16:3e:00:00:01", "10.0.0.5"]},
                        {"concat": ["tap0", "fa:16:3e:00:00:01", {"prefix": {"addr": "10.0.0.64", "len": 26}}]},
                    ],
                }
            },
            {
                "set": {
                    "family": "bridge",
                    "name": "nd",
                    "table": "t",
                    "type": ["ifname", "integer"],
                    "elem": [
                        {"concat": ["tap0", "0x0064000000000000"]},
                        {"concat": ["tap0", {"range": ["0xa0", "0xaf"]}]},
                    ],
                }
            },
            {
                "map": {
                    "family": "bridge",
                    "name": "roles",
                    "table": "t",
                    "type": "ifname",
                    "map": "verdict",
                    "elem": [["tap0", {"goto": {"target": "x"}}], ["tap1", {"drop": None}]],
                }
            },
            {
                "map": {
                    "family": "bridge",
                    "name": "z",
                    "table": "t",
                    "type": "ifname",
                    "map": "integer",
                    "elem": [["b", 5]],
                }
            },
            {"chain": {"family": "bridge", "table": "t", "name": "x", "handle": 1}},
            {
                "chain": {
                    "family": "bridge",
                    "table": "t",
                    "name": "c",
                    "handle": 2,
                    "type": "filter",
                    "hook": "forward",
                    "prio": 0,
                    "policy": "drop",
                }
            },
            {"rule": {"family": "bridge", "table": "t", "chain": "c", "handle": 3, "comment": "abc", "expr": []}},
            {"rule": {"family": "bridge", "table": "t", "chain": "c", "handle": 4, "expr": []}},
        ]
    }
    found = parse(listing, [("bridge", "t")])
    assert set(found) == {("bridge", "t")}
    read = found["bridge", "t"]
    assert read.chains == {"x": Chain(), "c": Chain(("abc", ""), HOOK)}
    assert set(read.elements("src")) == {
        ("tap0", "fa:16:3e:00:00:01", "10.0.0.5"),
        ("tap0", "fa:16:3e:00:00:01", "10.0.0.64/26"),
    }
    assert set(read.elements("nd")) == {("tap0", "0x64000000000000"), ("tap0", "0xa0-0xaf")}
    assert read.elements("roles") == {("tap0",): "goto x", ("tap1",): "drop"}
    assert read.collections["z"].value == "ct_zone"
