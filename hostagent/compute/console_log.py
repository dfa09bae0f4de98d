"""The console logs: QEMU appends (O_APPEND), so a log can be cut under it. Where virtlogd is used (qemu.conf's
stdio_handler) it cuts earlier by itself.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

SCAN_EVERY = 5.0
"""Seconds; an emulated serial line writes some 100 KB/s, so a log exceeds its limit by a few times that."""
_MODE = 0o600
_CHUNK = 1 << 20


def prepare(path: Path) -> None:
    """Makes an empty log that only its owner reads; an older one stays."""
    path.touch(mode=_MODE, exist_ok=True)


def cap(path: Path, limit: int) -> bool:
    """Moves what is in a log larger than `limit` bytes to `<name>.1` (its last `limit` bytes); True when it did.

    On a full disk what was in it is lost: the log must not fill the disk any further. Blocks. Raises OSError.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit:
        return False
    older = path.with_name(path.name + ".1")
    try:
        _copy_end(path, older, size, limit)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.warning("%s: the disk is full, so what was in the console log is lost", path)
        older.unlink(missing_ok=True)
    # What is written between the copy and here is lost: some lines at most, of a log that overflows.
    os.truncate(path, 0)
    return True


def _copy_end(path: Path, older: Path, size: int, limit: int) -> None:
    """No more than `limit` bytes, however fast the guest writes on."""
    older.unlink(missing_ok=True)
    target = os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with path.open("rb") as source, os.fdopen(target, "wb") as copy:
        source.seek(size - limit)
        left = limit
        while left and (chunk := source.read(min(left, _CHUNK))):
            copy.write(chunk)
            left -= len(chunk)
