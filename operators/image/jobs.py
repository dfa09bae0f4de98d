"""The imports of this process: at most so many at once, each from bytes outside to a blob in the store.

An import leaves its complete bytes in the store's incoming/ until its Image's status tells of the blob, so that a
process that ended on the way continues behind the download.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from operators.image.convert import ConvertLimits, look, make_plain
from operators.image.failure import ImportFailure, Reason, refused, transient
from operators.image.fetch import FetchLimits, fetch
from operators.image.model import Done, Failed, ImportRequest, Job, Running, Stage, StoredImage
from operators.image.policy import AddressPolicy
from operators.image.sink import Received, Sink, hash_file
from operators.image.store import DirectoryStore
from operators.image.threads import in_thread
from runtime.cache import Key
from runtime.controller import backoff

log = logging.getLogger(__name__)

_STEP = 5  # per cent
_INTERVAL = 1.0  # seconds
_OPEN_AGAIN = 5.0  # seconds


class Busy(Exception):
    """The Image's bytes are arriving or being imported already."""


@dataclass
class _Entry:
    request: ImportRequest
    state: Job
    failures: int = 0
    told_at: float = 0.0
    received: Received | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Importer:
    """`on_change(key)` is called when a job's state changed; progress at most per second and per five per cent.

    `on_open()` is called when the store can be looked into: what an earlier process left there is known from then on.
    """

    def __init__(
        self,
        store: DirectoryStore,
        policy: AddressPolicy,
        fetch_limits: FetchLimits,
        convert_limits: ConvertLimits,
        *,
        slots: int,
        on_change: Callable[[Key], None],
        on_open: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._policy = policy
        self._fetch_limits = fetch_limits
        self._convert_limits = convert_limits
        self._slots = asyncio.Semaphore(slots)
        self._on_change = on_change
        self._on_open = on_open
        self._now = now
        self._entries: dict[str, _Entry] = {}
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue()
        self.trouble: str | None = None
        """Why the store cannot be opened."""

    def job(self, uid: str) -> Job | None:
        entry = self._entries.get(uid)
        return entry.state if entry else None

    def start(self, request: ImportRequest) -> None:
        """Starts an import unless one runs; a failed one is tried again."""
        old = self._entries.get(request.uid)
        if old is not None and isinstance(old.state, Running):
            return
        entry = _Entry(request, Running(Stage.QUEUED), failures=old.failures if old else 0)
        self._entries[request.uid] = entry
        self._queue.put_nowait(entry)

    async def discard(self, key: Key, keep_uid: str | None = None) -> None:
        """Ends and forgets what runs for the Images of this name, but for the one with `keep_uid`, and their bytes."""
        for uid, entry in list(self._entries.items()):
            if entry.request.key != key or uid == keep_uid:
                continue
            del self._entries[uid]
            if entry.task is not None:
                entry.task.cancel()
                await asyncio.wait({entry.task})
            if isinstance(entry.state, Done):
                self._store.unpin(entry.state.stored.stored_sha256)
            if self._store.opened.is_set():
                self._store.drop_incoming(uid)

    def settle(self, uid: str) -> None:
        """Forgets a finished import, of which the Image's status tells."""
        entry = self._entries.pop(uid, None)
        if entry is not None and isinstance(entry.state, Done):
            self._store.unpin(entry.state.stored.stored_sha256)
        self._store.drop_incoming(uid)

    async def run(self) -> None:
        """Works until cancelled, which ends all imports."""
        while True:
            try:
                async with self._store.open():
                    self.trouble = None
                    self._on_open()
                    await self._work()
            except OSError as error:
                self.trouble = f"The image store cannot be opened: {error}. The administrator must see to it."
                log.error("%s", self.trouble)
                for entry in self._entries.values():
                    self._on_change(entry.request.key)
            await asyncio.sleep(_OPEN_AGAIN)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                entry = await self._queue.get()
                if self._entries.get(entry.request.uid) is entry:
                    entry.task = group.create_task(self._import(entry))

    async def receive(self, request: ImportRequest, chunks: AsyncIterator[bytes], length: int | None) -> None:
        """Takes an upload: returns when the bytes are safe and look right; the import goes on by itself.

        `length`: of the bytes, if announced. Raises `Busy`, or an `ImportFailure`, which the Image's status tells too.
        """
        old = self._entries.get(request.uid)
        if old is not None and isinstance(old.state, Running):
            raise Busy
        entry = _Entry(request, Running(Stage.SAVING), failures=old.failures if old else 0)
        entry.task = asyncio.current_task()
        self._entries[request.uid] = entry
        self._on_change(request.key)
        try:
            with self._store.work() as folder:
                target = folder / "upload"
                async with Sink(target, self._fetch_limits.max_size) as sink:
                    async for chunk in chunks:
                        await sink.write(chunk)
                        if length:
                            self._saved(entry, sink.size, length)
                    received = await sink.finish()
                await self._accept(entry, target, received)
        except ImportFailure as failure:
            self._fail(entry, failure)
            raise
        except BaseException:
            # The client is gone: the Image waits for the next upload.
            self._fail(entry, _incomplete())
            raise
        entry.task = None
        self._enter(entry, Running(Stage.QUEUED))
        self._queue.put_nowait(entry)

    async def _import(self, entry: _Entry) -> None:
        request = entry.request
        try:
            async with self._slots:
                stored = await self._import_now(entry)
        except ImportFailure as failure:
            self._fail(entry, failure)
        except Exception as error:
            log.exception("%s: import failed", request.key)
            self._fail(
                entry,
                transient(
                    Reason.INTERNAL_ERROR, f"The import failed by a fault of the operator: {error!r}. See its log."
                ),
            )
        else:
            entry.failures = 0
            self._enter(entry, Done(stored))
            log.info("%s: imported as %s", request.key, stored.stored_sha256)

    async def _import_now(self, entry: _Entry) -> StoredImage:
        request, store = entry.request, self._store
        incoming = store.incoming(request.uid)
        received: Received
        if incoming.exists():
            self._enter(entry, Running(Stage.IMPORTING, 0))
            received = entry.received if entry.received is not None else await in_thread(hash_file, incoming)
        else:
            received = await self._save(entry)
            self._enter(entry, Running(Stage.IMPORTING, 0))
        with store.work() as folder:
            file, facts = await make_plain(
                incoming,
                request.declared,
                folder,
                self._convert_limits,
                lambda percent: self._progress(entry, Stage.IMPORTING, percent),
            )
            kept = received if file == incoming else await in_thread(hash_file, file)
            await store.commit(file, kept.sha256)
        return StoredImage(received.sha256, kept.sha256, kept.size, facts.virtual_size, request.declared)

    async def _save(self, entry: _Entry) -> Received:
        request = entry.request
        if request.url is None:
            raise _incomplete()  # the incoming bytes of an upload were lost
        self._enter(entry, Running(Stage.SAVING, 0))

        def progress(size: int, total: int | None) -> None:
            if total:
                self._saved(entry, size, total)

        with self._store.work() as folder:
            target = folder / "download"
            received = await fetch(
                request.url,
                target,
                self._policy,
                self._fetch_limits,
                checksummed=request.sha256 is not None,
                on_progress=progress,
            )
            await self._accept(entry, target, received)
        return received

    async def _accept(self, entry: _Entry, file: Path, received: Received) -> None:
        """Checks complete bytes as far as that is quick, and puts them where a restart finds them."""
        request = entry.request
        if request.sha256 is not None and received.sha256 != request.sha256:
            raise refused(
                Reason.CHECKSUM_MISMATCH,
                f"The bytes have SHA-256 {received.sha256}, not {request.sha256} as they must. Correct the source, or"
                " create a new Image with the right spec.sha256.",
            )
        await look(file, request.declared, self._convert_limits)
        await self._store.keep_incoming(request.uid, file)
        entry.received = received

    def _saved(self, entry: _Entry, size: int, total: int) -> None:
        self._progress(entry, Stage.SAVING, min(size * 100 // total, 100))

    def _progress(self, entry: _Entry, stage: Stage, percent: int) -> None:
        percent -= percent % _STEP
        if entry.state == Running(stage, percent) or time.monotonic() - entry.told_at < _INTERVAL:
            return
        self._enter(entry, Running(stage, percent))

    def _enter(self, entry: _Entry, state: Job) -> None:
        if self._entries.get(entry.request.uid) is entry:
            entry.state = state
            entry.told_at = time.monotonic()
            self._on_change(entry.request.key)

    def _fail(self, entry: _Entry, failure: ImportFailure) -> None:
        request = entry.request
        entry.failures += 1
        retry_at = None
        if failure.permanent:
            self._store.drop_incoming(request.uid)
        else:
            delay = backoff(entry.failures, first=2, most=300, spread=random.random())  # noqa: S311 - jitter
            retry_at = self._now() + timedelta(seconds=delay)
        log.warning("%s: %s: %s", request.key, failure.reason, failure.message)
        state = Failed(failure.reason, failure.message, request.generation, entry.failures, retry_at)
        self._enter(entry, state)


def _incomplete() -> ImportFailure:
    return transient(Reason.UPLOAD_INCOMPLETE, "The upload ended before all bytes had come. Send them again.")
