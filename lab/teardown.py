"""Ending every process of a lab: those in its cgroup, and any that stands in one of its namespaces."""

import contextlib
import os
import signal
from functools import partial
from pathlib import Path

from lab import cgroups
from lab.layout import Layout
from lab.mounts import own_mount_points
from lab.probe import wait_for

_TIMEOUT = 30.0


def end_processes(layout: Layout) -> None:
    """SIGKILL them until none is left (one may fork meanwhile), then remove the cgroup. Raises LabError."""
    groups = cgroups.existing(layout.name)
    pinned = _pinned(layout)

    def none_left() -> bool:
        found = set().union(*(cgroups.pids(group) for group in groups), _in_namespaces(pinned)) - {os.getpid()}
        for process in found:
            # It may have ended between the look and the signal.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not found

    wait_for(none_left, _TIMEOUT, f"processes of lab {layout.name!r} do not end")
    for group in groups:
        wait_for(partial(cgroups.try_remove, group), _TIMEOUT, f"{group} stays busy")


def _pinned(layout: Layout) -> set[tuple[int, int]]:
    """The identities (device, inode) of the namespaces that are pinned below <run>/ns."""
    points = [point for point in own_mount_points(layout.namespaces) if point != layout.namespaces]
    return {(stat.st_dev, stat.st_ino) for stat in (point.stat() for point in points)}


def _in_namespaces(pinned: set[tuple[int, int]]) -> set[int]:
    """The processes with a network, mount or UTS namespace among ``pinned``.

    A process below a host in a child network namespace (a router, DHCP) still has the host's UTS namespace.
    """
    if not pinned:
        return set()
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "mnt", "uts"):
            # The process may end while it is looked at; one that root may not look at (a container's init) is not ours.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                stat = (process / "ns" / kind).stat()
                if (stat.st_dev, stat.st_ino) in pinned:
                    found.add(int(process.name))
    return found
