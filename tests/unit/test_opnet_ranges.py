"""Arithmetic on addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.network.names import address_name, mac_name
from operators.network.ranges import Range, eui64, find_free, from_offset, generated_mac, usable, without


@pytest.mark.parametrize(
    ("cidr", "first", "last"),
    [
        ("10.0.1.0/24", "10.0.1.1", "10.0.1.254"),
        ("10.0.1.0/30", "10.0.1.1", "10.0.1.2"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
    ],
)
def test_hosts_may_have_all_but_the_reserved_addresses(cidr: str, first: str, last: str) -> None:
    network = ip_network(cidr)
    kind = IPv4Address if network.version == 4 else IPv6Address
    assert usable(network) == Range(int(kind(first)), int(kind(last)))


@pytest.mark.parametrize(
    ("hole", "parts"),
    [
        (None, [(10, 20)]),
        (9, [(10, 20)]),
        (10, [(11, 20)]),
        (20, [(10, 19)]),
        (15, [(10, 14), (16, 20)]),
    ],
)
def test_a_hole_splits_a_range(hole: int | None, parts: list[tuple[int, int]]) -> None:
    assert without(Range(10, 20), hole) == tuple(Range(*part) for part in parts)


def test_a_range_of_one_has_nothing_beside_its_hole() -> None:
    assert without(Range(5, 5), 5) == ()


pools = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), min_size=1, max_size=4).map(
    # Ranges that do not overlap: each begins where the one before has ended, and a gap later.
    lambda parts: [
        Range(sum(g + s for g, s in parts[:i]) + gap, sum(g + s for g, s in parts[:i]) + gap + size - 1)
        for i, (gap, size) in enumerate(parts)
    ]
)


@given(pools, st.integers(0, 1000))
def test_a_walk_from_anywhere_meets_every_number_once(ranges: list[Range], offset: int) -> None:
    total = sum(pool.size for pool in ranges)
    walked = list(from_offset(ranges, offset % total))
    assert sorted(walked) == [n for pool in ranges for n in range(pool.first, pool.last + 1)]


@given(pools, st.sets(st.integers(0, 200)), st.text(max_size=5) | st.none())
def test_what_is_found_is_free_and_nothing_is_missed(ranges: list[Range], taken: set[int], seed: str | None) -> None:
    free = {n for pool in ranges for n in range(pool.first, pool.last + 1)} - taken
    found = find_free(ranges, taken.__contains__, len(taken), seed)
    if not free:
        assert found is None
    else:
        assert found in free
        assert seed is not None or found == min(free)


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=20))
def test_successive_choices_never_meet(seeds: list[str]) -> None:
    pool, taken = [Range(1, 20)], set[int]()
    for seed in seeds:
        found = find_free(pool, taken.__contains__, len(taken), seed)
        assert found is not None
        assert found not in taken
        taken.add(found)
    assert len(taken) == len(seeds)


def test_a_full_slash_64_is_not_walked_through() -> None:
    network = usable(ip_network("fd00::/64"))
    taken = {network.first, network.first + 1}
    assert find_free([network], taken.__contains__, len(taken), None) == network.first + 2


def test_slaac_addresses_follow_rfc_4291() -> None:
    assert eui64(IPv6Network("fd00:1::/64"), "fa:16:3e:12:34:56") == IPv6Address("fd00:1::f816:3eff:fe12:3456")


def test_generated_macs_are_openstacks_and_differ_by_attempt() -> None:
    macs = {generated_mac("uid", attempt) for attempt in range(50)}
    assert len(macs) == 50
    assert all(mac.startswith("fa:16:3e:") and len(mac) == 17 for mac in macs)
    assert generated_mac("uid", 1) == generated_mac("uid", 1)


def test_allocations_are_named_after_their_value() -> None:
    assert address_name("internal", IPv4Address("10.0.1.5")) == "internal.10.0.1.5"
    assert address_name("internal", IPv6Address("fd00::5")) == "internal.fd00-0000-0000-0000-0000-0000-0000-0005"
    assert mac_name("internal", "fa:16:3e:00:00:50") == "internal.fa-16-3e-00-00-50"
