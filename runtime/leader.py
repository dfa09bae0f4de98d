"""One active replica: a Lease, and the end of the process when it is lost (peering is not leader election)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from runtime.client import AlreadyExists, ApiError, Client, Conflict, NotFound
from runtime.kind import LEASE

log = logging.getLogger(__name__)

_RELEASE_WITHIN = 5.0
MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


def micro_time(at: datetime) -> str:
    """A `metav1.MicroTime`."""
    return at.astimezone(UTC).strftime(MICRO_TIME)


class LostLease(Exception):
    """Another holds the Lease, or it could not be renewed in time: whoever relied on it must end."""


class Lease:
    """A `coordination.k8s.io` Lease held by `identity`.

    A holder's death is judged as client-go does: the same record seen unchanged for `duration` by the observer's own
    monotonic clock, so that clocks of different machines are never compared. The same identity coming back takes over
    at once.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15,
        renew_every: float = 3,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._duration = duration
        self._renew_every = renew_every
        self._now = now
        self._seen: tuple[str, float] | None = None
        self._own: dict[str, Any] | None = None
        """The Lease as this process last wrote it: while nobody else does, a renewal is one request."""
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Returns once this identity holds the Lease, and can rely on it for some time."""
        while True:
            try:
                async with asyncio.timeout(self._reliance):
                    held = await self._try()
                if held:
                    log.info("%s/%s: lease held by %s", self._namespace, self._name, self.identity)
                    return
            except (ApiError, TimeoutError) as error:
                log.warning("%s/%s: cannot acquire the lease: %r", self._namespace, self._name, error)
            await asyncio.sleep(self._renew_every)

    async def hold(self) -> None:
        """Renews until it fails for two thirds of the duration or another takes over; then raises `LostLease`.

        The time is up also for a request that was not answered yet: others do not wait for it.
        """
        what = f"{self._namespace}/{self._name}"
        trouble: ApiError | None = None
        while True:
            try:
                async with asyncio.timeout_at(self._renewed_at + self._reliance):
                    await asyncio.sleep(self._renew_every)
                    held = await self._try()
            except TimeoutError:
                raise LostLease(f"{what} could not be renewed: {trouble or 'no answer in time'}") from trouble
            except ApiError as error:
                trouble = error
                log.warning("%s: cannot renew the lease: %s", what, error)
            else:
                trouble = None
                if not held:
                    raise LostLease(f"{what} is held by another")

    @property
    def _reliance(self) -> float:
        """Seconds from when a renewal was sent that the holder relies on it: others wait a third longer."""
        return self._duration * 2 / 3

    async def renew_forever(self, on_renewed: Callable[[], Awaitable[None]] | None = None) -> None:
        """Renews a Lease that only tells of life (an agent's): failures are retried for ever."""
        while True:
            try:
                await self._try(take_over=True)
                if on_renewed is not None:
                    await on_renewed()
            except ApiError as error:
                log.warning("%s/%s: cannot renew the lease: %s", self._namespace, self._name, error)
            await asyncio.sleep(self._renew_every)

    async def release(self) -> None:
        """Gives the Lease up, so that another replica needs not wait for its end. Takes 5 s at most."""
        try:
            async with asyncio.timeout(_RELEASE_WITHIN):
                lease = await self._client.get(LEASE, self._name, self._namespace)
                if lease["spec"].get("holderIdentity") == self.identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._client.replace(LEASE, lease)
        except (ApiError, TimeoutError) as error:
            log.warning("%s/%s: cannot release the lease: %r", self._namespace, self._name, error)

    async def _try(self, *, take_over: bool = False) -> bool:
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        if self._own is not None:
            own, self._own = self._own, None
            try:
                self._own = await self._client.replace(LEASE, self._record(own))
            except (Conflict, NotFound):
                log.debug("%s/%s: the lease was changed by another", self._namespace, self._name)
            else:
                self._renewed_at = sent_at
                return True
        try:
            lease = await self._client.get(LEASE, self._name, self._namespace)
        except NotFound:
            try:
                self._own = await self._client.create(LEASE, self._record(None))
            except (AlreadyExists, Conflict):
                return False
            self._renewed_at = sent_at
            return True
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self.identity) and not take_over:
            seen = f"{holder} {spec.get('renewTime')} {spec.get('leaseTransitions')}"
            if self._seen is None or self._seen[0] != seen:
                self._seen = (seen, clock())
            if clock() - self._seen[1] < (spec.get("leaseDurationSeconds") or self._duration):
                return False
        try:
            self._own = await self._client.replace(LEASE, self._record(lease))
        except Conflict:
            return False
        self._renewed_at = sent_at
        return True

    def _record(self, old: dict[str, Any] | None) -> dict[str, Any]:
        now = micro_time(self._now())
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self._duration),
            "renewTime": now,
        }
        if old is None:
            meta: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
            return {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": meta,
                "spec": {**spec, "acquireTime": now, "leaseTransitions": 0},
            }
        before = old["spec"]
        if before.get("holderIdentity") == self.identity:
            spec["acquireTime"] = before.get("acquireTime") or now
            spec["leaseTransitions"] = before.get("leaseTransitions") or 0
        else:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = (before.get("leaseTransitions") or 0) + 1
        return {**old, "spec": spec}


def expired(lease: dict[str, Any], now: datetime) -> bool:
    """Whether a Lease's own times say that its holder stopped renewing."""
    spec = lease.get("spec") or {}
    renewed = spec.get("renewTime")
    if not renewed:
        return True
    at = datetime.strptime(renewed, MICRO_TIME).replace(tzinfo=UTC)
    return now - at > timedelta(seconds=spec.get("leaseDurationSeconds") or 0)
