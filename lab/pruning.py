"""What the cache no longer needs: versions of tools and guest images that nobody used for long.

Checkouts share the cache, so a version that is not this one's may still be another's. A version is a folder; each use
sets the folder's modification time, and `prune` removes those that were not used for KEPT_SECONDS.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

KEPT_SECONDS = 30 * 24 * 3600


def mark_used(folder: Path) -> None:
    """Note that the version in ``folder`` is in use now."""
    # A cache that belongs to someone else is read, and its owner prunes it.
    with contextlib.suppress(PermissionError, FileNotFoundError):
        os.utime(folder)


def expired(last_use: Iterable[tuple[Path, float]], now: float) -> list[Path]:
    """The folders whose last use (seconds since the epoch) is longer ago than KEPT_SECONDS."""
    return [folder for folder, used in last_use if now - used > KEPT_SECONDS]


def prune(root: Path, now: float | None = None) -> list[Path]:
    """Remove the versions below ``root`` that nobody used for long, and return them."""
    folders = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    gone = expired([(path, path.stat().st_mtime) for path in folders], time.time() if now is None else now)
    for folder in gone:
        # Renamed first: who looks meanwhile finds all of a version or nothing.
        doomed = folder.with_name(f".{folder.name}.removed")
        folder.rename(doomed)
        shutil.rmtree(doomed)
    return gone
