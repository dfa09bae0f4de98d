"""One transfer from the image service into a file, hashed on the way, resumable after a broken connection."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp

from hostagent.errors import NodeError, Reason

_CHUNK = 1 << 20


class Download:
    """Bytes of `url` into `target`, which is made anew; `done` of `size` bytes are there."""

    def __init__(self, url: str, target: Path, size: int, sha256: str) -> None:
        self._url = url
        self._size = size
        self._sha256 = sha256
        self._file = os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._hash = hashlib.sha256()
        self.done = 0

    def close(self) -> None:
        """Ends the writing; may be called twice."""
        self._file.close()

    async def run(self, session: aiohttp.ClientSession, progress: Callable[[int], None]) -> None:
        """Fetches what is missing and verifies the whole.

        Raises aiohttp.ClientError or TimeoutError when the connection broke (call again to go on), NodeError when it
        is of no use.
        """
        headers = {"Range": f"bytes={self.done}-"} if self.done else {}
        async with session.get(self._url, headers=headers, allow_redirects=False) as answer:
            if answer.status == 200 and self.done:
                self._start_over()
            elif answer.status != (206 if self.done else 200):
                raise NodeError(
                    Reason.IMAGE_REFUSED,
                    f"The image service answered {answer.status} {answer.reason or ''} for {self._url}: the"
                    " image may have been"
                    " deleted or deactivated.",
                )
            async for chunk in answer.content.iter_chunked(_CHUNK):
                if self.done + len(chunk) > self._size:
                    raise self._corrupt(f"is longer than the {self._size} bytes that were announced")
                await asyncio.to_thread(self._take, chunk)
                progress(self.done)
        if self.done < self._size:
            raise aiohttp.ClientPayloadError(f"ended after {self.done} of {self._size} bytes")
        if self._hash.hexdigest() != self._sha256:
            found = self._hash.hexdigest()
            raise self._corrupt(f"has the checksum {found} instead of {self._sha256}")
        self._file.flush()

    def _start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.done = 0

    def _take(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NodeError(
                Reason.DISK_FULL, f"The disk of the node filled up while {self._url} was fetched: make room on it."
            ) from error
        self._hash.update(chunk)
        self.done += len(chunk)

    def _corrupt(self, what: str) -> NodeError:
        return NodeError(
            Reason.IMAGE_CORRUPT, f"What the image service delivers for {self._url} {what}. It is not used."
        )
