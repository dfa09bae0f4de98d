"""Filters, weighers and the choice: tables, and what must hold for any cloud."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.compute.scheduler import Amount, Choice, Host, NoValidHost, Request, choose
from operators.compute.scheduler.choose import WAITS
from operators.compute.scheduler.filters import FILTERS
from operators.compute.scheduler.model import Ratios
from operators.compute.scheduler.weighers import spread

GI = 2**30

HOST = Host("node1", Amount(8, 16 * GI, 100 * GI), architecture="x86_64")
REQUEST = Request("uid-1", Amount(2, 4 * GI, 10 * GI), flavor="m1.medium")


@pytest.mark.parametrize(
    ("request_changes", "host_changes", "rejected_by"),
    [
        ({}, {}, None),
        ({}, {"enabled": False}, "EnabledFilter"),
        ({}, {"up": False}, "UpFilter"),
        ({"architecture": "aarch64"}, {}, "ImageFilter"),
        ({"architecture": "x86_64"}, {}, None),
        ({"architecture": "aarch64"}, {"architecture": None}, None),
        ({"requested_node": "node1"}, {}, None),
        ({"requested_node": "node2"}, {}, "RequestedNodeFilter"),
        ({"avoid": frozenset({"node2"})}, {}, None),
        ({"avoid": frozenset({"node1"})}, {}, "DifferentHostFilter"),
        ({"only": frozenset({"node1", "node2"})}, {}, None),
        ({"only": frozenset()}, {}, "SameHostFilter"),
        ({"needs": Amount(8, GI, GI)}, {}, None),
        ({"needs": Amount(9, GI, GI)}, {}, "VCPUFilter"),
        ({"needs": Amount(9, GI, GI)}, {"ratios": Ratios(vcpus=Fraction(3, 2))}, None),
        ({"needs": Amount(12, GI, GI)}, {"ratios": Ratios(vcpus=Fraction(3, 2))}, None),
        ({"needs": Amount(13, GI, GI)}, {"ratios": Ratios(vcpus=Fraction(3, 2))}, "VCPUFilter"),
        ({"needs": Amount(1, 17 * GI, GI)}, {}, "MemoryFilter"),
        ({"needs": Amount(1, 4 * GI, GI)}, {"allocated": Amount(0, 13 * GI, 0)}, "MemoryFilter"),
        ({"needs": Amount(1, GI, 101 * GI)}, {}, "DiskFilter"),
        ({"needs": Amount(1, GI, 0)}, {"allocated": Amount(0, 0, 100 * GI)}, None),
    ],
)
def test_filters(request_changes: dict, host_changes: dict, rejected_by: str | None) -> None:
    request, host = replace(REQUEST, **request_changes), replace(HOST, **host_changes)
    rejections = [rejection for one in FILTERS if (rejection := one(request, host))]
    assert [rejection.filter for rejection in rejections] == ([rejected_by] if rejected_by else [])
    assert isinstance(choose(request, [host]), NoValidHost if rejected_by else Choice)


@pytest.mark.parametrize(
    ("needs", "hosts", "message", "too_large"),
    [
        (REQUEST.needs, [], "There are 0 hosts: install the host agent on a node with KVM.", False),
        (
            REQUEST.needs,
            [replace(HOST, allocated=Amount(0, 15 * GI, 0)), replace(HOST, name="node2", up=False)],
            "0 of 2 hosts fit: 1 MemoryFilter (needs 4Gi, free 1Gi at most), 1 UpFilter (agent silent).",
            False,
        ),
        (
            Amount(32, 64 * GI, GI),
            [HOST, replace(HOST, name="node2")],
            "0 of 2 hosts fit: 2 VCPUFilter (needs 32, free 8 at most). Flavor m1.medium is larger than every host:"
            " choose a smaller one, or add a larger host.",
            True,
        ),
        # Whether a node that is down, or says nothing of itself, is large enough decides too.
        (
            Amount(32, GI, GI),
            [HOST, replace(HOST, name="node2", up=False, capacity=Amount(64, 16 * GI, 100 * GI))],
            "0 of 2 hosts fit: 1 UpFilter (agent silent), 1 VCPUFilter (needs 32, free 8 at most).",
            False,
        ),
        (
            Amount(32, GI, GI),
            [HOST, Host("node2", Amount(), up=False)],
            "0 of 2 hosts fit: 1 UpFilter (agent silent), 1 VCPUFilter (needs 32, free 8 at most).",
            False,
        ),
        # A lowered ratio leaves less than nothing.
        (
            REQUEST.needs,
            [replace(HOST, allocated=Amount(0, 20 * GI, 0))],
            "0 of 1 host fit: 1 MemoryFilter (needs 4Gi, free 0 at most).",
            False,
        ),
        (
            REQUEST.needs,
            [replace(HOST, allocated=Amount(0, 12 * GI + 12345, 0))],
            "0 of 1 host fit: 1 MemoryFilter (needs 4Gi, free 3.9Gi at most).",
            False,
        ),
    ],
)
def test_no_valid_host_says_why(needs: Amount, hosts: list[Host], message: str, too_large: bool) -> None:
    told = message if too_large or not hosts else f"{message} {WAITS}"
    assert choose(replace(REQUEST, needs=needs), hosts) == NoValidHost(told, too_large)


def test_spreads_by_memory_and_cores() -> None:
    busy = replace(HOST, allocated=Amount(2, 4 * GI, 0))
    idle = replace(HOST, name="node2")
    assert choose(REQUEST, [busy, idle]) == Choice(idle)
    larger = Host("node3", Amount(32, 64 * GI, 100 * GI), allocated=Amount(4, 8 * GI, 0))
    assert spread(REQUEST, larger) > spread(REQUEST, idle)


def test_equal_nodes_take_turns_by_the_instances_uid() -> None:
    hosts = [replace(HOST, name=f"node{number}") for number in range(4)]
    chosen = {uid: choose(replace(REQUEST, uid=uid), hosts) for uid in map(str, range(64))}
    assert all(choose(replace(REQUEST, uid=uid), reversed(hosts)) == one for uid, one in chosen.items())
    assert len({one.host.name for one in chosen.values() if isinstance(one, Choice)}) == 4


amounts = st.builds(Amount, st.integers(1, 16), st.integers(1, 64), st.integers(0, 64))
ratios = st.fractions(Fraction(1, 2), 16, max_denominator=8)
hosts = st.lists(
    st.builds(
        Host,
        st.from_regex(r"[a-z][0-9]{2}", fullmatch=True),
        st.builds(Amount, st.integers(0, 64), st.integers(0, 256), st.integers(0, 256)),
        ratios=st.builds(Ratios, ratios, ratios, ratios),
        enabled=st.booleans(),
        up=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda host: host.name,
)


@given(hosts=hosts, needs=st.lists(amounts, max_size=40))
def test_never_overcommits_and_never_refuses_what_fits(hosts: list[Host], needs: list[Amount]) -> None:
    cloud = {host.name: host for host in hosts}
    for number, need in enumerate(needs):
        request = Request(str(number), need)
        choice = choose(request, cloud.values())
        if isinstance(choice, NoValidHost):
            assert not any(host.enabled and host.up and need.fits(host.free) for host in cloud.values())
            continue
        host = cloud[choice.host.name]
        assert host.enabled
        assert host.up
        cloud[host.name] = replace(host, allocated=host.allocated + need)
    for host in cloud.values():
        assert host.allocated.fits(host.limit)
        assert Fraction(host.allocated.vcpus) <= host.capacity.vcpus * host.ratios.vcpus
