"""Whether a node's agent is alive, judged by its Lease and this process's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

_DEFAULT_DURATION = 40.0


@dataclass(frozen=True)
class _Sighting:
    renewed: str
    at: datetime
    lasts: timedelta


class Liveness:
    """What was seen of the agents' Leases.

    A node's clock may be wrong, so a Lease is held to be renewed when its renewTime changes, at the time when this
    process sees it. Only at the first sight its own time counts, and never as more recent than that sight. A node that
    was known to be up is given a whole duration even then: this process may have begun because the API was away, while
    nobody could renew.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Sighting] = {}
        self._alive: dict[str, bool] = {}

    def observe(self, node: str, lease: Mapping[str, Any] | None, now: datetime, *, was_up: bool = False) -> None:
        """Takes in a node's Lease as it is at `now`, and judges by it; None: it has none.

        `was_up`: the node's Hypervisor says that it is up, so it was when somebody last looked.
        """
        spec = (lease or {}).get("spec") or {}
        renewed = spec.get("renewTime")
        if not renewed:
            self._seen.pop(node, None)
            self._alive.pop(node, None)
            return
        before = self._seen.get(node)
        lasts = timedelta(seconds=spec.get("leaseDurationSeconds") or _DEFAULT_DURATION)
        if before is None:
            at = now if was_up else min(datetime.fromisoformat(renewed), now)
            self._seen[node] = _Sighting(renewed, at, lasts)
        elif before.renewed != renewed:
            self._seen[node] = _Sighting(renewed, now, lasts)
        self._alive[node] = now - self._seen[node].at <= lasts

    def alive(self, node: str) -> bool | None:
        """The judgement of the last look at the node's Lease; None: it has none."""
        return self._alive.get(node)

    def forgive(self, now: datetime) -> None:
        """Starts all clocks anew: the API did not answer for a while, so that nobody could renew."""
        self._seen = {node: replace(sighting, at=now) for node, sighting in self._seen.items()}

    def nodes(self) -> list[str]:
        """The nodes that have a Lease."""
        return list(self._seen)
