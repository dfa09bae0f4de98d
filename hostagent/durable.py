"""Files that are whole or absent, whenever the machine or the agent stops."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"
"""The suffix of a file that is being written. What bears it at the agent's start is rubbish."""


def partial(path: Path) -> Path:
    """Where the content of `path` is collected before it is complete: in the same directory, so that rename is
    atomic.
    """
    return path.with_name(path.name + PARTIAL)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete file its name: content first (fsync), then the name, then the directory entry (fsync)."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    _sync_directory(path.parent)


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file with this content, atomically and durably."""
    temporary = partial(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    publish(temporary, path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
