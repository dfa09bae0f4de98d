"""Filters: each says why an instance cannot go to a node, or None if it has nothing against it.

Named as Nova's (https://docs.openstack.org/nova/latest/admin/scheduling.html).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crds.quantity import format_quantity
from operators.compute.scheduler.model import Host, Request


@dataclass(frozen=True)
class Rejection:
    """Why not; for resources also how much is needed and free, which `show` puts into words."""

    filter: str
    needs: int | None = None
    free: int | None = None
    show: Callable[[int], str] = str
    detail: str = ""


Filter = Callable[[Request, Host], Rejection | None]


def requested_node(request: Request, host: Host) -> Rejection | None:
    """Only the node that spec.requestedNode names."""
    if request.requested_node in (None, host.name):
        return None
    return Rejection("RequestedNodeFilter", detail=f"spec.requestedNode asks for {request.requested_node}")


def enabled(request: Request, host: Host) -> Rejection | None:
    """Not a node in maintenance."""
    return None if host.enabled else Rejection("EnabledFilter", detail="in maintenance")


def up(request: Request, host: Host) -> Rejection | None:
    """Not a node whose agent is silent, or has not told its capacity yet."""
    return None if host.up else Rejection("UpFilter", detail="agent silent")


def different_host(request: Request, host: Host) -> Rejection | None:
    """Not a node of an instance that spec.schedulerHints.differentHost names."""
    if host.name not in request.avoid:
        return None
    return Rejection("DifferentHostFilter", detail="spec.schedulerHints.differentHost names an instance on it")


def same_host(request: Request, host: Host) -> Rejection | None:
    """Only nodes of the instances that spec.schedulerHints.sameHost names, if any."""
    if request.only is None or host.name in request.only:
        return None
    return Rejection("SameHostFilter", detail="spec.schedulerHints.sameHost names no instance on it")


def image(request: Request, host: Host) -> Rejection | None:
    """Only nodes whose processors run the image."""
    if request.architecture is None or host.architecture in (None, request.architecture):
        return None
    return Rejection("ImageFilter", detail=f"the image is for {request.architecture}")


def vcpus(request: Request, host: Host) -> Rejection | None:
    """Not a node with too few virtual CPUs left."""
    return _resource("VCPUFilter", request.needs.vcpus, host.free.vcpus, str)


def memory(request: Request, host: Host) -> Rejection | None:
    """Not a node with too little memory left."""
    return _resource("MemoryFilter", request.needs.memory, host.free.memory, _size)


def disk(request: Request, host: Host) -> Rejection | None:
    """Not a node with too little disk left."""
    return _resource("DiskFilter", request.needs.disk, host.free.disk, _size)


FILTERS: tuple[Filter, ...] = (requested_node, enabled, up, different_host, same_host, image, vcpus, memory, disk)
"""In the order in which a node is asked; the first rejection counts."""


def _size(number: int) -> str:
    """As people read sizes: exact if it is short, else rounded down to a tenth of the largest unit that fits."""
    exact = format_quantity(number)
    if len(exact) <= 6:
        return exact
    for suffix, factor in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if number >= factor:
            tenths = number * 10 // factor
            return f"{tenths // 10}.{tenths % 10}{suffix}" if tenths % 10 else f"{tenths // 10}{suffix}"
    return exact


def _resource(name: str, needs: int, free: int, show: Callable[[int], str]) -> Rejection | None:
    return None if needs <= free else Rejection(name, needs, max(free, 0), show)
