"""A process: caches filled once by lists and then by kopf's watches, controllers, leadership, resync, probes.

kopf (https://docs.kopf.dev) does the watching, the login and the liveness endpoint; its `on.event` handlers are
doorbells that keep no state in the objects. Of a watch that broke and was listed anew kopf does not tell what was
deleted meanwhile, nor of what was deleted between our first list and its own: so after each list of its, and now and
then, our own list is compared with the cache.

Whoever becomes leader lists everything once more before it acts: what its predecessor wrote, and its own watches had
not brought yet, is known then. A list without a resourceVersion is as fresh as the moment it was asked for
(https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import kopf

from runtime.cache import Cache
from runtime.client import ApiError, Client
from runtime.cluster import Cluster, trimmed
from runtime.controller import Controller, backoff
from runtime.leader import Lease

log = logging.getLogger(__name__)

Task = Callable[[], Awaitable[None]]

_FIRST_COMPARISONS = (2.0, 10.0)
"""Seconds from the start of the watches, and from then on, to the first comparisons with a list."""
_LIST_AGAIN = 3.0
"""Seconds, at most, between two tries of a list that all waits for; a new agent's rights come some moments after it."""
_LISTING_ENDS = 1.0
"""Seconds without a further item after which a list of kopf's is taken to be complete."""


@dataclass(frozen=True)
class Retries:
    """The delays, in seconds, between tries of a request that never gives up: doubled from `first` to `most`, jittered.

    kopf goes through them anew for each request. With its default of eight, a watch fails for good after some 50 s
    without an apiserver, and the process with it.
    """

    first: float = 0.5
    most: float = 15.0

    def __iter__(self) -> Iterator[float]:
        for failures in itertools.count(1):
            yield backoff(failures, first=self.first, most=self.most, spread=random.random())  # noqa: S311 - jitter


