"""The console logs: QEMU appends (O_APPEND), so a log can be cut under it; where virtlogd is used it cuts
earlier by itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path

_MODE = 0o600


def prepare(path: Path) -> None:
    """Makes an empty log that only its owner reads; an older one stays."""
    path.touch(mode=_MODE, exist_ok=True)


def cap(path: Path, limit: int) -> bool:
    """Moves what is in a log larger than `limit` bytes to `<name>.1` (its last `limit` bytes); True when it did."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit:
        return False
    older = path.with_name(path.name + ".1")
    with path.open("rb") as source, older.open("wb") as target:
        older.chmod(_MODE)
        source.seek(max(0, size - limit))
        shutil.copyfileobj(source, target)
    # What is written between the copy and here is lost: some lines at most, of a log that overflows.
    with path.open("r+b") as log:
        log.truncate(0)
    return True
