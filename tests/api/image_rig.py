"""The image operator with a store and a service of its own on a real apiserver, and a web server to import from."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import subprocess
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from crds.conditions import Condition, find_condition
from crds.image import Image
from crds.node import NodeInstance
from lab import pki
from operators import image
from operators.domain import Context
from operators.settings import Settings
from runtime.client import Client, NotFound
from runtime.cluster import Cluster
from runtime.events import Recorder
from runtime.kind import EVENT, NAMESPACE, SECRET, kind_of
from runtime.process import Process

IMAGE = kind_of(Image)
NODE_INSTANCE = kind_of(NodeInstance)
MIB = 1 << 20

Test = Callable[..., Awaitable[None]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def make_image(path: Path, format: str = "qcow2", *options: str, content: bytes = b"kumulus", size: int = MIB) -> bytes:
    """The bytes of an image of `format` whose disk begins with `content`."""
    raw = path.with_suffix(".content")
    raw.write_bytes(content.ljust(size, b"\0"))
    qemu_img("convert", "-f", "raw", "-O", format, *options, raw, path)
    return path.read_bytes()


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


class WebServer:
    """Plain HTTP on 127.0.0.1; `routes` may change at any time."""

    def __init__(self) -> None:
        self.routes: dict[str, Handler] = {}
        self.requests: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{name:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        handler = self.routes.get(request.path)
        return await handler(request) if handler is not None else web.Response(status=404)

    def give(self, path: str, body: bytes, **options: Any) -> str:
        """Serves `body` at `path`, whose URL is returned."""

        async def handler(request: web.Request) -> web.Response:
            return web.Response(body=body, **options)

        self.routes[path] = handler
        return self.url + path


class Rig:
    """`run` starts the operator in this event loop, `stop` ends it in the middle of whatever it does."""

    def __init__(self, client: Client, operator_client: Client, folder: Path) -> None:
        self.client = client
        self._operator_client = operator_client
        self.folder = folder
        self.namespace = f"image-{uuid.uuid4().hex[:8]}"
        self.web = WebServer()
        self.ca = pki.authority(folder / "pki", "test-ca")
        server = pki.pair_at(folder / "pki", "server")
        pki.server(self.ca, server, "image", ["127.0.0.1"])
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.settings = Settings(
            image_store=folder / "store",
            image_service_url=self.url,
            image_service_listen=f"127.0.0.1:{self.port}",
            image_service_cert=server.cert,
            image_service_key=server.key,
            client_ca=self.ca.cert,
            image_blob_grace=3600,
            image_max_virtual_size=64 * MIB,
            image_max_size=16 * MIB,
            allowed_import_cidrs=(ip_network("127.0.0.1/32"),),
        )
        self.cluster = Cluster(client)
        self.seen: list[Image] = []
        self._task: asyncio.Task[None] | None = None
        self._namespaces: list[str] = []

    async def open(self) -> None:
        await self.web.start()
        await self.make_namespace(self.namespace)
        await self.run()

    async def close(self) -> None:
        """Deletes the Images while the operator runs: that this works is a part of every test."""
        try:
            if self._task is None:
                await self.run()
            for name in self._namespaces:
                for kind in (NODE_INSTANCE, IMAGE):
                    await self._delete_all(kind, name)
        finally:
            await self.stop()
            await self.web.stop()

    async def _delete_all(self, kind: Any, namespace: str) -> None:
        items, _ = await self.client.list(kind, namespace)
        for item in items:
            meta = item["metadata"]
            if kind is NODE_INSTANCE:
                await self.client.merge_patch(kind, meta["name"], namespace, {"metadata": {"finalizers": None}})
            elif item["spec"].get("protected"):
                await self.client.merge_patch(kind, meta["name"], namespace, {"spec": {"protected": False}})
            await self.client.delete(kind, meta["name"], namespace)
        async with asyncio.timeout(20):
            while (await self.client.list(kind, namespace))[0]:
                await asyncio.sleep(0.05)

    async def make_namespace(self, name: str) -> None:
        await self.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self._namespaces.append(name)

    async def run(self) -> None:
        cluster = Cluster(self._operator_client)
        context = Context(cluster, Recorder(self._operator_client, "kumulus-operator", "test"), self.settings)
        domain = image.build(context)
        cluster.caches[IMAGE].on_change(lambda key, old, new: self._note(new))
        process = Process(cluster, domain.controllers, domain.tasks, domain.always)
        self._task = asyncio.create_task(process.run())
        await self.until(self._healthy, "the image service")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            results = await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                    raise result

    def _note(self, new: Image | None) -> None:
        if new is not None and new.metadata.namespace == self.namespace:
            self.seen.append(new)

    async def _healthy(self) -> bool:
        if self._task is not None and self._task.done():
            self._task.result()
        try:
            async with self.http() as http, http.get(f"{self.url}/healthz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def until(self, holds: Callable[[], Awaitable[Any]], what: str, seconds: float = 30) -> Any:
        """What `holds` returns once it is true."""
        try:
            async with asyncio.timeout(seconds):
                while not (result := await holds()):
                    await asyncio.sleep(0.05)
                return result
        except TimeoutError:
            raise AssertionError(f"{what} did not come true in {seconds} s") from None

    def http(self, certificate: pki.Pair | None = None) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        if certificate is not None:
            context.load_cert_chain(certificate.cert, certificate.key)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    def certificate(self, user: str, *groups: str) -> pki.Pair:
        pair = pki.pair_at(self.folder / "pki", uuid.uuid4().hex)
        return pki.client(self.ca, pair, user, groups)

    def node(self, name: str) -> pki.Pair:
        return self.certificate(f"system:kumulus:node:{name}", "kumulus:nodes")

    # Images

    async def create(self, name: str, source: dict[str, Any] | str, format: str = "qcow2", **spec: Any) -> Image:
        if isinstance(source, str):
            source = {"url": source}
        body = {"metadata": {"name": name, "namespace": self.namespace}}
        spec = {"source": source, "diskFormat": format, **spec}
        return Image.model_validate(await self.cluster.create(IMAGE, {**body, "spec": spec}))

    async def get(self, name: str) -> Image | None:
        try:
            return Image.model_validate(await self.client.get(IMAGE, name, self.namespace))
        except NotFound:
            return None

    async def wait(self, name: str, holds: Callable[[Image], Any], what: str, seconds: float = 30) -> Image:
        last: list[Image | None] = [None]

        async def look() -> Image | None:
            last[0] = found = await self.get(name)
            return found if found is not None and holds(found) else None

        try:
            found = await self.until(look, f"{what} of Image {name}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; status: {last[0] and last[0].status.to_dict()}") from None
        assert isinstance(found, Image)
        return found

    async def active(self, name: str, seconds: float = 30) -> Image:
        return await self.wait(name, lambda image: ready(image).status == "True", "readiness", seconds)

    async def reason(self, name: str, reason: str) -> Condition:
        found = await self.wait(name, lambda image: ready(image).reason == reason, f"reason {reason}")
        return ready(found)

    async def gone(self, name: str) -> None:
        async def look() -> bool:
            return await self.get(name) is None

        await self.until(look, f"the end of Image {name}")

    async def events(self, name: str) -> list[dict[str, Any]]:
        """The Events about an Image, once there are any: they come after the status."""
        async with asyncio.timeout(20):
            while True:
                items, _ = await self.client.list(EVENT, self.namespace)
                found = [item for item in items if item["regarding"]["name"] == name]
                if found:
                    return found
                await asyncio.sleep(0.05)

    async def secrets(self) -> list[dict[str, Any]]:
        return (await self.client.list(SECRET, self.namespace))[0]

    # The store

    def stored(self) -> list[str]:
        """Every file in the store, but the lock."""
        root = self.folder / "store"
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != "lock")

    async def keeps(self, *files: str) -> None:
        """Waits until the store has these files and no others."""
        try:
            await self.until(self._exactly(sorted(files)), "the store", 20)
        except AssertionError as error:
            raise AssertionError(f"{error}: it has {self.stored()} instead of {sorted(files)}") from None

    def _exactly(self, files: list[str]) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return self.stored() == files

        return look

    async def needs(self, node: str, image: Image, name: str = "a-guest") -> None:
        """A NodeInstance on `node` whose disk is made from `image`."""
        status = image.status
        assert status.size is not None
        assert status.virtual_size is not None
        root_image = {
            "name": image.metadata.name,
            "sha256": status.stored_sha256,
            "size": int(status.size),
            "virtualSize": int(status.virtual_size),
            "format": "qcow2",
            "url": status.url,
        }
        spec = {
            "instanceRef": {"namespace": self.namespace, "name": name, "uid": str(uuid.uuid4())},
            "vcpus": 1,
            "memory": "64Mi",
            "rootDisk": {"size": "64Mi", "image": root_image},
            "metadata": {"hostname": name, "name": name, "projectID": self.namespace},
        }
        meta = {"name": name, "namespace": f"kumulus-node-{node}"}
        await self.cluster.create(NODE_INSTANCE, {"metadata": meta, "spec": spec})


def running(**settings: Any) -> Callable[[Test], Test]:
    """Runs the operator, with these settings, around a test that has the fixture `rig`.

    Not a fixture's business: the end of kopf's operator cancels every task that began after it, and fixtures are set up
    and torn down in tasks of their own.
    """

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        async def around(*, rig: Rig, **fixtures: Any) -> None:
            rig.settings = replace(rig.settings, **settings)
            try:
                await rig.open()
                await test(rig=rig, **fixtures)
            finally:
                await rig.close()

        return around

    return decorate


def ready(image: Image) -> Condition:
    """The Ready condition, or an Unknown one."""
    found = find_condition(image.status.conditions, "Ready")
    assert found is not None, "the schema's default gives every Image a Ready condition"
    return found
