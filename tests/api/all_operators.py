"""All operators in one process, as the chart's user, with a simulated node; and kubectl, as users have it.

They run in threads or as processes, so that the tests in front of them are plain functions that call kubectl.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from compute_cloud import HYPERVISOR, Node, running
from image_rig import MIB, free_port
from shorthand import KINDS, Object

from lab import pki
from lab.api import ApiServer
from lab.binaries import ensure
from operators.main import BUILDERS, assemble
from operators.settings import Settings
from runtime.client import Client, NotFound
from runtime.kind import Kind

T = TypeVar("T")
OPERATOR = ("kumulus-operator", ("kumulus:operators",))
"""User and groups that the chart gives the operators' rights to."""
PATIENCE = 30.0
"""Seconds."""


def settings_in(folder: Path) -> Settings:
    """Settings of one replica whose image store and service are its own; images may be imported from 127.0.0.1."""
    ca = pki.authority(folder / "pki", "test-ca")
    server = pki.server(ca, pki.pair_at(folder / "pki", "server"), "image", ["127.0.0.1"])
    address = f"127.0.0.1:{free_port()}"
    return Settings(
        image_store=folder / "store",
        image_service_url=f"https://{address}",
        image_service_listen=address,
        image_service_cert=server.cert,
        image_service_key=server.key,
        client_ca=ca.cert,
        image_max_size=16 * MIB,
        image_max_virtual_size=64 * MIB,
        allowed_import_cidrs=(ip_network("127.0.0.1/32"),),
    )


class Background:
    """An asynchronous context that is open in a thread with a loop of its own while this one is open.

    The task that opens it is the loop's first and closes it too: the end of a kopf operator cancels every task of its
    loop that is younger than itself, and waits for it.
    """

    def __init__(self, name: str, context: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        self._context = context
        self._opened = threading.Event()
        self._closing = asyncio.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._hold())
        except BaseException as failure:  # raised anew where the context is opened or closed
            self._failure = failure
        finally:
            self._opened.set()
            self._loop.close()

    async def _hold(self) -> None:
        async with self._context():
            self._opened.set()
            await self._closing.wait()

    def __enter__(self) -> Background:
        self._thread.start()
        self._opened.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._failure is None:
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class Cloud:
    """What the administrator sees, beside one node of 64 VCPUs and 64 GiB that nothing runs on."""

    def __init__(self, apiserver: ApiServer, node: str) -> None:
        self._apiserver = apiserver
        self._node_name = node
        self._background = Background("node", self._run)

    def __enter__(self) -> Cloud:
        self._background.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._background.__exit__()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        self._client = await Client.connect(self._apiserver.kubeconfig)
        capacity = {"vcpus": 64, "memory": "64Gi", "disk": "1Ti"}
        node = Node(self._client, self._node_name, {"capacity": capacity, "architecture": "x86_64"})
        try:
            await node.start()
            yield
        finally:
            await node.stop()
            await self._client.delete(HYPERVISOR, self._node_name)
            await self._client.close()

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        try:
            return self._background.call(self._client.get(kind, name, namespace))
        except NotFound:
            return None

    def list(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        return self._background.call(self._client.list(kind, namespace))[0]

    def apply(self, objects: Sequence[Object]) -> None:
        """Server-side apply of each, in this order, as `kubectl apply --server-side` does it, only sooner."""
        for obj in objects:
            self._background.call(self._client.apply(KINDS[obj["kind"]], obj, "tests"))

    def delete(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        self._background.call(self._client.delete(kind, name, namespace))


def all_operators(apiserver: ApiServer, settings: Settings) -> Background:
    """One process of all operators, in a thread of this one; it leads."""

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        client = await Client.connect(apiserver.user_kubeconfig(*OPERATOR))
        process = assemble(client, settings, list(BUILDERS), "all-operators")
        async with running(process):
            yield
        if process.lease is not None:
            await process.lease.release()
        await client.close()

    return Background("operators", context)


class Replica:
    """A `kumulus-operator` process, of all operators or of some domains', with an identity of its own."""

    def __init__(
        self, apiserver: ApiServer, settings: Settings, identity: str, log: Path, domains: Sequence[str] = ()
    ) -> None:
        self.identity = identity
        self.log = log
        arguments = [f"--kubeconfig={apiserver.user_kubeconfig(*OPERATOR)}", f"--identity={identity}"]
        if domains:
            arguments.append(f"--domains={','.join(domains)}")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "operators.main", *arguments],
                cwd=Path(__file__).parents[2],
                env=os.environ | environment_of(settings),
                stderr=output,
            )

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()  # in order: its Lease is given up, and the next test needs not wait for its end
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make an operator process read these settings."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {
        f"KUMULUS_{name.upper()}": ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }


class Kubectl:
    """The real kubectl, with a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        # The default one, by host and port, may be of an apiserver of another session that had the same port.
        cache = kubeconfig.parent / "kubectl-cache"
        self._argv = [str(ensure(["kubectl"])["kubectl"]), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}"]

    def __call__(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """`given` is what kubectl reads from its standard input."""
        return subprocess.run([*self._argv, *arguments], input=given, capture_output=True, text=True, check=False)

    def ok(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints; it must succeed."""
        done = self(*arguments, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl complains of; it must fail."""
        done = self(*arguments, given=given)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} was not refused: {done.stdout}"
        return done.stderr


def until(holds: Callable[[], T | None], otherwise: Callable[[], str], seconds: float = PATIENCE) -> T:
    """What `holds` returns once it is neither None nor False; fails with what `otherwise` says."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s: {otherwise()}"
        time.sleep(0.05)
    return found
