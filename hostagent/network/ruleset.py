"""The fixed chains of the data plane's two nft tables in the namespace `kumulus`, and the sets that they look
things up in.

A frame meets these hooks, in this order:

1. bridge prerouting: who sent it (`roles`, by ingress device; unknown: dropped), forged addresses, requests for
   metadata and DHCP directed to this node's server. Leaves a mark: the port's index, or one of the marks below.
2. inet prerouting (through br_netfilter): conntrack in the network's zone, then the sender's egress rules.
3. bridge forward: replaces the mark by the receiver's.
4. inet forward: the receiver's ingress rules.

All chains that a hook calls end in a drop. What differs between ports stands in sets and maps alone, so that their
number costs nothing per packet.
"""

from __future__ import annotations

from hostagent.network.nft_table import ND_TARGET, Chain, Collection, Hook

TABLE = "kumulus"

TRUSTED, UPLINK, OPEN = 0xFFFF, 0xFFFE, 0xFFFD
"""Marks: checked at the bridge already; a VXLAN device or provider NIC; a port without port security."""
MAX_INDEX = 0xFFF0

METADATA_ADDRESS = "169.254.169.254"
METADATA_RANGE = "240.65.0.0/16"
"""Local to each child namespace, one address per port. Of class E (RFC 1112, 4), which no tenant's subnet may use."""


def metadata_address(index: int) -> str:
    return f"240.65.{index >> 8}.{index & 0xFF}"


def metadata_index(address: str) -> int:
    high, low = address.split(".")[2:]
    return int(high) << 8 | int(low)


BRIDGE_COLLECTIONS = {
    "roles": Collection(("ifname",), "verdict"),
    "marks": Collection(("ifname",), "mark"),
    "metadata": Collection(("ifname",), "ipv4_addr"),
    "zones": Collection(("ifname",), "mark"),
    "infra": Collection(("ifname",)),
    "uplinks": Collection(("ifname",)),
    # Uplinks of the networks whose DHCP server is this node.
    "served": Collection(("ifname",)),
    "servers": Collection(("ifname",), "ether_addr"),
    "dhcp": Collection(("ifname",), "ether_addr"),
    "forged": Collection(("ifname", "ether_addr")),
    "macs": Collection(("ifname", "ether_addr")),
    "src4": Collection(("ifname", "ether_addr", "ipv4_addr"), interval=True),
    "src6": Collection(("ifname", "ether_addr", "ipv6_addr"), interval=True),
    "nd6": Collection(("ifname", "ether_addr", "nd_target"), interval=True),
    # Connections that a change of rules ended and that are still to be removed from conntrack: (zone, address).
    "stale4": Collection(("mark", "ipv4_addr"), interval=True),
    "stale6": Collection(("mark", "ipv6_addr"), interval=True),
}

_ND = "{ 133, 135, 136 }"
_MLD = "{ 130, 131, 132, 143 }"

