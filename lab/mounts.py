"""What is mounted, as /proc/self/mountinfo tells it (proc_pid_mountinfo(5))."""

import re
from pathlib import Path


def mount_points(mountinfo: str, below: Path) -> list[Path]:
    """The mount points at or below a folder, the innermost and latest first: the order in which to unmount them."""
    points = [_unescape(line.split()[4]) for line in mountinfo.splitlines() if line]
    return [point for point in reversed(points) if point == below or below in point.parents]


def own_mount_points(below: Path) -> list[Path]:
    return mount_points(Path("/proc/self/mountinfo").read_text(), below)


def _unescape(text: str) -> Path:
    return Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text))
