"""Rules of security groups as nft expressions."""

from __future__ import annotations

import pytest

from hostagent.network.groups import expression
from hostagent.network.model import Rule

GROUP = "3f10dbe8-4cbd-5e31-9b1f-af0cb9dda9cf"
IN4, IN6 = "meta nfproto ipv4", "meta nfproto ipv6"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule("Ingress", "IPv4"), f"{IN4} accept"),
        (Rule("Egress", "IPv6"), f"{IN6} accept"),
        (Rule("Ingress", "IPv4", "tcp", 22, 22), f"{IN4} meta l4proto 6 th dport 22 accept"),
        (Rule("Ingress", "IPv4", "udp", 10, 20), f"{IN4} meta l4proto 17 th dport 10-20 accept"),
        (Rule("Ingress", "IPv4", "tcp", 22), f"{IN4} meta l4proto 6 th dport 22-65535 accept"),
        (Rule("Ingress", "IPv4", "vrrp"), f"{IN4} meta l4proto 112 accept"),
        (Rule("Ingress", "IPv4", "icmp", 8, 0), f"{IN4} meta l4proto 1 @th,0,8 8 @th,8,8 0 accept"),
        (Rule("Ingress", "IPv6", "icmp", 128), f"{IN6} meta l4proto 58 @th,0,8 128 accept"),
        (Rule("Ingress", "IPv4", remote_ip_prefix="10.0.0.0/8"), f"{IN4} ip saddr 10.0.0.0/8 accept"),
        (Rule("Egress", "IPv4", remote_ip_prefix="10.0.0.0/8"), f"{IN4} ip daddr 10.0.0.0/8 accept"),
        (Rule("Ingress", "IPv4", remote_ip_prefix="0.0.0.0/0"), f"{IN4} accept"),
        (Rule("Egress", "IPv6", remote_ip_prefix="fd00::/8"), f"{IN6} ip6 daddr fd00::/8 accept"),
        (
            Rule("Ingress", "IPv6", remote_group=GROUP),
            f"{IN6} ip6 saddr @m6-3f10dbe84cbd5e319b1faf0cb9dda9cf accept",
        ),
    ],
)
def test_expression(rule: Rule, text: str) -> None:
    assert expression(rule) == text


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule("Sideways", "IPv4"), "Sideways"),
        (Rule("Ingress", None), "EtherType"),
        (Rule("Ingress", "IPv4", "teleport"), "teleport"),
        (Rule("Ingress", "IPv4", "tcp", 2, 1), "upside down"),
        (Rule("Ingress", "IPv4", "tcp", 0, 70000), "70000"),
        (Rule("Ingress", "IPv4", "icmp", 300), "300"),
        (Rule("Ingress", "IPv4", "icmp", None, 0), "needs a type"),
        (Rule("Ingress", "IPv4", "icmpv6"), "not an IPv4 protocol"),
        (Rule("Ingress", "IPv4", "gre", 1, 1), "has no ports"),
        (Rule("Ingress", "IPv4", None, 1, 1), "need a protocol"),
        (Rule("Ingress", "IPv4", remote_ip_prefix="fd00::/8"), "not an IPv4 prefix"),
        (Rule("Ingress", "IPv4", remote_ip_prefix="10.0.0.0/8 accept"), "does not appear"),
        (Rule("Ingress", "IPv4", remote_ip_prefix="10.0.0.0/8", remote_group=GROUP), "not both"),
    ],
)
def test_what_cannot_be_expressed_is_refused(rule: Rule, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        expression(rule)
