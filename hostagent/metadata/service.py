"""The metadata service: one listener per network, in the network's own namespace.

Who asks is told by the local address that the data plane rewrote the request's destination to, by the tap it came in
on. Nothing that the
guest can write, be it a header, a source address or a path, is taken for its identity.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from hostagent.errors import NodeError
from hostagent.metadata.connections import LimitedHandler, Limits
from hostagent.metadata.facts import Guest
from hostagent.metadata.paths import document
from hostagent.network.dataplane import DataPlane
from hostagent.network.errors import DataPlaneError

log = logging.getLogger(__name__)

GuestOfPort = Callable[[str], Awaitable[Guest | None]]
"""The guest whose port has this UID."""


class MetadataService:
    """`follow()` after each reconcile of the data plane opens and closes listeners as networks come and go."""

    def __init__(self, dataplane: DataPlane, guest_of_port: GuestOfPort) -> None:
        self._dataplane = dataplane
        self._guest_of_port = guest_of_port
        self._server = web.Server(self._answer)
        self._limits = Limits()
        self._listeners: dict[tuple[str, int], asyncio.Server] = {}
        """By network and the inode of its namespace: a namespace made anew has no listener yet."""
        self._changing = asyncio.Lock()

    async def follow(self) -> None:
        """Listens for exactly the networks that are there."""
        async with self._changing:
            wanted = set(self._dataplane.metadata_networks().items())
            for gone in self._listeners.keys() - wanted:
                self._listeners.pop(gone).close()
            for network, inode in wanted - self._listeners.keys():
                try:
                    listener = await self._dataplane.metadata_listener(network)
                except (DataPlaneError, OSError) as error:
                    log.error("network %s: no metadata service, tried again at the next scan: %s", network, error)
                    continue
                loop = asyncio.get_running_loop()
                self._listeners[network, inode] = await loop.create_server(self._connection, sock=listener)

    def _connection(self) -> LimitedHandler:
        return LimitedHandler(self._server, self._limits, access_log=None, keepalive_timeout=15)

    async def close(self) -> None:
        """Ends all listeners and connections."""
        async with self._changing:
            for listener in self._listeners.values():
                listener.close()
            self._listeners.clear()
            await self._server.shutdown(timeout=1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        port = self._dataplane.port_for_metadata_address(local[0]) if local else None
        if local is None or port is None:
            log.warning("metadata request at %s, which is no port's address", local)
            return web.Response(status=404)
        await asyncio.sleep(self._limits.delay(str(local[0]), asyncio.get_running_loop().time()))
        try:
            guest = await self._guest_of_port(port)
        except NodeError as error:
            log.warning("port %s: metadata not available: %s", port, error.message)
            return web.Response(status=503)
        found = document(guest, request.path) if guest is not None else None
        if found is None:
            return web.Response(status=404)
        return web.Response(body=found.content, headers={"Content-Type": found.content_type})
