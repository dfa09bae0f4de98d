"""Which MAC and addresses a port is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.meta import Holder
from crds.network import Port, Subnet
from operators.network.names import address_name
from operators.network.port_plan import Address, AddressPlan, Observed, SubnetView, plan_addresses, plan_mac, view_of
from operators.network.ranges import Range, parse
from operators.network.reasons import Reason
from operators.verdict import State

MAC = "fa:16:3e:00:00:01"


def view(name: str, cidr: str, *pools: tuple[str, str], slaac: bool = False) -> SubnetView:
    ranges = tuple(Range(int(parse(a)), int(parse(b))) for a, b in pools)
    return SubnetView(name, ip_network(cidr), ranges, slaac)


V4 = view("v4", "10.0.1.0/24", ("10.0.1.10", "10.0.1.12"))
V4B = view("v4b", "10.0.2.0/24", ("10.0.2.10", "10.0.2.20"))
V6 = view("v6", "fd00::/64", ("fd00::10", "fd00::12"))
SLAAC = view("v6", "fd00::/64", ("fd00::2", "fd00::ffff:ffff:ffff:ffff"), slaac=True)
SLAAC_IP = "fd00::f816:3eff:fe00:1"


def port(*fixed: dict[str, Any], uid: str = "me", status: Sequence[tuple[str, str]] = ()) -> Port:
    return Port.model_validate(
        {
            "metadata": {"name": "web", "namespace": "acme", "uid": uid},
            "spec": {"networkRef": {"name": "internal"}, **({"fixedIPs": list(fixed)} if fixed else {})},
            "status": {"fixedIPs": [{"ip": ip, "subnet": subnet} for ip, subnet in status]},
        }
    )


def other(uid: str = "other", namespace: str = "acme") -> Holder:
    return Holder(kind="Port", namespace=namespace, name="db", uid=uid)


def observed(
    *views: SubnetView,
    taken: Mapping[str, Holder] | None = None,
    owned: Sequence[tuple[str, str]] = (),
    pending: Sequence[str] = (),
    broken: Sequence[str] = (),
    bound: bool = False,
) -> Observed:
    held = {parse(ip): holder for ip, holder in (taken or {}).items()}
    held |= {parse(ip): other("me") for ip, _ in owned}
    return Observed(
        subnets=views,
        pending=pending,
        broken=broken,
        holder=held.get,
        count=len(held),
        owned=[Address(parse(ip), subnet) for ip, subnet in owned],
        bound=bound,
    )


def plan(subject: Port, seen: Observed) -> AddressPlan:
    return plan_addresses(subject, MAC, "internal", seen)


def ips(addresses: Sequence[Address]) -> list[str]:
    return [str(address.ip) for address in addresses]


@pytest.mark.parametrize("foreign", [False, True])
def test_a_gateway_is_nobodys_on_a_network_of_another_tenant(foreign: bool) -> None:
    subnet = replace(V4, gateway=parse("10.0.1.1"))
    found = plan(port({"ip": "10.0.1.1"}), replace(observed(subnet), foreign=foreign))
    if not foreign:
        assert ips(found.addresses) == ["10.0.1.1"], "a guest of one's own may be the router"
        return
    assert found.problem is not None
    assert (found.problem.state, found.problem.reason) == (State.STALLED, Reason.ADDRESS_INVALID)
    assert "10.0.1.1 is the gateway of Subnet v4" in found.problem.message
    assert found.claim == ()


def test_one_address_of_each_family() -> None:
    found = plan(port(), observed(V4, V4B, V6))
    assert found.problem is None
    assert [(a.ip.version, a.subnet) for a in found.addresses] == [(4, "v4"), (6, "v6")]
    assert found.claim == found.addresses
    assert all(int(a.ip) in v.pools[0] for a, v in zip(found.addresses, (V4, V6), strict=True))


def test_the_next_subnet_when_the_first_is_full() -> None:
    full = {f"10.0.1.{n}": other() for n in (10, 11, 12)}
    assert [a.subnet for a in plan(port(), observed(V4, V4B, taken=full)).addresses] == ["v4b"]


def test_exhaustion_names_the_subnets() -> None:
    full = {f"10.0.1.{n}": other() for n in (10, 11, 12)}
    problem = plan(port(), observed(V4, taken=full)).problem
    assert problem is not None
    assert (problem.state, problem.reason) == (State.STALLED, Reason.NO_FREE_ADDRESS)
    assert "v4 (10.0.1.0/24)" in problem.message


def test_a_certain_address_even_outside_the_pools() -> None:
    found = plan(port({"ip": "10.0.1.200"}), observed(V4))
    assert found.addresses == (Address(parse("10.0.1.200"), "v4"),)


def test_slaac_addresses_come_from_the_mac() -> None:
    assert ips(plan(port(), observed(SLAAC)).addresses) == [SLAAC_IP]
    assert ips(plan(port({"ip": SLAAC_IP}), observed(SLAAC)).addresses) == [SLAAC_IP]


def test_addresses_come_in_the_order_asked_for() -> None:
    found = plan(port({"subnetRef": {"name": "v4"}}, {"ip": "10.0.1.11"}), observed(V4))
    assert ips(found.addresses)[1] == "10.0.1.11"
    assert ips(found.addresses)[0] in ("10.0.1.10", "10.0.1.12")


@pytest.mark.parametrize(
    ("fixed", "seen", "state", "reason", "words"),
    [
        (
            {"ip": "10.0.1.50"},
            observed(V4, taken={"10.0.1.50": other()}),
            State.STALLED,
            Reason.ADDRESS_TAKEN,
            "Port db",
        ),
        ({"ip": "10.0.1.0"}, observed(V4), State.STALLED, Reason.ADDRESS_INVALID, "10.0.1.0/24"),
        ({"ip": "10.0.1.255"}, observed(V4), State.STALLED, Reason.ADDRESS_INVALID, "no host's"),
        (
            {"ip": "10.0.9.9", "subnetRef": {"name": "v4"}},
            observed(V4),
            State.STALLED,
            Reason.ADDRESS_INVALID,
            "10.0.9.9",
        ),
        ({"ip": "fd00::5"}, observed(SLAAC), State.STALLED, Reason.ADDRESS_INVALID, SLAAC_IP),
        ({"ip": "10.0.9.9"}, observed(V4), State.WAITING, Reason.SUBNET_NOT_FOUND, "10.0.9.9"),
        ({"ip": "10.0.9.9"}, observed(V4, pending=["new"]), State.WAITING, Reason.SUBNET_NOT_READY, "new"),
        ({"subnetRef": {"name": "nope"}}, observed(V4), State.WAITING, Reason.SUBNET_NOT_FOUND, "nope"),
        ({"subnetRef": {"name": "bad"}}, observed(V4, broken=["bad"]), State.WAITING, Reason.SUBNET_NOT_READY, "bad"),
    ],
)
def test_what_cannot_be_given_is_told(
    fixed: dict[str, Any], seen: Observed, state: State, reason: Reason, words: str
) -> None:
    problem = plan(port(fixed), seen).problem
    assert problem is not None
    assert (problem.state, problem.reason) == (state, reason)
    assert words in problem.message


def test_holders_of_other_tenants_are_not_named() -> None:
    seen = observed(V4, taken={"10.0.1.50": other(namespace="globex")})
    problem = plan(port({"ip": "10.0.1.50"}), seen).problem
    assert problem is not None
    assert "in use" in problem.message
    assert "db" not in problem.message
    assert "globex" not in problem.message


def test_the_same_address_twice_is_refused() -> None:
    problem = plan(port({"ip": "10.0.1.50"}, {"ip": "10.0.1.50"}), observed(V4)).problem
    assert problem is not None
    assert problem.reason == Reason.ADDRESS_INVALID


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (observed(), Reason.SUBNET_NOT_FOUND),
        (observed(pending=["v4"]), Reason.SUBNET_NOT_READY),
        (observed(V4, pending=["v6"]), Reason.SUBNET_NOT_READY),
        (observed(broken=["v4"]), Reason.SUBNET_NOT_FOUND),
    ],
)
def test_a_port_waits_for_subnets(seen: Observed, reason: Reason) -> None:
    problem = plan(port(), seen).problem
    assert problem is not None
    assert (problem.state, problem.reason) == (State.WAITING, reason)


def test_a_broken_subnet_does_not_hold_up_ports_that_can_do_without() -> None:
    assert plan(port(), observed(V4, broken=["bad"])).problem is None


def test_what_was_claimed_before_a_crash_is_used() -> None:
    found = plan(port(), observed(V4, V6, owned=[("10.0.1.11", "v4")]))
    assert ips(found.addresses)[0] == "10.0.1.11"
    assert [a.ip.version for a in found.claim] == [6]
    assert found.release == ()


def test_addresses_stay_for_life() -> None:
    has = [("10.0.1.77", "v4")]
    found = plan(port(status=has), observed(V4, owned=has))
    assert (ips(found.addresses), found.claim, found.release) == (["10.0.1.77"], (), ())


def test_a_lost_allocation_is_claimed_again() -> None:
    found = plan(port(status=[("10.0.1.77", "v4")]), observed(V4))
    assert ips(found.claim) == ["10.0.1.77"]


def test_an_unbound_port_follows_its_spec() -> None:
    has = [("10.0.1.11", "v4")]
    found = plan(port({"ip": "10.0.1.50"}, status=has), observed(V4, owned=has))
    assert (ips(found.addresses), ips(found.claim), ips(found.release)) == (["10.0.1.50"], ["10.0.1.50"], ["10.0.1.11"])
    assert not found.pending_change


def test_a_bound_port_keeps_its_addresses_and_says_so() -> None:
    has = [("10.0.1.11", "v4")]
    found = plan(port({"ip": "10.0.1.50"}, status=has), observed(V4, owned=has, bound=True))
    assert (ips(found.addresses), found.claim, found.release) == (["10.0.1.11"], (), ())
    assert found.pending_change


def test_a_family_that_comes_later_is_given_to_unbound_ports_alone() -> None:
    has = [("10.0.1.11", "v4")]
    assert len(plan(port(status=has), observed(V4, V6, owned=has)).addresses) == 2
    later = plan(port(status=has), observed(V4, V6, owned=has, bound=True))
    assert len(later.addresses) == 1
    assert not later.pending_change


@given(st.integers(1, 40), st.booleans(), st.randoms())
def test_no_address_is_given_twice(count: int, crash: bool, random: Any) -> None:
    """Ports choose one after another; of some the status was lost after the claim."""
    small = view("v4", "10.0.1.0/24", ("10.0.1.10", "10.0.1.29"))
    allocations: dict[str, tuple[str, str]] = {}
    for number in range(count):
        uid = f"uid-{number}"
        seen = Observed(
            subnets=[small],
            pending=[],
            broken=[],
            holder=lambda ip: other(allocations[str(ip)][0]) if str(ip) in allocations else None,
            count=len(allocations),
            owned=[],
            bound=False,
        )
        found = plan_addresses(port(uid=uid), MAC, "internal", seen)
        if number >= 20:
            assert found.problem is not None
            assert found.problem.reason == Reason.NO_FREE_ADDRESS
            continue
        for address in found.claim:
            assert str(address.ip) not in allocations
            allocations[str(address.ip)] = (uid, address_name("internal", address.ip))
        if crash and random.random() < 0.5:
            owned = [Address(ip_address(ip), "v4") for ip, (holder, _) in allocations.items() if holder == uid]
            again = plan_addresses(
                port(uid=uid),
                MAC,
                "internal",
                Observed(
                    [small],
                    [],
                    [],
                    lambda ip: other(allocations[str(ip)][0]) if str(ip) in allocations else None,
                    len(allocations),
                    owned,
                    False,
                ),
            )
            assert (again.addresses, again.claim) == (found.addresses, ())
    assert len({name for _, name in allocations.values()}) == len(allocations)


def test_macs() -> None:
    free = plan_mac(port(), [], lambda mac: None)
    assert free.claim
    assert free.mac.startswith("fa:16:3e:")
    second = plan_mac(port(), [], lambda mac: other() if mac == free.mac else None)
    assert second.mac not in ("", free.mac)
    kept = plan_mac(port(), [second.mac], lambda mac: None)
    assert (kept.mac, kept.claim) == (second.mac, False)
    asked = port()
    asked.spec.mac_address = "fa:16:3e:aa:aa:aa"
    assert plan_mac(asked, [], lambda mac: None).mac == "fa:16:3e:aa:aa:aa"
    taken = plan_mac(asked, [], lambda mac: other()).problem
    assert taken is not None
    assert (taken.state, taken.reason) == (State.STALLED, Reason.MAC_TAKEN)
    assert "Port db" in taken.message


def test_only_accepted_subnets_are_seen() -> None:
    base = {
        "metadata": {"name": "v6", "namespace": "acme"},
        "spec": {"networkRef": {"name": "internal"}, "cidr": "fd00::/64", "ipv6": {"addressMode": "SLAAC"}},
    }
    assert view_of(Subnet.model_validate(base)) is None
    accepted = base | {"status": {"cidr": "fd00::/64", "allocationPools": [{"start": "fd00::2", "end": "fd00::9"}]}}
    seen = view_of(Subnet.model_validate(accepted))
    assert seen == view("v6", "fd00::/64", ("fd00::2", "fd00::9"), slaac=True)
    accepted["metadata"] = {**base["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert view_of(Subnet.model_validate(accepted)) is None