@dataclass
class Process:
    """What runs: `controllers` and `tasks` only while leading (if there is a `lease`), `always` from the start."""

    cluster: Cluster
    controllers: Sequence[Controller]
    tasks: Sequence[Task] = ()
    always: Sequence[Task] = ()
    lease: Lease | None = None
    liveness: str | None = None
    resync_every: float = 600
    retries: Retries = Retries()
    """Seconds between the tries of a watch while the apiserver does not answer."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _listed: dict[Cache[Any], float] = field(default_factory=dict)
    """When kopf last listed a kind, in the loop's time, until that list was compared."""

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, or until a part fails, which ends the process: it is started anew clean."""
        stop = self._stop
        self._heed_signals()
        work = asyncio.create_task(self._run())
        waiter = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            work.cancel()
            results = await asyncio.gather(work, return_exceptions=True)
        if self.lease is not None and stop.is_set():
            await self.lease.release()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def _heed_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for task in self.always:
                group.create_task(_as_coroutine(task))
            await self._list_all()
            by_namespace: dict[str | None, list[Cache[Any]]] = defaultdict(list)
            for cache in self.cluster.caches.values():
                by_namespace[cache.namespace].append(cache)
            first = True
            for namespace, caches in by_namespace.items():
                endpoint = self.liveness if first else None
                group.create_task(self._watch(namespace, caches, endpoint))
                first = False
            group.create_task(self._resync())
            group.create_task(self._compare_lists())
            self.ready.set()
            if self.lease is not None:
                await self.lease.acquire()
                group.create_task(self.lease.hold())
                await self._list_all()
            for controller in self.controllers:
                group.create_task(controller.run())
            for task in self.tasks:
                group.create_task(_as_coroutine(task))

    async def _list_all(self) -> None:
        """Returns once each cache has taken in a list that was asked for after the call."""

        async def fill(cache: Cache[Any]) -> None:
            for delay in self.retries:
                try:
                    await _relist(self.cluster.client, cache)
                except ApiError as error:
                    delay = min(delay, _LIST_AGAIN)
                    log.warning("%s: list failed, next try in %.1f s: %s", cache.kind.kind, delay, error)
                    await asyncio.sleep(delay)
                else:
                    return

        async with asyncio.TaskGroup() as group:
            for cache in self.cluster.caches.values():
                group.create_task(fill(cache))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.resync_every * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
            for cache in self.cluster.caches.values():
                await self._compare(cache)

    async def _compare_lists(self) -> None:
        """Compares after kopf's lists. Of an empty one nobody hears, so at the start all are compared, twice."""
        clock = asyncio.get_running_loop().time
        for delay in _FIRST_COMPARISONS:
            await asyncio.sleep(delay)
            for cache in self.cluster.caches.values():
                self._listed.pop(cache, None)
                await self._compare(cache)
        while True:
            await asyncio.sleep(_LISTING_ENDS)
            quiet = [cache for cache, at in self._listed.items() if clock() - at >= _LISTING_ENDS]
            for cache in quiet:
                del self._listed[cache]
                await self._compare(cache)

    async def _compare(self, cache: Cache[Any]) -> None:
        try:
            await _relist(self.cluster.client, cache)
        except ApiError as error:
            log.warning("%s: resync failed: %s", cache.kind.kind, error)

    async def _watch(self, namespace: str | None, caches: Sequence[Cache[Any]], liveness: str | None) -> None:
        # A line per event and handler says nothing that the controllers do not say of what they decide.
        logging.getLogger("kopf").setLevel(logging.WARNING)
        registry = kopf.OperatorRegistry()
        connection = self.cluster.client.connection()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await connection()

        kopf.on.login(registry=registry)(login)
        for cache in caches:
            self._doorbell(registry, cache)
        started = asyncio.Event()
        heeding = asyncio.create_task(self._heed_signals_after(started))
        try:
            await kopf.operator(
                registry=registry,
                settings=_settings(self.retries),
                clusterwide=namespace is None,
                namespaces=[] if namespace is None else [namespace],
                liveness_endpoint=liveness,
                ready_flag=started,
            )
        finally:
            heeding.cancel()
        # It returns when it was signalled before it was ready.
        self._stop.set()

    async def _heed_signals_after(self, started: asyncio.Event) -> None:
        """kopf puts its own signal handlers in the place of ours; told by them, it waits 5 s for tasks of ours."""
        await started.wait()
        self._heed_signals()

    def _doorbell(self, registry: kopf.OperatorRegistry, cache: Cache[Any]) -> None:
        kind, clock = cache.kind, asyncio.get_running_loop().time

        async def ring(event: dict[str, Any], **_: Any) -> None:
            if event["type"] == "DELETED":
                cache.forget(dict(event["object"]))
                return
            if event["type"] is None:  # an item of a list
                self._listed[cache] = clock()
            cache.observe(trimmed(dict(event["object"])))

        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"doorbell-{kind.plural}")(ring)


async def _as_coroutine(task: Task) -> None:
    await task()


class HistoryLost(Exception):
    """The apiserver's state is older than what was seen of it before: etcd came back from a backup."""


async def _relist(client: Client, cache: Cache[Any]) -> None:
    newest = cache.newest
    objects, version = await client.list(cache.kind, cache.namespace)
    if version < newest:
        # Versions begin to rise anew, so nothing that is cached can be compared with what comes.
        raise HistoryLost(f"{cache.kind.kind}: version {newest} was seen, and the list is of version {version}")
    cache.relist((trimmed(obj) for obj in objects), version)


def _settings(retries: Retries) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False  # Events are ours, on transitions only
    settings.scanning.disabled = (
        True  # no watch over CRDs and namespaces: kinds are known, and need no right to list them
    )
    settings.watching.server_timeout = 540
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.5
    # A doorbell is done in microseconds; the worker kept per object afterwards would be memory for nothing.
    settings.queueing.idle_timeout = 0.5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = retries
    settings.execution.max_workers = 1
    return settings
