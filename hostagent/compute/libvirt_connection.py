"""One connection to libvirtd, kept up: a daemon that was killed and restarted is connected to again, guests
having gone on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt

from hostagent.compute.hypervisor import HypervisorError, HypervisorUnavailable
from hostagent.compute.libvirt_events import start_event_loop

log = logging.getLogger(__name__)

T = TypeVar("T")

_KEEPALIVE_EVERY = 10
_KEEPALIVE_MISSES = 3
_WORKERS = 6
_RETRY_AFTER = (0.2, 0.5, 1.0, 2.0, 5.0)

_MAY_BE_LOST = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_SYSTEM_ERROR,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_INTERNAL_ERROR,
}


class LibvirtConnection:
    """Runs blocking libvirt calls on a bounded pool of threads, with the connection of the moment."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="libvirt")
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._on_domain: Callable[[str], None] = lambda uid: None
        self._on_connected: Callable[[], None] = lambda: None

    @property
    def uri(self) -> str:
        """As libvirt.open takes it."""
        return self._uri

    def subscribe(self, on_domain: Callable[[str], None], on_connected: Callable[[], None]) -> None:
        """Both are called on the event loop's thread."""
        self._on_domain = on_domain
        self._on_connected = on_connected

    async def run(self) -> None:
        """Connects, waits until the connection is lost, and again. Cancelled, it closes the connection."""
        start_event_loop()
        try:
            await self._keep_connected()
        finally:
            if self._connection is not None:
                _close(self._connection)
            self._pool.shutdown(wait=False)

    async def _keep_connected(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            self._lost = asyncio.Event()
            try:
                self._connection = await loop.run_in_executor(self._pool, self._open, loop, self._lost)
            except libvirt.libvirtError as error:
                log.log(
                    logging.WARNING if failures in (0, 10) else logging.DEBUG, "%s: not reachable: %s", self._uri, error
                )
                await asyncio.sleep(_RETRY_AFTER[min(failures, len(_RETRY_AFTER) - 1)])
                failures += 1
                continue
            failures = 0
            log.info("%s: connected", self._uri)
            self._on_connected()
            await self._lost.wait()
            log.warning("%s: connection lost; guests go on", self._uri)
            lost, self._connection = self._connection, None
            await loop.run_in_executor(self._pool, _close, lost)

    def _open(self, loop: asyncio.AbstractEventLoop, lost: asyncio.Event) -> Any:
        connection = libvirt.open(self._uri)

        def closed(_connection: Any, _reason: int, _opaque: Any) -> None:
            _hand_over(loop, lost.set)

        def changed(_connection: Any, domain: Any, _event: int, _detail: int, _opaque: Any) -> None:
            uid = domain.UUIDString()
            _hand_over(loop, lambda: self._on_domain(uid))

        connection.registerCloseCallback(closed, None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None)
        try:
            connection.setKeepAlive(_KEEPALIVE_EVERY, _KEEPALIVE_MISSES)
        except libvirt.libvirtError as error:
            # A driver inside this process (test:///) has nobody to ping.
            log.debug("%s: no keepalive: %s", self._uri, error)
        return connection

    async def call(self, function: Callable[[Any], T]) -> T:
        """`function(connection)` on the pool. Raises HypervisorUnavailable without a connection, else
        HypervisorError.
        """
        connection = self._connection
        if connection is None:
            raise HypervisorUnavailable(f"libvirt at {self._uri} is not reachable; its guests go on meanwhile")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, connection)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _MAY_BE_LOST and not await self._alive(connection):
                self._lost.set()
                raise HypervisorUnavailable(f"libvirt at {self._uri} went away: {error}") from error
            raise HypervisorError(str(error)) from error

    async def _alive(self, connection: Any) -> bool:
        def probe() -> bool:
            try:
                connection.getLibVersion()
            except libvirt.libvirtError:
                return False
            return True

        return await asyncio.get_running_loop().run_in_executor(self._pool, probe)


def _hand_over(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    # libvirt's thread outlives asyncio's loop when the agent ends.
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


def _close(connection: Any) -> None:
    try:
        connection.unregisterCloseCallback()
        connection.close()
    except libvirt.libvirtError as error:
        log.debug("closing a lost connection: %s", error)