BRIDGE_CHAINS = {
    "from_infra": Chain(
        (
            "ether type != { arp, ip, ip6 } drop",
            f"meta mark set {TRUSTED:#x}",
            "accept",
        )
    ),
    "from_uplink": Chain(
        (
            "ether type != { arp, ip, ip6 } drop",
            f"ip daddr {{ {METADATA_RANGE}, {METADATA_ADDRESS} }} drop",
            f"ip saddr {METADATA_RANGE} drop",
            "iifname @served udp sport 67 udp dport 68 drop",
            f"meta mark set {UPLINK:#x}",
            "accept",
        )
    ),
    "from_open": Chain(
        (
            f"ip daddr {METADATA_RANGE} drop",
            f"ip saddr {METADATA_RANGE} drop",
            "goto services",
        )
    ),
    "from_guarded": Chain(
        (
            "iifname . ether saddr != @macs drop",
            "ether type vmap { arp : goto guard_arp, ip : goto guard_ip4, ip6 : goto guard_ip6 }",
            "drop",
        )
    ),
    "guard_arp": Chain(
        (
            "arp htype != 1 drop",
            "arp ptype != 0x0800 drop",
            "arp operation != { 1, 2 } drop",
            "iifname . arp saddr ether . arp saddr ip @src4 goto services",
            # An address conflict probe (RFC 5227), for addresses of its own alone.
            "arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @src4 goto services",
            "drop",
        )
    ),
    "guard_ip4": Chain(
        (
            f"ip daddr {METADATA_RANGE} drop",
            f"ip saddr {METADATA_RANGE} drop",
            "iifname . ether saddr . ip saddr @src4 goto services",
            "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 goto services",
            "drop",
        )
    ),
    "guard_ip6": Chain(
        (
            # What follows a fragment header must be the upper layer (RFC 7112), so that its type cannot hide.
            "frag nexthdr { 0, 43, 44, 60, 135, 139, 140 } drop",
            # Router advertisement, redirect, router renumbering.
            "icmpv6 type { 134, 137, 138 } drop",
            "icmpv6 type 136 goto guard_advert",
            # Duplicate address detection (RFC 4862, 5.4), for addresses of its own alone.
            f"icmpv6 type 135 ip6 saddr :: iifname . ether saddr . {ND_TARGET} @nd6 goto services",
            "iifname . ether saddr . ip6 saddr @src6 goto services",
            "ip6 saddr :: icmpv6 type { 131, 132, 133, 143 } goto services",
            "drop",
        )
    ),
    "guard_advert": Chain(
        (
            "iifname . ether saddr . ip6 saddr != @src6 drop",
            f"iifname . ether saddr . {ND_TARGET} @nd6 goto services",
            "drop",
        )
    ),
    "services": Chain(
        (
            "meta mark set iifname map @marks",
            # Broadcast requests go to this node's server alone.
            "ether daddr ff:ff:ff:ff:ff:ff udp sport 68 udp dport 67 ether daddr set iifname map @dhcp",
            # The server is reached whatever route the guest has; the address tells it which tap the request came in on.
            f"ip daddr {METADATA_ADDRESS} tcp dport 80 ether daddr set iifname map @servers"
            " ip daddr set iifname map @metadata",
            "accept",
        )
    ),
    "to_infra": Chain(
        (
            f"meta mark set {TRUSTED:#x}",
            "ether type arp accept",
            "udp sport 68 udp dport 67 accept",
            f"ip daddr {METADATA_RANGE} tcp dport 80 accept",
            "icmp type echo-request accept",
            "drop",
        )
    ),
    "of_infra": Chain(
        (
            f"meta mark set {TRUSTED:#x}",
            "ether type arp accept",
            "udp sport 67 udp dport 68 accept",
            f"ip saddr {METADATA_RANGE} tcp sport 80 ip saddr set {METADATA_ADDRESS} accept",
            "icmp type { echo-reply, destination-unreachable, time-exceeded } accept",
            "drop",
        )
    ),
    "prerouting": Chain(
        (
            "meta mark set 0",
            "iifname . ether saddr @forged drop",
            "iifname vmap @roles",
        ),
        Hook("prerouting", -300, "drop"),
    ),
    "forward": Chain(
        (
            "meta mark set 0",
            # The DHCP server has the same address on every node: its frames stay on this one.
            "iifname @infra oifname @uplinks drop",
            "iifname @uplinks oifname @infra drop",
            "iifname @infra goto of_infra",
            "oifname @infra goto to_infra",
            "meta mark set oifname map @marks",
            # Only these three pass a guarded port's rules; between open ports and uplinks anything goes.
            "ether type { arp, ip, ip6 } meta mark != 0 accept",
            f"meta mark {{ {UPLINK:#x}, {OPEN:#x} }} accept",
        ),
        Hook("forward", -250, "drop"),
    ),
    # Nothing is for the node itself.
    "input": Chain((), Hook("input", 0, "drop")),
    "output": Chain((), Hook("output", 0, "drop")),
}

INET_COLLECTIONS = {
    "zones": Collection(("ifname",), "ct_zone"),
    "egress": Collection(("mark",), "verdict"),
    "ingress": Collection(("mark",), "verdict"),
}

_BASE_MARKS = f"{{ {TRUSTED:#x} : accept, {UPLINK:#x} : accept, {OPEN:#x} : accept, 0 : drop }}"

INET_CHAINS = {
    # Before reassembly (-400), so that fragments of two networks never meet.
    "track": Chain(
        (
            f"meta mark {TRUSTED:#x} notrack accept",
            "meta pkttype { broadcast, multicast } notrack accept",
            f"ip daddr {METADATA_RANGE} notrack accept",
            "udp sport 68 udp dport 67 notrack accept",
            f"icmpv6 type {_ND} notrack accept",
            f"icmpv6 type {_MLD} notrack accept",
            "ct zone set iifname map @zones",
        ),
        Hook("prerouting", -450, "accept"),
    ),
    "guest_egress": Chain(
        (
            f"meta mark vmap {_BASE_MARKS}",
            # Again, now that datagrams are whole: no DHCP server and no router among guests.
            "udp sport { 67, 547 } drop",
            "icmpv6 type { 134, 137, 138 } drop",
            "udp sport 68 udp dport 67 accept",
            f"ip daddr {METADATA_RANGE} accept",
            f"icmpv6 type {_ND} accept",
            f"icmpv6 type {_MLD} accept",
            "ct state established,related accept",
            "ct state invalid drop",
            "meta mark vmap @egress",
        ),
        Hook("prerouting", 0, "drop"),
    ),
    "guest_ingress": Chain(
        (
            f"meta mark vmap {_BASE_MARKS}",
            "udp sport 67 udp dport 68 accept",
            "icmpv6 type { 134, 135, 136 } accept",
            f"icmpv6 type {_MLD} accept",
            "ct state established,related accept",
            "ct state invalid drop",
            "meta mark vmap @ingress",
        ),
        Hook("forward", 0, "drop"),
    ),
    "input": Chain((), Hook("input", 0, "drop")),
    "output": Chain((), Hook("output", 0, "drop")),
}
