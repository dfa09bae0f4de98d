"""One command at a time on a lab: a lock on a folder itself, which leaves no file behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.progress import say


@contextmanager
def locked(folder: Path, whose: str, *, create: bool = True, mode: int = 0o755) -> Iterator[None]:
    """Hold the lock of ``folder``, which whoever holds it may remove. ``whose`` is for the message while waiting.

    With create=False a folder that is not there needs no lock.
    """
    while True:
        if create:
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
        elif not folder.exists():
            yield
            return
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"  another command works on {whose}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A `down` that held the lock has removed the folder meanwhile.
            if folder.exists() and os.stat(folder).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116  # beside fstat
                yield
                return
        finally:
            os.close(descriptor)
