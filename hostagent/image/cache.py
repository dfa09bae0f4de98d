"""The node's base images, by checksum.

A file under its final name is whole and verified: it is collected elsewhere, hashed on the way, synced, then
renamed. One download at a
time per image, whoever asks; few at once in all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hostagent import durable
from hostagent.errors import NodeError, Reason
from hostagent.image.download import Download
from hostagent.layout import Layout

log = logging.getLogger(__name__)

_AT_ONCE = 2
_KEEP_FREE = 256 << 20
"""Bytes that a download leaves free on the file system: guests' disks grow there too."""
_READABLE = 0o444
_TRIES = 4


@dataclass(frozen=True)
class ImageSource:
    """An image as a work object names it; `size` in bytes."""

    sha256: str
    size: int
    url: str


class ImageCache:
    """`ensure` brings an image to the node. `tls` None uses the system's CAs and no client certificate."""

    def __init__(self, layout: Layout, tls: ssl.SSLContext | None = None, *, keep_free: int = _KEEP_FREE) -> None:
        self._layout = layout
        self._tls = tls
        self._keep_free = keep_free
        self._downloads: dict[str, asyncio.Task[Path]] = {}
        self._progress: dict[str, int] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def cached(self, sha256: str) -> bool:
        """Whether the image is on the node."""
        return self._layout.image(sha256).exists()

    def progress(self, sha256: str) -> int | None:
        """Per cent of a download that is under way."""
        return self._progress.get(sha256)

    async def ensure(self, image: ImageSource) -> Path:
        """The path of the image, fetched first if need be. Raises NodeError with an image's or disk's reason."""
        path = self._layout.image(image.sha256)
        if path.exists():
            return path
        task = self._downloads.get(image.sha256)
        if task is None:
            task = asyncio.create_task(self._fetch(image, path), name=f"image {image.sha256}")
            self._downloads[image.sha256] = task
            task.add_done_callback(lambda done: self._done(image.sha256, done))
        # One guest's deletion does not end a download that others wait for.
        return await asyncio.shield(task)

    def _done(self, sha256: str, task: asyncio.Task[Path]) -> None:
        self._downloads.pop(sha256, None)
        # Whoever asked may have gone; then nobody else hears of a failure.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("image %s: %s", sha256, error)

    async def _fetch(self, image: ImageSource, path: Path) -> Path:
        async with self._slots:
            self._progress[image.sha256] = 0
            try:
                return await self._download(image, path)
            finally:
                del self._progress[image.sha256]

    async def _download(self, image: ImageSource, path: Path) -> Path:
        self._check_space(image)
        temporary = durable.partial(path)
        download = Download(image.url, temporary, image.size, image.sha256)
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
                timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=30),
            ) as session:
                await self._with_retries(session, download, image)
            await asyncio.to_thread(_publish, temporary, path)
        finally:
            # First its name: on a full disk closing fails too.
            temporary.unlink(missing_ok=True)
            download.close()
        log.info("image %s: cached, %d bytes", image.sha256, image.size)
        return path

    async def _with_retries(self, session: aiohttp.ClientSession, download: Download, image: ImageSource) -> None:
        def progress(done: int) -> None:
            self._progress[image.sha256] = min(100, done * 100 // image.size)

        for attempt in range(1, _TRIES + 1):
            try:
                await download.run(session, progress)
                return
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == _TRIES:
                    raise NodeError(
                        Reason.IMAGE_UNREACHABLE,
                        f"The image service did not deliver {image.url}: {error!r}. It is tried again.",
                    ) from error
                log.warning("image %s: broke off after %d bytes, going on: %r", image.sha256, download.done, error)
                await asyncio.sleep(0.5 * attempt)

    def _check_space(self, image: ImageSource) -> None:
        file_system = os.statvfs(self._layout.images)
        free = file_system.f_bavail * file_system.f_frsize
        if free < image.size + self._keep_free:
            raise NodeError(
                Reason.DISK_FULL,
                f"The disk of the node is full: the image needs {image.size >> 20} MiB and"
                f" {self._keep_free >> 20} MiB must stay"
                f" free, but {self._layout.images} has {free >> 20} MiB. Make room, or move instances away.",
            )


def _publish(temporary: Path, path: Path) -> None:
    # QEMU, which runs as another user, reads it; nobody writes it again.
    temporary.chmod(_READABLE)
    durable.publish(temporary, path)
