"""Weighers: how well an instance would stand on a node that can take it."""

from __future__ import annotations

import hashlib
from fractions import Fraction

from operators.compute.scheduler.model import Host, Request


def spread(request: Request, host: Host) -> Fraction:
    """The mean of the parts of memory and virtual CPUs that stay free with the instance on the node; more is better.

    Exact arithmetic: nodes that are equally free compare as equal, and the tie-break decides.
    """
    left, limit = host.free - request.needs, host.limit
    parts = [Fraction(left.memory, limit.memory or 1), Fraction(left.vcpus, limit.vcpus or 1)]
    return sum(parts, Fraction()) / len(parts)


def tie_break(request: Request, host: Host) -> bytes:
    """An order of equal nodes that differs per instance, and is the same for an instance however often it is asked."""
    return hashlib.sha256(f"{request.uid}/{host.name}".encode()).digest()
