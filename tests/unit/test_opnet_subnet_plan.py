"""What a subnet comes to, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from crds.network import Network, Subnet
from operators.network.ranges import Range, address, parse
from operators.network.reasons import Reason
from operators.network.subnet_plan import Layout, layout_of, network_problem
from operators.verdict import State, Verdict


def subnet(cidr: str | None, name: str = "s", *, age: int = 1, accepted: bool = False, **spec: Any) -> Subnet:
    where = {"cidr": cidr} if cidr else {"subnetPoolRef": {"name": "pool"}}
    return Subnet.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": f"uid-{name}",
                "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z",
            },
            "spec": {"networkRef": {"name": "internal"}, **where, **spec},
            "status": {"cidr": cidr} if accepted else {},
        }
    )


def network(mtu: int = 1450) -> Network:
    return Network.model_validate(
        {"metadata": {"name": "internal", "namespace": "acme"}, "status": {"type": "VXLAN", "mtu": mtu}}
    )


def pool(start: str, end: str) -> dict[str, str]:
    return {"start": start, "end": end}


def span(layout: Layout | Verdict) -> list[str]:
    assert isinstance(layout, Layout)
    version = layout.cidr.version
    return [f"{address(p.first, version)}-{address(p.last, version)}" for p in layout.pools]


@pytest.mark.parametrize(
    ("subject", "gateway", "pools"),
    [
        (subnet("10.0.1.0/24"), "10.0.1.1", ["10.0.1.2-10.0.1.254"]),
        (
            subnet("10.0.1.0/24", gateway={"mode": "Static", "ip": "10.0.1.100"}),
            "10.0.1.100",
            ["10.0.1.1-10.0.1.99", "10.0.1.101-10.0.1.254"],
        ),
        (subnet("10.0.1.0/24", gateway={"mode": "None"}), None, ["10.0.1.1-10.0.1.254"]),
        (
            subnet("10.0.1.0/24", allocationPools=[pool("10.0.1.50", "10.0.1.60"), pool("10.0.1.10", "10.0.1.20")]),
            "10.0.1.1",
            ["10.0.1.10-10.0.1.20", "10.0.1.50-10.0.1.60"],
        ),
        (subnet("fd00::/64"), "fd00::1", ["fd00::2-fd00::ffff:ffff:ffff:ffff"]),
    ],
)
def test_gateway_and_pools(subject: Subnet, gateway: str | None, pools: list[str]) -> None:
    layout = layout_of(subject, [], network())
    assert span(layout) == pools
    assert isinstance(layout, Layout)
    assert layout.gateway == (parse(gateway) if gateway else None)


@pytest.mark.parametrize(
    ("subject", "reason", "words"),
    [
        (subnet(None), Reason.SUBNET_POOL_NOT_SUPPORTED, "cidr"),
        (
            subnet("10.0.1.0/24", gateway={"mode": "Static", "ip": "10.0.1.255"}),
            Reason.GATEWAY_INVALID,
            "10.0.1.1-10.0.1.254",
        ),
        (
            subnet("10.0.1.0/24", gateway={"mode": "Static", "ip": "10.9.9.9"}),
            Reason.GATEWAY_INVALID,
            "10.9.9.9",
        ),
        (subnet("fd00::/64", allocationPools=[pool("fd00::9", "fd00::5")]), Reason.POOL_INVALID, "behind"),
        (
            subnet("10.0.1.0/24", allocationPools=[pool("10.0.1.0", "10.0.1.9")]),
            Reason.POOL_INVALID,
            "10.0.1.0-10.0.1.9",
        ),
        (subnet("10.0.1.0/24", allocationPools=[pool("10.0.1.1", "10.0.1.9")]), Reason.GATEWAY_IN_POOL, "10.0.1.1"),
        (
            subnet("10.0.1.0/24", allocationPools=[pool("10.0.1.10", "10.0.1.20"), pool("10.0.1.20", "10.0.1.30")]),
            Reason.POOLS_OVERLAP,
            "10.0.1.20-10.0.1.30",
        ),
    ],
)
def test_what_is_wrong_is_told(subject: Subnet, reason: Reason, words: str) -> None:
    verdict = layout_of(subject, [], network())
    assert isinstance(verdict, Verdict)
    assert (verdict.state, verdict.reason) == (State.STALLED, reason)
    assert words in verdict.message


def test_ipv6_needs_a_large_enough_mtu() -> None:
    verdict = layout_of(subnet("fd00::/64"), [], network(mtu=1200))
    assert isinstance(verdict, Verdict)
    assert verdict.reason == Reason.MTU_TOO_SMALL
    assert isinstance(layout_of(subnet("10.0.0.0/24"), [], network(mtu=1200)), Layout)


def test_of_two_that_overlap_the_older_stays() -> None:
    first, second = subnet("10.0.0.0/16", "a", age=1), subnet("10.0.1.0/24", "b", age=2)
    assert isinstance(layout_of(first, [second], network()), Layout)
    verdict = layout_of(second, [first], network())
    assert isinstance(verdict, Verdict)
    assert verdict.reason == Reason.OVERLAP
    assert "Subnet a (10.0.0.0/16)" in verdict.message


def test_an_accepted_subnet_is_not_driven_out_by_an_older_one() -> None:
    younger = subnet("10.0.1.0/24", "b", age=2, accepted=True)
    older = subnet("10.0.0.0/16", "a", age=1)
    assert isinstance(layout_of(younger, [older], network()), Layout)
    assert isinstance(layout_of(older, [younger], network()), Verdict)


def test_neighbours_do_not_overlap() -> None:
    assert isinstance(layout_of(subnet("10.0.1.0/24"), [subnet("10.0.0.0/24", "a", accepted=True)], network()), Layout)


def test_a_subnet_waits_for_its_network() -> None:
    missing = network_problem(None, "internal", "acme")
    assert missing is not None
    assert (missing.state, missing.reason) == (State.WAITING, Reason.NETWORK_NOT_FOUND)
    pending = network_problem(Network.model_validate({"metadata": {"name": "internal"}}), "internal", "acme")
    assert pending is not None
    assert pending.reason == Reason.NETWORK_NOT_READY
    assert network_problem(network(), "internal", "acme") is None


def test_ranges_compare() -> None:
    assert Range(1, 5).overlaps(Range(5, 9))
    assert not Range(1, 4).overlaps(Range(5, 9))
