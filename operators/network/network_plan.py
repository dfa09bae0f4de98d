"""What a Network comes to: its type, its segment, its MTU. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crds.meta import Holder, ObjectMeta
from crds.network import Network, PhysicalNetwork, Segment, SegmentSpec
from crds.vocabulary import NetworkType
from operators.network.names import flat_segment, vlan_segment, vxlan_segment
from operators.network.ranges import Range, find_free
from operators.network.reasons import Reason
from operators.verdict import Verdict, stalled, waiting

VXLAN_OVERHEAD = 50
"""Bytes: outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348, section 5)."""
PHYSICAL_MTU = 1500
"""Of a PhysicalNetwork that says nothing."""


@dataclass(frozen=True)
class Wire:
    """What a network is laid on. `ids` is where its VNI or VLAN may be from, empty for Flat."""

    type: NetworkType
    physical_network: str | None
    mtu: int
    ids: tuple[Range, ...]


def wire_of(
    network: Network,
    physical_network: Callable[[str], PhysicalNetwork | None],
    underlay_mtu: int,
    vnis: Range,
) -> Wire | Verdict:
    """What the network is laid on, or why it cannot be."""
    provider = network.spec.provider
    asked = provider.segmentation_id if provider else None
    if provider is None or provider.physical_network_ref is None:
        ids = vnis if asked is None else Range(asked, asked)
        return _checked(network, Wire(NetworkType.VXLAN, None, underlay_mtu - VXLAN_OVERHEAD, (ids,)))
    name = provider.physical_network_ref.name
    physical = physical_network(name)
    if physical is None:
        return waiting(
            Reason.PHYSICAL_NETWORK_NOT_FOUND,
            f"PhysicalNetwork {name} does not exist: create it, or ask those who run the infrastructure to.",
        )
    mtu = physical.spec.mtu or PHYSICAL_MTU
    if provider.type is NetworkType.FLAT:
        return _checked(network, Wire(NetworkType.FLAT, name, mtu, ()))
    if asked is not None:
        return _checked(network, Wire(NetworkType.VLAN, name, mtu, (Range(asked, asked),)))
    ranges = tuple(Range(vlans.first, vlans.last) for vlans in physical.spec.vlan_ranges)
    if not ranges:
        return stalled(
            Reason.NO_FREE_SEGMENT,
            f"PhysicalNetwork {name} has no vlanRanges to choose from: set them, or set provider.segmentationID.",
        )
    return _checked(network, Wire(NetworkType.VLAN, name, mtu, ranges))


def _checked(network: Network, wire: Wire) -> Wire | Verdict:
    asked = network.spec.mtu
    if asked is not None and asked > wire.mtu:
        return stalled(
            Reason.MTU_TOO_LARGE,
            f"spec.mtu {asked} is more than the {wire.mtu} that fit a {wire.type} network here:"
            f" set at most {wire.mtu}.",
        )
    return wire


def segment_name(wire: Wire, number: int | None) -> str:
    if wire.type is NetworkType.VXLAN and number is not None:
        return vxlan_segment(number)
    if wire.type is NetworkType.VLAN and number is not None and wire.physical_network is not None:
        return vlan_segment(wire.physical_network, number)
    return flat_segment(wire.physical_network or "")


def segment_for(network: Network, wire: Wire, number: int | None) -> Segment:
    """The record that the network has this VNI, VLAN or (number None) physical network."""
    meta = network.metadata
    return Segment(
        metadata=ObjectMeta(name=segment_name(wire, number)),
        spec=SegmentSpec(
            type=wire.type,
            segmentation_id=number,
            physical_network=wire.physical_network,
            holder=Holder(kind="Network", namespace=meta.namespace, name=meta.name, uid=meta.uid),
        ),
    )


def choose_number(network: Network, wire: Wire, held_by: Callable[[str], str | None], count: int) -> int | None:
    """A VNI or VLAN that no Segment stands for. `held_by` gives a Segment's holder by name; `count` all Segments."""
    return find_free(
        wire.ids, lambda number: held_by(segment_name(wire, number)) is not None, count, seed=network.metadata.uid
    )


def taken(network: Network, wire: Wire, holder: Holder | None) -> Verdict:
    """Why there is no segment: the one asked for is another's, or none is free."""
    if wire.type is NetworkType.FLAT:
        what = f"PhysicalNetwork {wire.physical_network} already carries"
        remedy = "one Flat network is all that it can carry; use type VLAN, or delete the other."
        return stalled(Reason.SEGMENT_TAKEN, f"{what} {_holder(network, holder)}: {remedy}")
    provider = network.spec.provider
    word = "VNI" if wire.type is NetworkType.VXLAN else "VLAN"
    if provider is not None and provider.segmentation_id is not None:
        return stalled(
            Reason.SEGMENT_TAKEN,
            f"{word} {provider.segmentation_id} is held by {_holder(network, holder)}:"
            " create the network anew with another segmentationID, or with none to be given a free one.",
        )
    ranges = ", ".join(f"{ids.first}-{ids.last}" for ids in wire.ids)
    return stalled(
        Reason.NO_FREE_SEGMENT, f"Every {word} of {ranges} is taken: ask those who run the infrastructure for more."
    )


def _holder(network: Network, holder: Holder | None) -> str:
    """Of networks of other tenants not even the name is told."""
    if holder is not None and holder.namespace == network.metadata.namespace:
        return f"Network {holder.name}"
    return "another network"
