"""A cgroup that holds every process of a lab, so that `down` finds them all, whatever namespace they went to.

Nothing is limited by it. cgroup v2 is used where it is mounted (also beside v1), else v1's pids or freezer hierarchy.
"""

import errno
import os
from pathlib import Path

from lab.errors import LabError

_ROOT = Path("/sys/fs/cgroup")
_FOLDER = "kumulus-lab"
_HIERARCHIES = (_ROOT, _ROOT / "unified", _ROOT / "pids", _ROOT / "freezer")


def create(name: str) -> Path:
    """Make the cgroup of lab ``name`` in the first hierarchy that takes one, and return its folder."""
    for hierarchy in _HIERARCHIES:
        if not (hierarchy / "cgroup.procs").exists():
            continue
        group = hierarchy / _FOLDER / name
        try:
            group.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        return group
    raise LabError(
        f"no cgroup hierarchy below {_ROOT} can be written: the lab needs one to keep track of its processes"
    )


def existing(name: str) -> list[Path]:
    """The cgroups of lab ``name``; more than one only if the machine's hierarchies changed meanwhile."""
    groups = [hierarchy / _FOLDER / name for hierarchy in _HIERARCHIES]
    return [group for group in groups if group.exists()]


def pids(group: Path) -> set[int]:
    """The processes in ``group`` and in groups below it."""
    found: set[int] = set()
    for folder, _, files in os.walk(group):
        if "cgroup.procs" in files:
            found.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
    # 0 stands for a process of a PID namespace that is not seen from here; as a pid it would mean the caller's group.
    return found - {0}


def try_remove(group: Path) -> bool:
    """Remove ``group``, those below it and the folder above when no other lab is in it.

    False while a process is in it: a killed one is for as long as the kernel takes to tear it down.
    """
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    parent = group.parent
    if not any(child.is_dir() for child in parent.iterdir()):
        parent.rmdir()
    return True
