"""An apiserver that goes and comes back, watches that lag, and a replica that takes over meanwhile."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kopf
import pytest

from lab import pki
from lab.api import ApiServer
from runtime.cache import Key
from runtime.client import Client
from runtime.cluster import Cluster
from runtime.controller import Controller
from runtime.kind import CONFIG_MAP, NAMESPACE
from runtime.leader import Lease, LostLease
from runtime.process import HistoryLost, Process, Retries

QUICK = Retries(first=0.02, most=0.05)


class Refusal(Enum):
    CLOSED = "connections are closed as soon as they are opened"
    SILENT = "connections are opened, and nothing is ever answered"
    UNAVAILABLE = "requests are answered 503, as by a load balancer without a backend"


class Line:
    """A TCP line to the apiserver, as a load balancer in front of it; it can be cut, or answer 503 by itself.

    What is refused in either way is counted in `refused`.
    """

    def __init__(self, apiserver: ApiServer, folder: Path) -> None:
        parts = urlsplit(apiserver.url)
        assert parts.hostname is not None
        self._target = (parts.hostname, parts.port)
        self._writers: set[asyncio.StreamWriter] = set()
        own = pki.server(apiserver.plane.ca, pki.pair_at(folder, "line"), "line", ["127.0.0.1"])
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(own.cert, own.key)
        self._refuse: Refusal | None = None
        self.refused = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yields the URL of its near end."""
        server = await asyncio.start_server(self._serve, "127.0.0.1")
        try:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self._hang_up()

    def cut(self, how: Refusal) -> None:
        self._refuse = how
        self._hang_up()

    def mend(self) -> None:
        self._refuse = None

    def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse is not None:
            self.refused += 1
            if self._refuse is Refusal.UNAVAILABLE:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await writer.start_tls(self._tls)
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    await writer.drain()
                writer.close()
            elif self._refuse is Refusal.SILENT:
                self._writers.add(writer)
            else:
                writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        both = {writer, far_writer}
        self._writers |= both
        await asyncio.gather(self._pipe(reader, far_writer), self._pipe(far_reader, writer))
        self._writers -= both

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # one end hung up: so does the other
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def namespace(client: Client, request: pytest.FixtureRequest) -> str:
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[-50:].strip("-")
    await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(process.run())
    try:
        await process.ready.wait()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("how", [Refusal.CLOSED, Refusal.UNAVAILABLE], ids=lambda how: how.name.lower())
async def test_watches_outlive_an_outage(
    apiserver: ApiServer, client: Client, namespace: str, tmp_path: Path, how: Refusal
) -> None:
    admin, through = Cluster(client), await Client.connect(apiserver.kubeconfig)
    line = Line(apiserver, tmp_path)
    async with line.open() as url:
        through._api.configuration.host = url
        cluster = Cluster(through)
        cache = cluster.watch(CONFIG_MAP, namespace=namespace)
        async with running(Process(cluster, [], retries=QUICK)) as process:
            await admin.create(CONFIG_MAP, config_map(namespace, "before"))
            await until(lambda: cache.get("before", namespace) is not None)
            line.cut(how)
            # kopf gives up after nine tries by default.
            await until(lambda: line.refused > 40)
            await admin.delete(CONFIG_MAP, "before", namespace)
            await admin.create(CONFIG_MAP, config_map(namespace, "meanwhile"))
            assert not process.done()
            line.mend()
            await until(lambda: cache.get("meanwhile", namespace) is not None)
            await until(lambda: cache.get("before", namespace) is None)
            await admin.create(CONFIG_MAP, config_map(namespace, "after"))
            await until(lambda: cache.get("after", namespace) is not None)
            assert not process.done()
    await through.close()


async def test_a_start_waits_for_the_apiserver(
    apiserver: ApiServer, client: Client, namespace: str, tmp_path: Path
) -> None:
    through = await Client.connect(apiserver.kubeconfig)
    line = Line(apiserver, tmp_path)
    line.cut(Refusal.CLOSED)
    async with line.open() as url:
        through._api.configuration.host = url
        cluster = Cluster(through)
        cache = cluster.watch(CONFIG_MAP, namespace=namespace)
        await Cluster(client).create(CONFIG_MAP, config_map(namespace, "there"))
        process = Process(cluster, [], retries=QUICK)
        task = asyncio.create_task(process.run())
        await until(lambda: line.refused > 20)
        assert not process.ready.is_set()
        line.mend()
        await asyncio.wait_for(process.ready.wait(), 20)
        assert cache.get("there", namespace) is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await through.close()


