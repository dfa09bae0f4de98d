"""QEMU processes that libvirt lost: libvirtd was killed between starting one and writing down that it did.

Such a process holds the guest's tap and disk, and nobody will ever let it run: it is ended before the guest is
started anew.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from itertools import pairwise
from pathlib import Path

log = logging.getLogger(__name__)

_PROC = Path("/proc")
_END_WITHIN_MS = 5000


def is_guest(cmdline: bytes, uid: str) -> bool:
    """Whether a command line (proc_pid_cmdline(5)) is that of a QEMU for the domain with this UUID."""
    words = cmdline.split(b"\0")
    return (b"-uuid", uid.encode()) in pairwise(words)


def end_orphans(uid: str) -> list[int]:
    """Ends every QEMU of this guest on this node, and returns their process IDs. Blocks, rarely for long.

    Only to be called when libvirt says that the domain is off. A process in another network namespace is another
    node's, of several on one machine. Raises TimeoutError when one does not end: its disk is still in use then.
    """
    ended = []
    for pid in _guests(uid):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            log.warning("%s: QEMU process %d is not known to libvirt: ending it", uid, pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(_END_WITHIN_MS):
                raise TimeoutError(f"QEMU process {pid}, which libvirt does not know, does not end")
            ended.append(pid)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)
    return ended


def _guests(uid: str) -> list[int]:
    own = (_PROC / "self/ns/net").stat()
    found = []
    for directory in _PROC.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if not is_guest((directory / "cmdline").read_bytes(), uid):
                continue
            namespace = (directory / "ns/net").stat()
        except OSError:
            continue  # it ended meanwhile
        if (namespace.st_dev, namespace.st_ino) == (own.st_dev, own.st_ino):
            found.append(int(directory.name))
    return found
