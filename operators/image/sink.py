"""A file that bytes from outside stream into: counted, limited, hashed, and safely on disk when finished."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from crds.quantity import format_quantity
from operators.image.failure import ImportFailure, Reason, refused, transient
from operators.image.threads import in_thread


@dataclass(frozen=True)
class Received:
    """What has come: bytes and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


def too_large(max_size: int) -> ImportFailure:
    return refused(
        Reason.TOO_LARGE,
        f"The image has more than {format_quantity(max_size)}, the most that is taken. Compress it (qemu-img convert -c"
        " -O qcow2), or ask the administrator to raise the limit.",
    )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns the disk's errors into `ImportFailure`s."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise transient(
                Reason.STORE_FAILED,
                f"The image store cannot be used: {error.strerror}. The administrator must see to it.",
            ) from error
        raise transient(
            Reason.STORE_FULL,
            "The image store is full. Delete images that nobody needs, or ask the administrator to enlarge the store.",
        ) from error


class Sink:
    """An asynchronous context manager around a new file, whose work is done in threads.

    The file is readable by anybody who can reach it, so that the sandbox's user can; who can is its folder's to say.
    """

    def __init__(self, target: Path, max_size: int) -> None:
        self._target = target
        self._max_size = max_size
        self._hash = hashlib.sha256()
        self._fd = -1
        self.size = 0

    async def __aenter__(self) -> Sink:
        self._fd = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.fchmod(self._fd, 0o644)  # whatever the umask is
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    async def write(self, chunk: bytes) -> None:
        """Appends. Raises `ImportFailure` TooLarge beyond the limit and StoreFull when the disk is."""
        if self.size + len(chunk) > self._max_size:
            raise too_large(self._max_size)
        with disk_errors():
            await in_thread(self._append, chunk)
        self.size += len(chunk)

    async def finish(self) -> Received:
        """Waits until the bytes are on disk."""
        with disk_errors():
            await in_thread(self._sync)
        return Received(self.size, self._hash.hexdigest())

    def _append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def _sync(self) -> None:
        os.fsync(self._fd)


def hash_file(path: Path) -> Received:
    """Size and checksum of a file; blocking."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return Received(file.tell(), digest.hexdigest())
