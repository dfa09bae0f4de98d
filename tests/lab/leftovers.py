"""What a lab consists of at a moment, and what of it is still there later."""

from dataclasses import dataclass
from pathlib import Path

from lab import cgroups
from lab.layout import Layout
from lab.mounts import own_mount_points


@dataclass(frozen=True)
class Footprint:
    """``processes`` are (pid, start time): a reused pid is another process. ``namespaces`` are inode numbers."""

    processes: frozenset[tuple[int, str]]
    namespaces: frozenset[int]


def footprint(layout: Layout) -> Footprint:
    namespaces = {path.stat().st_ino for path in own_mount_points(layout.namespaces) if path != layout.namespaces}
    pids = set().union(*(cgroups.pids(group) for group in cgroups.existing(layout.name)))
    pids |= {pid for pid, inode in _processes_by_namespace() if inode in namespaces}
    starts = {(pid, start) for pid in pids if (start := _start_time(pid)) is not None}
    return Footprint(frozenset(starts), frozenset(namespaces))


def leftovers(layout: Layout, before: Footprint) -> list[str]:
    """A line for each thing of the lab that is still on the machine."""
    found = [f"process {pid}" for pid, start in before.processes if _start_time(pid) == start]
    found += [f"process {pid} in {inode}" for pid, inode in _processes_by_namespace() if inode in before.namespaces]
    found += [f"mount {point}" for point in own_mount_points(Path("/")) if f"/kumulus-lab/{layout.name}" in str(point)]
    found += [f"folder {path}" for path in (layout.run, layout.data) if path.exists()]
    found += [f"cgroup {path}" for path in cgroups.existing(layout.name)]
    return found


def interfaces() -> set[str]:
    """The machine's own network interfaces."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; None when there is no such process, or only a zombie waits for its parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _processes_by_namespace() -> list[tuple[int, int]]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "mnt", "uts"):
            try:
                found.append((int(process.name), (process / "ns" / kind).stat().st_ino))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
