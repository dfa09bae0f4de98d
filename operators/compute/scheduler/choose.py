"""The choice of a node: filter, weigh, take the best. No I/O, no time, no chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from operators.compute.scheduler.filters import FILTERS, Rejection
from operators.compute.scheduler.model import Amount, Host, Request
from operators.compute.scheduler.weighers import spread, tie_break

WAITS = "The instance waits until one fits: make room, add a host, or change what the instance asks for."


@dataclass(frozen=True)
class Choice:
    """The node to go to."""

    host: Host


@dataclass(frozen=True)
class NoValidHost:
    """No node takes the instance. `too_large`: none would if all were empty, so waiting does not help."""

    message: str
    too_large: bool


def choose(request: Request, hosts: Iterable[Host]) -> Choice | NoValidHost:
    """The node with the most room among those that no filter rejects."""
    hosts = sorted(hosts, key=lambda host: host.name)
    rejections: dict[str, list[Rejection]] = defaultdict(list)
    fitting: list[Host] = []
    for host in hosts:
        rejection = next((found for one in FILTERS if (found := one(request, host)) is not None), None)
        if rejection is None:
            fitting.append(host)
        else:
            rejections[rejection.filter].append(rejection)
    if fitting:
        return Choice(max(fitting, key=lambda host: (spread(request, host), tie_break(request, host))))
    if not hosts:
        return NoValidHost("There are 0 hosts: install the host agent on a node with KVM.", too_large=False)
    counts = ", ".join(_count(name, rejections[name]) for name in sorted(rejections))
    told = f"0 of {len(hosts)} host{'s' if len(hosts) > 1 else ''} fit: {counts}."
    # A node that has not told its capacity may be large enough.
    if any(host.capacity == Amount() or request.needs.fits(host.limit) for host in hosts):
        return NoValidHost(f"{told} {WAITS}", too_large=False)
    flavor = f"Flavor {request.flavor}" if request.flavor else "The flavor"
    return NoValidHost(
        f"{told} {flavor} is larger than every host: choose a smaller one, or add a larger host.", too_large=True
    )


def _count(name: str, group: list[Rejection]) -> str:
    first = group[0]
    if first.needs is None:
        return f"{len(group)} {name} ({first.detail})"
    most = max(rejection.free or 0 for rejection in group)
    return f"{len(group)} {name} (needs {first.show(first.needs)}, free {first.show(most)} at most)"
