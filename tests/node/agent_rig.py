"""What tests of the agent have in common: work objects, an image server, an agent in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from crds.node import NodeInstance
from hostagent.agent import Agent
from hostagent.compute.libvirt_connection import LibvirtConnection
from hostagent.compute.libvirt_hypervisor import LibvirtHypervisor
from hostagent.compute.resolve import FINALIZER
from hostagent.image.cache import ImageCache
from hostagent.layout import Layout
from hostagent.network.dataplane import DataPlane
from hostagent.network.model import DesiredNode
from hostagent.network.report import Report
from hostagent.settings import Settings, VirtType
from runtime.client import Client
from runtime.cluster import Cluster
from runtime.kind import kind_of

NODE_INSTANCE = kind_of(NodeInstance)
Object = dict[str, Any]


class NoCards(DataPlane):
    """The data plane of a node whose guests have no network cards: there is nothing to program."""

    async def reconcile(self, desired: DesiredNode) -> Report:
        assert not desired.ports
        return Report()

    def metadata_networks(self) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        return


class ImageServer:
    """Serves files by checksum, as the image service does; counts requests, and can break off."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.requests: list[str] = []
        self.break_after: int | None = None
        self.stall: asyncio.Event | None = None
        """Answers come half, and their rest when this is set."""
        self.url = ""

    def add(self, path: Path) -> Object:
        """Offers a file; returns what a work object says of it."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.files[digest] = path
        return {
            "name": path.stem,
            "sha256": digest,
            "size": path.stat().st_size,
            "virtualSize": "64Mi",
            "format": "qcow2",
            "url": f"{self.url}/v1/images/{digest}",
        }

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.headers.get("Range", ""))
        path = self.files.get(request.match_info["digest"])
        if path is None:
            return web.Response(status=404)
        if self.stall is not None:
            return await self._stalled(request, path.read_bytes(), self.stall)
        if self.break_after is None:
            return web.FileResponse(path)
        cut, self.break_after = self.break_after, None
        answer = web.StreamResponse(headers={"Content-Length": str(path.stat().st_size)})
        await answer.prepare(request)
        await answer.write(path.read_bytes()[:cut])
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def _stalled(self, request: web.Request, content: bytes, rest: asyncio.Event) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await answer.prepare(request)
        half = len(content) // 2
        await answer.write(content[:half])
        await rest.wait()
        await answer.write(content[half:])
        return answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ImageServer]:
        app = web.Application()
        app.router.add_get("/v1/images/{digest}", self._serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio.Server has them
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()


class Rig:
    """One node: its namespace, its state directory, its agent."""

    def __init__(self, client: Client, kubeconfig: Path, libvirt_uri: str, state_dir: Path) -> None:
        self.client = client
        self.settings = Settings(
            node_name=f"n{uuid.uuid4().hex[:8]}",
            underlay_ip="127.0.0.1",
            kubeconfig=kubeconfig,
            state_dir=state_dir,
            libvirt_uri=libvirt_uri,
            virt_type=VirtType.QEMU,
            shutdown_grace=2,
        )
        self.layout = Layout(state_dir)

    @property
    def namespace(self) -> str:
        return self.settings.namespace

    @asynccontextmanager
    async def agent(self, client: Client | None = None) -> AsyncIterator[Agent]:
        """An agent until the end of the block; `client` stands in for a connection to the API of its own."""
        self.layout.prepare()
        own = client or await Client.connect(self.settings.kubeconfig)
        hypervisor = LibvirtHypervisor(LibvirtConnection(self.settings.libvirt_uri))
        agent = Agent(self.settings, Cluster(own), hypervisor, NoCards(), ImageCache(self.layout, keep_free=0))
        running = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            if running.done():
                running.result()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            if client is None:
                await own.close()

    def manifest(self, image: Object, **spec: Any) -> Object:
        """A work object for a guest of 96 MiB without network cards."""
        uid = str(uuid.uuid4())
        return {
            "apiVersion": NODE_INSTANCE.api_version,
            "kind": NODE_INSTANCE.kind,
            "metadata": {"name": uid, "namespace": self.namespace, "finalizers": [FINALIZER]},
            "spec": {
                "instanceRef": {"namespace": "acme", "name": f"web-{uid[:4]}", "uid": uid},
                "vcpus": 1,
                "memory": "96Mi",
                "rootDisk": {"size": "64Mi", "image": image},
                "metadata": {"hostname": "web", "name": "web", "projectID": "acme"},
                **spec,
            },
        }

    async def create(self, manifest: Object) -> str:
        await self.client.create(NODE_INSTANCE, manifest)
        return str(manifest["metadata"]["name"])

    async def get(self, uid: str) -> NodeInstance:
        return NodeInstance.model_validate(await self.client.get(NODE_INSTANCE, uid, self.namespace))

    async def until(self, uid: str, holds: Callable[[NodeInstance], bool], seconds: float = 60) -> NodeInstance:
        """The work object as soon as it is so."""
        found = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    found = await self.get(uid)
                    if holds(found):
                        return found
                    await asyncio.sleep(0.1)
        except TimeoutError:
            status = found.status.to_dict() if found else None
            raise AssertionError(f"after {seconds} s the status is {status}") from None

    async def state(self, uid: str, state: str, seconds: float = 60) -> NodeInstance:
        return await self.until(uid, lambda found: found.status.state == state, seconds)

    async def patch(self, uid: str, **spec: Any) -> None:
        await self.client.merge_patch(NODE_INSTANCE, uid, self.namespace, {"spec": spec})

    async def gone(self, uid: str, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while any(
                each["metadata"]["name"] == uid for each in (await self.client.list(NODE_INSTANCE, self.namespace))[0]
            ):
                await asyncio.sleep(0.1)
