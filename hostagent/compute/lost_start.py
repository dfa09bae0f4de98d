"""A start that libvirtd lost: it was killed after it had noted that a start began, and before it noted QEMU's process.

Back again, it takes the guest for one that is being started, holds its lock for that start, and never looks further
(seen of libvirt 9.0: what has no process is not reconnected to, `qemuProcessReconnectHelper`). Nothing can be done with
such a guest, not even to destroy it, until libvirtd starts without its note of it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import struct
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

log = logging.getLogger(__name__)

_SOCKET = Path("/run/libvirt/libvirt-sock")
_DAEMONS = frozenset({"libvirtd", "virtqemud"})
_CLOCKS_DIFFER = 0.05
"""Seconds: a process's age is counted in ticks, and no daemon starts a guest that early."""
_PROC = Path("/proc")
_START_TIME = 19
"""Field 22 of proc_pid_stat(5), counted from what follows the name."""


def says_no_process(note: str) -> bool:
    """Whether libvirt's note of a guest that is on (`/run/libvirt/qemu/<name>.xml`) is without a QEMU."""
    return re.search(r"<domstatus\s[^>]*\bpid=['\"]0['\"]", note) is not None


def socket_of(uri: str) -> Path:
    """Where the daemon of a connection URI (https://libvirt.org/uri.html) listens."""
    given = parse_qs(urlsplit(uri).query).get("socket")
    return Path(given[0]) if given else _SOCKET


def end(uri: str, uid: str) -> bool:
    """Forgets a lost start, for which the daemon is ended: guests do not notice, and whoever supervises it starts it
    anew. False when the start is under way still. Blocks. Raises OSError.
    """
    listening = socket_of(uri)
    note = listening.parent / "qemu" / f"{uid}.xml"
    try:
        if not says_no_process(note.read_text(errors="replace")):
            return False
        noted_at = note.stat().st_mtime
    except FileNotFoundError:
        return False
    daemon = _daemon(listening)
    descriptor = os.pidfd_open(daemon)
    try:
        if noted_at >= _started_at(daemon) + _CLOCKS_DIFFER:
            return False
        note.unlink(missing_ok=True)
        log.warning("%s: libvirt lost its start: ending the daemon, process %d, which holds it locked", uid, daemon)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return True


def _daemon(listening: Path) -> int:
    """The process at the other end; where that is a supervisor, which gave it the socket, the daemon on this node."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(listening))
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if _name(_PROC / str(pid)) in _DAEMONS:
        return int(pid)
    own = (_PROC / "self/ns/net").stat().st_ino
    for directory in _PROC.iterdir():
        if directory.name.isdigit() and _name(directory) in _DAEMONS and (directory / "ns/net").stat().st_ino == own:
            return int(directory.name)
    raise ProcessLookupError(f"no process of libvirt's daemon at {listening} is to be seen")


def _name(directory: Path) -> str:
    try:
        return (directory / "comm").read_text().strip()
    except OSError:
        return ""  # it ended meanwhile, or is not to be seen


def _started_at(pid: int) -> float:
    """In seconds since the epoch."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - up + int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
