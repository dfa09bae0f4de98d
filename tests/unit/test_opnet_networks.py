"""Wires and segments of networks, references to them, and what keeps them from being deleted."""

from __future__ import annotations

from typing import Any

import pytest

from crds.meta import Holder, ObjectRef
from crds.network import Network, PhysicalNetwork
from crds.vocabulary import NetworkType
from operators.network.deletion import User, in_use
from operators.network.network_plan import Wire, choose_number, segment_for, segment_name, taken, wire_of
from operators.network.ranges import Range
from operators.network.reasons import Reason
from operators.network.references import network_key, not_found
from operators.verdict import State, Verdict
from runtime.cache import Key

VNIS = Range(100, 103)


def network(provider: dict[str, Any] | None = None, **spec: Any) -> Network:
    return Network.model_validate(
        {
            "metadata": {"name": "internal", "namespace": "acme", "uid": "net-uid"},
            "spec": {**spec, **({"provider": provider} if provider else {})},
        }
    )


def flat(type: str = "Flat", **more: Any) -> dict[str, Any]:
    return {"type": type, "physicalNetworkRef": {"name": "public"}, **more}


def physical(**spec: Any) -> PhysicalNetwork:
    return PhysicalNetwork.model_validate({"metadata": {"name": "public"}, "spec": spec})


def wire(subject: Network, found: PhysicalNetwork | None = None) -> Wire | Verdict:
    return wire_of(subject, lambda name: found if name == "public" else None, 1500, VNIS)


@pytest.mark.parametrize(
    ("subject", "found", "expected"),
    [
        (network(), None, Wire(NetworkType.VXLAN, None, 1450, (VNIS,))),
        (
            network({"type": "VXLAN", "segmentationID": 5000}),
            None,
            Wire(NetworkType.VXLAN, None, 1450, (Range(5000, 5000),)),
        ),
        (network(flat()), physical(), Wire(NetworkType.FLAT, "public", 1500, ())),
        (network(flat()), physical(mtu=9000), Wire(NetworkType.FLAT, "public", 9000, ())),
        (
            network(flat("VLAN")),
            physical(vlanRanges=[{"first": 10, "last": 20}]),
            Wire(NetworkType.VLAN, "public", 1500, (Range(10, 20),)),
        ),
        (
            network(flat("VLAN", segmentationID=7)),
            physical(),
            Wire(NetworkType.VLAN, "public", 1500, (Range(7, 7),)),
        ),
    ],
)
def test_wires(subject: Network, found: PhysicalNetwork | None, expected: Wire) -> None:
    assert wire(subject, found) == expected


@pytest.mark.parametrize(
    ("subject", "found", "state", "reason"),
    [
        (network(flat()), None, State.WAITING, Reason.PHYSICAL_NETWORK_NOT_FOUND),
        (network(flat("VLAN")), physical(), State.STALLED, Reason.NO_FREE_SEGMENT),
        (network(mtu=1500), None, State.STALLED, Reason.MTU_TOO_LARGE),
        (network(flat(), mtu=1501), physical(), State.STALLED, Reason.MTU_TOO_LARGE),
    ],
)
def test_what_is_wrong_is_told(subject: Network, found: PhysicalNetwork | None, state: State, reason: Reason) -> None:
    verdict = wire(subject, found)
    assert isinstance(verdict, Verdict)
    assert (verdict.state, verdict.reason) == (state, reason)


def test_segments_are_named_after_their_value() -> None:
    assert segment_name(Wire(NetworkType.VXLAN, None, 1450, (VNIS,)), 101) == "vxlan-101"
    assert segment_name(Wire(NetworkType.VLAN, "public", 1500, (VNIS,)), 101) == "vlan-public-101"
    assert segment_name(Wire(NetworkType.FLAT, "public", 1500, ()), None) == "flat-public"
    segment = segment_for(network(), Wire(NetworkType.VXLAN, None, 1450, (VNIS,)), 101)
    assert segment.spec.holder == Holder(kind="Network", namespace="acme", name="internal", uid="net-uid")


def test_every_vni_is_found_before_none_is_left() -> None:
    tenant = Wire(NetworkType.VXLAN, None, 1450, (VNIS,))
    held: dict[str, str] = {}
    for _ in range(VNIS.size):
        number = choose_number(network(), tenant, held.get, len(held))
        assert number in VNIS
        held[segment_name(tenant, number)] = "someone"
    assert choose_number(network(), tenant, held.get, len(held)) is None
    assert taken(network(), tenant, None).reason == Reason.NO_FREE_SEGMENT


def test_a_taken_segment_names_its_holder_to_its_own_tenant_alone() -> None:
    subject = network({"type": "VXLAN", "segmentationID": 5000})
    wanted = wire(subject)
    assert isinstance(wanted, Wire)
    own = taken(subject, wanted, Holder(kind="Network", namespace="acme", name="mine", uid="u"))
    other = taken(subject, wanted, Holder(kind="Network", namespace="globex", name="theirs", uid="u"))
    assert own.reason == other.reason == Reason.SEGMENT_TAKEN
    assert "Network mine" in own.message
    assert "theirs" not in other.message
    assert "globex" not in other.message


def test_missing_and_not_shared_are_one_sentence() -> None:
    key = network_key(ObjectRef(name="internal", namespace="acme"), "globex")
    assert key == Key("acme", "internal")
    assert "does not exist or is not shared" in not_found(key, "globex")
    assert network_key(ObjectRef(name="internal"), "globex") == Key("globex", "internal")


@pytest.mark.parametrize(
    ("users", "sentence"),
    [
        ([], None),
        ([("Port", "acme", "a")], "Network n is used by Port a: it goes when they are gone."),
        (
            [("Port", "acme", name) for name in "abcde"],
            "Network n is used by Port a, Port b, Port c and 2 more: it goes when they are gone.",
        ),
        (
            [("Subnet", "acme", "s"), ("Port", "globex", "x"), ("Port", "initech", "y")],
            "Network n is used by Subnet s and 2 objects of other tenants: it goes when they are gone.",
        ),
        ([("Port", "globex", "x")], "Network n is used by 1 object of other tenants: it goes when they are gone."),
    ],
)
def test_in_use_names_three_of_the_own_tenant(users: list[tuple[str, str, str]], sentence: str | None) -> None:
    assert in_use("Network n", "acme", [User(*user) for user in users]) == sentence