async def test_a_leader_that_gets_no_answer_ends_before_another_begins(
    apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    through = await Client.connect(apiserver.kubeconfig)
    line, clock = Line(apiserver, tmp_path), asyncio.get_running_loop().time
    async with line.open() as url:
        through._api.configuration.host = url
        lease = Lease(through, namespace, "leader", "first", duration=6, renew_every=0.2)
        await lease.acquire()
        holding = asyncio.create_task(lease.hold())
        await asyncio.sleep(0.5)  # some renewals
        assert not holding.done()
        line.cut(Refusal.SILENT)
        began = clock()
        with pytest.raises(LostLease, match="could not be renewed"):
            await asyncio.wait_for(holding, 10)
        assert clock() - began < 5.5, "another replica may lead after 6 s"
        waiting = asyncio.create_task(Lease(through, namespace, "leader", "second", duration=0.9).acquire())
        await until(lambda: line.refused > 2)
        line.mend()
        line.cut(Refusal.CLOSED)
        line.mend()
        await asyncio.wait_for(waiting, 20)
    await through.close()


async def test_a_restored_etcd_ends_the_process(client: Client, namespace: str) -> None:
    """What is cached has versions that the apiserver has not come to yet, so nothing new would ever be taken in."""
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP, namespace=namespace)
    process = Process(cluster, [], resync_every=0.2)
    task = asyncio.create_task(process.run())
    await process.ready.wait()
    future = config_map(namespace, "future")
    future["metadata"] |= {"uid": "of-another-history", "resourceVersion": str(10**12)}
    cache.observe(future)
    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(task, 20)
    assert ended.group_contains(HistoryLost, match="ConfigMap: version 1000000000000 was seen")


async def test_a_new_leader_knows_what_its_watches_have_not_brought(
    apiserver: ApiServer, client: Client, namespace: str, tmp_path: Path
) -> None:
    """The standby's watches never get through, as if they lagged; the leader writes and steps down."""
    admin = Cluster(client)
    await admin.create(CONFIG_MAP, config_map(namespace, "goes"))
    await admin.create(CONFIG_MAP, config_map(namespace, "changes", x="1"))
    leader = Lease(client, namespace, "leader", "first", duration=60)
    await leader.acquire()

    own = await Client.connect(apiserver.kubeconfig)
    line = Line(apiserver, tmp_path)
    line.cut(Refusal.CLOSED)
    async with line.open() as url:
        connection = own.connection()

        async def nowhere() -> kopf.ConnectionInfo:
            info = await connection()
            return kopf.ConnectionInfo(server=url, ca_path=info.ca_path)

        own.connection = lambda: nowhere  # type: ignore[method-assign]  # kopf's way alone is cut
        cluster = Cluster(own)
        cache = cluster.watch(CONFIG_MAP, namespace=namespace)
        first_looks: dict[str, Any] = {}

        async def reconcile(key: Key) -> None:
            if key.namespace == namespace:
                first_looks.setdefault(key.name, cache.get(key.name, namespace))

        controller = Controller("test", reconcile)
        cache.on_change(lambda key, old, new: controller.enqueue(key))
        lease = Lease(own, namespace, "leader", "second", duration=60, renew_every=0.1)
        async with running(Process(cluster, [controller], lease=lease, retries=QUICK)):
            assert cache.get("goes", namespace) is not None
            await admin.delete(CONFIG_MAP, "goes", namespace)
            await admin.create(CONFIG_MAP, config_map(namespace, "comes"))
            await admin.merge_patch(CONFIG_MAP, "changes", namespace, {"data": {"x": "2"}})
            assert cache.get("comes", namespace) is None
            assert not first_looks, "a standby must not act"
            await leader.release()
            await until(lambda: {"goes", "comes", "changes"} <= first_looks.keys())
        assert first_looks["goes"] is None
        assert first_looks["comes"] is not None
        assert first_looks["changes"]["data"] == {"x": "2"}
    await own.close()
