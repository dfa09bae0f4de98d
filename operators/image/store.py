"""The directory store: blobs named after their SHA-256, and what is on its way to become one.

lock       held (flock) by the process that writes
tmp/       unfinished, emptied at start
incoming/  complete bytes of an Image, named after its UID, until the Image's status tells of the blob
blobs/     <sha256>.qcow2, complete and read-only
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from operators.image.sink import disk_errors
from operators.image.threads import in_thread

_BLOB = re.compile(r"([0-9a-f]{64})\.qcow2")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DirectoryStore:
    """A store in one folder, written by one process at a time.

    A pinned blob is one that a running import relies on; it is not deleted even if no object refers to it yet.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tmp = root / "tmp"
        self._incoming = root / "incoming"
        self._blobs = root / "blobs"
        self._pins: dict[str, int] = {}
        self._change = asyncio.Lock()
        self.opened = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Makes the folders, waits until no other process writes, and clears what an earlier one left unfinished."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _flock(lock)
            await in_thread(self._prepare)
            self.opened.set()
            yield
        finally:
            self.opened.clear()
            os.close(lock)

    def _prepare(self) -> None:
        shutil.rmtree(self._tmp, ignore_errors=True)
        for folder in (self._tmp, self._incoming, self._blobs):
            folder.mkdir(exist_ok=True, mode=0o700)

    @contextmanager
    def work(self) -> Iterator[Path]:
        """A new empty folder below tmp/, removed afterwards with all that is in it."""
        folder = self._tmp / uuid.uuid4().hex
        with disk_errors():
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def incoming(self, uid: str) -> Path:
        """Where the complete bytes of an Image stand, or will."""
        return self._incoming / uid

    def arrived(self) -> list[str]:
        """The UIDs of Images whose bytes have come."""
        return [path.name for path in self._incoming.iterdir()] if self.opened.is_set() else []

    async def keep_incoming(self, uid: str, file: Path) -> None:
        """Takes over a complete file from `work`."""
        with disk_errors():
            await in_thread(_move, file, self.incoming(uid))

    def drop_incoming(self, uid: str) -> None:
        self.incoming(uid).unlink(missing_ok=True)

    def blob(self, sha256: str) -> Path | None:
        """The file of a blob, if it is there. `sha256` may be anything that somebody sent."""
        if not _SHA256.fullmatch(sha256):
            return None
        path = self._blobs / f"{sha256}.qcow2"
        return path if path.is_file() else None

    def blobs(self) -> list[str]:
        return [match.group(1) for path in self._blobs.iterdir() if (match := _BLOB.fullmatch(path.name))]

    async def commit(self, file: Path, sha256: str) -> None:
        """Makes a file, whose checksum this is, a blob, and pins it until `unpin`; `file` itself stays."""
        self._pins[sha256] = self._pins.get(sha256, 0) + 1
        try:
            async with self._change:
                if self.blob(sha256) is None:
                    with disk_errors():
                        await in_thread(self._link, file, sha256)
        except BaseException:
            self.unpin(sha256)
            raise

    def _link(self, file: Path, sha256: str) -> None:
        with file.open("rb") as content:
            os.fsync(content.fileno())
        # By a name of its own: the file may come from the sandbox's folder, with the sandbox's owner and rights.
        staged = self._tmp / f"{sha256}.{uuid.uuid4().hex}"
        os.link(file, staged)
        os.chown(staged, os.geteuid(), os.getegid())
        staged.chmod(0o444)
        _move(staged, self._blobs / f"{sha256}.qcow2")

    def unpin(self, sha256: str) -> None:
        """The blob is an object's business from now on."""
        left = self._pins.get(sha256, 0) - 1
        if left > 0:
            self._pins[sha256] = left
        else:
            self._pins.pop(sha256, None)

    async def delete(self, sha256: str) -> bool:
        """Deletes a blob unless it is pinned; True when it is gone."""
        async with self._change:
            if sha256 in self._pins:
                return False
            path = self.blob(sha256)
            if path is not None:
                await in_thread(path.unlink)
            return True


async def _flock(lock: int) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.5)  # another process writes; flock cannot be awaited
        else:
            return


def _move(file: Path, target: Path) -> None:
    """A rename that outlives a power cut; both are in one file system."""
    file.rename(target)
    with contextlib.closing(_Folder(target.parent)) as folder:
        os.fsync(folder.fd)


class _Folder:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)
