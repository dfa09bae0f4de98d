"""The table in the host's namespace that lets only known tunnel end points in, and only on the underlay's NIC. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hostagent.network.addresses import split
from hostagent.network.nft_table import Chain, Collection, Hook, Table


def underlay_table(name: str, port: int, nics: Iterable[str], vteps: Iterable[str]) -> Table:
    """The host's own rules still apply: an accept here does not overrule a drop elsewhere."""
    by_version = split(vteps)
    return Table(
        "inet",
        name,
        {
            "nics": Collection(("ifname",), elements={(nic,): "" for nic in nics}),
            "vteps4": Collection(("ipv4_addr",), elements={(each,): "" for each in by_version[4]}),
            "vteps6": Collection(("ipv6_addr",), elements={(each,): "" for each in by_version[6]}),
        },
        {
            "vxlan": Chain(("iifname @nics ip saddr @vteps4 accept", "iifname @nics ip6 saddr @vteps6 accept", "drop")),
            "input": Chain((f"udp dport {port} goto vxlan",), Hook("input", -150, "accept")),
        },
    )
