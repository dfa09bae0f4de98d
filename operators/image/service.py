"""The image service: blobs to nodes that need them, uploads from users who hold a token. HTTPS only.

GET /v1/images/<sha256>   with an agent's client certificate; ranges, so that a download can be resumed
PUT /v1/uploads/<uid>     with the one-time token of the Image's Secret, as bearer or as ?token=; whole bytes only:
                          an upload that breaks off is sent again from its beginning
GET /healthz
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import AsyncIterator, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from crds.node import NodeInstance
from operators.image.failure import ImportFailure, Reason
from operators.image.jobs import Busy, Importer
from operators.image.model import ImportRequest
from operators.image.store import DirectoryStore
from operators.image.uploads import Uploads
from runtime.cache import Cache
from runtime.client import ApiError

log = logging.getLogger(__name__)

NODE_PREFIX = "system:kumulus:node:"
NODE_GROUP = "kumulus:nodes"
NODE_NAMESPACE_PREFIX = "kumulus-node-"
BLOB_INDEX = "image-service-blob"

_CHUNK = 1 << 20
_STALL = 60.0
_PATIENCE = 3.0  # seconds; the agent's watch may bring a NodeInstance before ours does
_RELOAD = 30.0
_MAX_UPLOADS = 8

_UPLOAD: web.RequestKey[ImportRequest] = web.RequestKey("upload", ImportRequest)


@dataclass(frozen=True)
class Listen:
    """Where the service listens, and its certificate, key, and the authority of the agents' certificates, all PEM."""

    address: str
    cert: Path
    key: Path
    client_ca: Path

    def host_and_port(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def node_of(certificate: dict[str, Any] | None) -> str | None:
    """The node that a verified certificate, as `ssl.SSLSocket.getpeercert` gives it, belongs to."""
    names = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    common = [value for name, value in names if name == "commonName"]
    groups = [value for name, value in names if name == "organizationName"]
    if len(common) != 1 or NODE_GROUP not in groups or not common[0].startswith(NODE_PREFIX):
        return None
    return str(common[0]).removeprefix(NODE_PREFIX) or None


def blob_index(instance: NodeInstance) -> Iterable[Hashable]:
    """Index of NodeInstances by their namespace and the blob that they start from."""
    return [(instance.metadata.namespace, instance.spec.root_disk.image.sha256)]


class ImageService:
    """The server. A node gets the blobs that a NodeInstance in its own namespace refers to, and no others."""

    def __init__(
        self,
        listen: Listen,
        store: DirectoryStore,
        importer: Importer,
        uploads: Uploads,
        instances: Cache[NodeInstance],
    ) -> None:
        self._listen = listen
        self._store = store
        self._importer = importer
        self._uploads = uploads
        self._instances = instances
        self._changed = asyncio.Event()
        self._receiving = 0
        instances.on_change(lambda key, old, new: self._instance_changed())

    async def run(self) -> None:
        """Serves until cancelled; waits for its certificate, and takes a renewed one for new connections."""
        context = await self._context()
        runner = web.AppRunner(self._app(), access_log=None, keepalive_timeout=30)
        await runner.setup()
        try:
            await self._bind(runner, context)
            log.info("image service listens on %s", self._listen.address)
            await self._renew(context)
        finally:
            await runner.cleanup()

    async def _bind(self, runner: web.AppRunner, context: ssl.SSLContext) -> None:
        host, port = self._listen.host_and_port()
        while True:
            site = web.TCPSite(runner, host, port, ssl_context=context)
            try:
                await site.start()
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
                # The leader before us may not have ended yet, or the address not have come up.
                log.warning("image service cannot listen on %s yet: %s", self._listen.address, error)
                await site.stop()
                await asyncio.sleep(1)
            else:
                return

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/images/{sha256}", self._image)
        app.router.add_put("/v1/uploads/{uid}", self._upload, expect_handler=self._expect_upload)
        return app

    async def _context(self) -> ssl.SSLContext:
        told = False
        while True:
            try:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._listen.client_ca))
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.verify_mode = ssl.CERT_OPTIONAL
                context.load_cert_chain(self._listen.cert, self._listen.key)
            except OSError as error:  # ssl.SSLError is one
                if not told:
                    told = True
                    log.error("image service waits for its certificate and the agents' authority: %s", error)
                await asyncio.sleep(2)  # files that somebody else writes
            else:
                return context

    async def _renew(self, context: ssl.SSLContext) -> None:
        loaded = self._stamp()
        while True:
            await asyncio.sleep(_RELOAD)
            try:
                if self._stamp() == loaded:
                    continue
                stamp = self._stamp()
                # First where a pair that does not match, half of it renewed, harms nothing.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._listen.cert, self._listen.key)
                context.load_cert_chain(self._listen.cert, self._listen.key)
                loaded = stamp
            except OSError as error:
                log.warning("image service keeps its old certificate, the new one cannot be read: %s", error)

    def _stamp(self) -> tuple[int, int]:
        return self._listen.cert.stat().st_mtime_ns, self._listen.key.stat().st_mtime_ns

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if not self._store.opened.is_set():
            return web.Response(status=503, text="the store is not open\n")
        return web.Response(text="ok\n")

    async def _image(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        node = node_of(transport.get_extra_info("peercert") if transport is not None else None)
        if node is None:
            return web.Response(status=403, text="a node's client certificate is needed\n")
        sha256 = request.match_info["sha256"]
        if not await self._is_needed(node, sha256):
            return web.Response(status=403, text="no instance of this node needs the image\n")
        path = self._store.blob(sha256) if self._store.opened.is_set() else None
        if path is None:
            return web.Response(status=404, text="no such image\n")
        return web.FileResponse(path, chunk_size=_CHUNK, headers={"Content-Type": "application/octet-stream"})

    def _instance_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _is_needed(self, node: str, sha256: str) -> bool:
        wanted = (NODE_NAMESPACE_PREFIX + node, sha256)
        try:
            async with asyncio.timeout(_PATIENCE):
                while not self._instances.find(BLOB_INDEX, wanted):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _expect_upload(self, request: web.Request) -> web.StreamResponse | None:
        """Answers `Expect: 100-continue` only to who may upload, so that nobody sends gigabytes in vain."""
        refusal = await self._admit(request)
        if refusal is None and request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return refusal

    async def _admit(self, request: web.Request) -> web.Response | None:
        """Notes the upload's import in the request, or returns the refusal."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = request.query.get("token", "")
        try:
            found = await self._uploads.admit(request.match_info["uid"], token)
        except ApiError:
            return web.Response(status=503, text="try again later\n", headers={"Retry-After": "5"})
        if found is None:
            return web.Response(status=403, text="no upload is awaited here with this token\n")
        if not self._store.opened.is_set() or self._receiving >= _MAX_UPLOADS:
            return web.Response(status=503, text="busy, try again later\n", headers={"Retry-After": "10"})
        request[_UPLOAD] = found
        return None

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        if _UPLOAD not in request:
            refusal = await self._admit(request)
            if refusal is not None:
                return refusal
        wanted = request[_UPLOAD]
        self._receiving += 1
        try:
            await self._importer.receive(wanted, _body(request), request.content_length)
        except Busy:
            return web.Response(status=409, text="the image's bytes are arriving or being imported already\n")
        except ImportFailure as failure:
            status = {Reason.TOO_LARGE: 413, Reason.STORE_FULL: 507, Reason.STORE_FAILED: 507}.get(failure.reason, 422)
            return web.Response(status=status, text=f"{failure.reason}: {failure.message}\n")
        except TimeoutError:
            return web.Response(status=408, text="no bytes came for a while; send them again\n")
        finally:
            self._receiving -= 1
        log.info("%s: upload received", wanted.key)
        return web.Response(status=202, text="received; the Image's status tells how the import goes\n")


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(_STALL):
            chunk = await request.content.read(_CHUNK)
        if not chunk:
            return
        yield chunk
