"""Removal of tracked connections by zone and address, over ctnetlink in the calling thread's namespace."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from hostagent.network.losses import Stale

_FAMILIES = ((socket.AF_INET, 4), (socket.AF_INET6, 6))


def end_connections(stale: Iterable[Stale]) -> int:
    """Remove every connection of a zone that has one of the addresses at either end. Returns how many there were."""
    wanted: dict[int, dict[int, list[ipaddress.IPv4Network | ipaddress.IPv6Network]]] = {4: {}, 6: {}}
    for zone, prefix in stale:
        network = ipaddress.ip_network(prefix)
        wanted[network.version].setdefault(zone, []).append(network)
    removed = 0
    for family, version in _FAMILIES:
        if not wanted[version]:
            continue
        tracker = NFCTSocket(nfgen_family=family)
        try:
            for zone, networks in wanted[version].items():
                removed += _end_in_zone(tracker, zone, networks)
        finally:
            tracker.close()
    return removed


def _end_in_zone(tracker: NFCTSocket, zone: int, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> int:
    doomed = []
    for entry in tracker.dump(zone=zone):
        # Kernels before 6.8 do not filter by zone.
        if (entry.get_attr("CTA_ZONE") or 0) != zone:
            continue
        original = entry.get_attr("CTA_TUPLE_ORIG")
        ends = [ipaddress.ip_address(value) for name, value in original.get_attr("CTA_TUPLE_IP")["attrs"]]
        if any(end in network for end in ends for network in networks):
            doomed.append(_plain(original))
    for original in doomed:
        try:
            tracker.entry("del", tuple_orig=original, zone=zone)
        except NetlinkError as error:
            if error.code != errno.ENOENT:  # it ended by itself
                raise
    return len(doomed)


def _plain(attribute: Any) -> Any:
    """A received attribute as one to be sent."""
    if isinstance(attribute, dict) and "attrs" in attribute:
        return {"attrs": [[name, _plain(value)] for name, value in attribute["attrs"]]}
    return attribute
