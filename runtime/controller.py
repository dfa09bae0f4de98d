"""A queue of keys around one `reconcile(key)`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from runtime.cache import Key
from runtime.client import ApiError, Conflict

log = logging.getLogger(__name__)


class Reconcile(Protocol):
    """Brings one object to its desired state. Returns the seconds after which to look again, or None."""

    def __call__(self, key: Key) -> Awaitable[float | None]: ...


def backoff(failures: int, *, first: float = 0.2, most: float = 60.0, spread: float = 1.0) -> float:
    """Seconds before try number `failures` + 1: doubled each time, with full jitter by `spread` in [0, 1]."""
    ceiling = min(most, first * 2.0 ** min(failures - 1, 16))
    return ceiling * (0.5 + 0.5 * spread)


class Controller:
    """Runs `reconcile` for each enqueued key: never twice at once for one key, once more if enqueued meanwhile.

    A failure is retried with back-off, and told to `on_error(key, error, failures)`, which may write a condition.
    A `Conflict` (the object changed since it was read) is no failure: the key is looked at again shortly, and less and
    less often while the conflict lasts, as when a watch lags behind.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 8,
        on_error: Callable[[Key, Exception, int], Awaitable[None]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._on_error = on_error
        self._jitter = jitter
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._conflicts: dict[Key, int] = {}

    def enqueue(self, key: Key) -> None:
        """Asks for a look at `key` as soon as a worker is free; many calls before that make one look."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Asks for a look in `seconds`, unless one comes earlier by itself."""
        loop = asyncio.get_running_loop()
        pending = self._timers.get(key)
        if pending is not None:
            if pending.when() <= loop.time() + seconds:
                return
            pending.cancel()
        self._timers[key] = loop.call_later(seconds, self.enqueue, key)

    def idle(self) -> bool:
        """True when nothing is queued or running (timers may be set)."""
        return not self._queued and not self._running

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._running.add(key)
            try:
                await self._look(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.enqueue(key)

    async def _look(self, key: Key) -> None:
        try:
            later = await self._reconcile(key)
        except Conflict as error:
            log.debug("%s: %s changed meanwhile: %s", key, self.name, error)
            # The watch brings the newer object within milliseconds; looking before that would meet the old one again.
            conflicts = self._conflicts.get(key, 0) + 1
            self._conflicts[key] = conflicts
            self.enqueue_after(key, backoff(conflicts, first=0.05, most=5.0))
        except Exception as error:  # a controller outlives any fault of one object and retries it
            failures = self._failures.get(key, 0) + 1
            self._failures[key] = failures
            delay = backoff(failures, spread=self._jitter())
            expected = isinstance(error, ApiError)
            log.log(
                logging.WARNING if expected else logging.ERROR,
                "%s: %s failed, next try in %.1f s: %s",
                key,
                self.name,
                delay,
                error if expected else repr(error),
                exc_info=None if expected else error,
            )
            self.enqueue_after(key, delay)
            await self._tell(key, error, failures)
        else:
            self._failures.pop(key, None)
            self._conflicts.pop(key, None)
            if later is not None:
                self.enqueue_after(key, later)

    async def _tell(self, key: Key, error: Exception, failures: int) -> None:
        if self._on_error is None:
            return
        try:
            await self._on_error(key, error, failures)
        except Exception as second:  # as a failure of `reconcile`; the next one is told again
            trace = None if isinstance(second, ApiError) else second
            log.warning("%s: %s could not report its failure: %r", key, self.name, second, exc_info=trace)
