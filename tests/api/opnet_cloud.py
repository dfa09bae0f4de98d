"""The identity and network operators on the real apiserver, in this event loop, and what tests ask of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crds.compute import Hypervisor
from crds.identity import Tenant
from crds.network import IPAllocation, MACAllocation, Network, PhysicalNetwork, Port, SecurityGroup, Segment, Subnet
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from lab.api import ApiServer
from operators import identity, network
from operators.domain import Context, Domain
from operators.settings import Settings
from runtime.client import AlreadyExists, Client, NotFound
from runtime.cluster import Cluster
from runtime.events import Recorder
from runtime.kind import NAMESPACE, Kind, kind_of
from runtime.process import Process

Object = dict[str, Any]

TENANT = kind_of(Tenant)
NETWORK, SUBNET, PORT, GROUP = kind_of(Network), kind_of(Subnet), kind_of(Port), kind_of(SecurityGroup)
PHYSICAL_NETWORK, SEGMENT = kind_of(PhysicalNetwork), kind_of(Segment)
IP_ALLOCATION, MAC_ALLOCATION = kind_of(IPAllocation), kind_of(MACAllocation)
HYPERVISOR, WORK = kind_of(Hypervisor), kind_of(NodeInstance)
NETWORK_SLICE, GROUP_SLICE = kind_of(NetworkSlice), kind_of(SecurityGroupSlice)
SETTINGS = Settings()
SLICES = SETTINGS.slices_namespace
PATIENCE = 30.0


class Operators:
    """The operators (default: identity and network), leading without a Lease, in a thread with a loop of their own.

    A loop of their own, because kopf cancels every task of its loop that is younger than itself when it ends.
    `kill` is as sudden as SIGKILL to what it runs: every task is cancelled at the await where it stands.
    """

    def __init__(self, apiserver: ApiServer, *builders: Callable[[Context], Domain]) -> None:
        # With the rights that the chart gives them: a missing one shows in tests.
        self._kubeconfig = apiserver.user_kubeconfig("kumulus-operator", ["kumulus:operators"])
        self._builders = builders or (identity.build, network.build)
        self.writes: list[str] = []
        """Method and path of each write, Events apart."""
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, name="operators", daemon=True)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as failure:  # told to the test by `start` or `kill`
            self._failure = failure
        finally:
            self._ready.set()

    async def _run(self) -> None:
        client = await Client.connect(self._kubeconfig)
        self._count(client)
        cluster = Cluster(client)
        context = Context(cluster, Recorder(client, "kumulus-operator", "test"), SETTINGS)
        domains = [build(context) for build in self._builders]
        process = Process(
            cluster,
            controllers=[controller for domain in domains for controller in domain.controllers],
            tasks=[task for domain in domains for task in domain.tasks],
        )
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(process._run())
        ready = asyncio.create_task(process.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        self._ready.set()
        try:
            await self._task
        except asyncio.CancelledError:
            await client.close()

    def _count(self, client: Client) -> None:
        original = client.request

        async def request(method: str, path: str, **options: Any) -> Object:
            if method != "GET" and "/events" not in path:
                self.writes.append(f"{method} {path}")
            return await original(method, path, **options)

        client.request = request  # type: ignore[method-assign]  # the real method, with a count before it

    async def start(self) -> Operators:
        self._thread.start()
        await asyncio.to_thread(self._ready.wait)
        if self._failure is not None:
            raise self._failure
        return self

    async def kill(self) -> None:
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        await asyncio.to_thread(self._thread.join)
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> Operators:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.kill()


class Cloud:
    """What an administrator does and sees in a test."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def create(self, kind: Kind, name: str, namespace: str | None = None, **body: Any) -> Object:
        meta: Object = {"name": name, **({"namespace": namespace} if namespace else {}), **body.pop("metadata", {})}
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **body}
        return await self.client.create(kind, obj)

    async def ensure(self, kind: Kind, name: str, namespace: str | None = None, **body: Any) -> None:
        try:
            await self.create(kind, name, namespace, **body)
        except AlreadyExists:
            return

    async def tenant(self, name: str, **spec: Any) -> None:
        """A tenant whose namespace and default group are there."""
        await self.create(TENANT, name, spec=spec)
        await self.ready(TENANT, name)
        await self.ready(GROUP, "default", name)

    async def network(self, namespace: str, cidr: str = "10.0.1.0/24", name: str = "internal", **subnet: Any) -> None:
        """A network with one subnet `<name>-v4`, both ready."""
        await self.create(NETWORK, name, namespace, spec={})
        await self.create(SUBNET, f"{name}-v4", namespace, spec={"networkRef": {"name": name}, "cidr": cidr, **subnet})
        await self.ready(SUBNET, f"{name}-v4", namespace)

    async def port(self, namespace: str, name: str, **spec: Any) -> Object:
        return await self.create(PORT, name, namespace, spec={"networkRef": {"name": "internal"}, **spec})

    async def until(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        holds: Callable[[Object], bool],
        seconds: float = PATIENCE,
    ) -> Object:
        """The object once the condition holds of it."""
        last: Object | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        last = await self.client.get(kind, name, namespace)
                    except NotFound:
                        last = None
                    if last is not None and holds(last):
                        return last
                    await asyncio.sleep(0.05)
        except TimeoutError:
            told = last and (last["metadata"].get("deletionTimestamp"), last.get("status"))
            raise AssertionError(f"{kind.kind} {namespace}/{name} never came to it: {told}") from None

    async def ready(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        return await self.until(kind, name, namespace, lambda obj: told(obj, "Ready")["status"] == "True")

    async def because(self, kind: Kind, name: str, namespace: str | None, reason: str) -> str:
        """The message of Ready, once its reason is this one."""
        found = await self.until(kind, name, namespace, lambda obj: told(obj, "Ready")["reason"] == reason)
        return str(told(found, "Ready")["message"])

    async def gone(self, kind: Kind, name: str, namespace: str | None = None, seconds: float = PATIENCE) -> None:
        found: Object | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        found = await self.client.get(kind, name, namespace)
                    except NotFound:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{kind.kind} {namespace}/{name} never went: {found}") from None

    async def delete(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        await self.client.delete(kind, name, namespace)

    async def list(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        return (await self.client.list(kind, namespace))[0]

    async def eventually(self, check: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Awaits `check()` again and again until it raises no AssertionError."""
        async with asyncio.timeout(seconds + 5):
            begun = asyncio.get_running_loop().time()
            while True:
                try:
                    await check()
                except AssertionError:
                    if asyncio.get_running_loop().time() - begun > seconds:
                        raise
                    await asyncio.sleep(0.1)
                else:
                    return

    async def leaks(self, namespace: str, uids: Sequence[str] = ()) -> list[str]:
        """What is left of a tenant's network objects: allocations of and by it, segments, slices of these UIDs."""
        left: list[str] = []
        for kind in (IP_ALLOCATION, MAC_ALLOCATION, SEGMENT):
            for found in await self.list(kind):
                holder = found["spec"]["holder"]
                if namespace in (holder.get("namespace"), found["metadata"].get("namespace")):
                    left.append(f"{kind.kind} {found['metadata']['name']} of {holder['kind']} {holder['name']}")
        for kind in (NETWORK_SLICE, GROUP_SLICE):
            for found in await self.list(kind, SLICES):
                text = str(found)
                if f"'{namespace}/" in text or any(uid in text for uid in uids):
                    left.append(f"{kind.kind} {found['metadata']['name']}")
        return left

    async def node(self, name: str, underlay: str) -> None:
        """A Hypervisor, and the namespace that the identity operator answers it with."""
        await self.ensure(HYPERVISOR, name, spec={})
        status = {"status": {"underlayIP": underlay}}
        await self.client.merge_patch(HYPERVISOR, name, None, status, "status")
        await self.until(NAMESPACE, f"kumulus-node-{name}", None, lambda obj: True)

    async def bind(self, node: str, port: Mapping[str, Any]) -> str:
        """A work object that carries the port, as the compute operator writes it; its name."""
        network = await self.client.get(NETWORK, port["spec"]["networkRef"]["name"], port["metadata"]["namespace"])
        uid = port["metadata"]["uid"]
        name = f"i-{uid}"
        card = {
            "name": "eth0",
            "uid": uid,
            "portName": port["metadata"]["name"],
            "macAddress": port["status"]["macAddress"],
            "network": {
                "uid": network["metadata"]["uid"],
                "name": network["metadata"]["name"],
                "type": network["status"]["type"],
                "segmentationID": network["status"]["segmentationID"],
                "mtu": network["status"]["mtu"],
            },
            "fixedIPs": [{"ip": fixed["ip"], "subnetUID": "s"} for fixed in port["status"]["fixedIPs"]],
            "subnets": [{"uid": "s", "cidr": "10.0.0.0/8"}],
        }
        image = {"name": "tiny", "sha256": "0" * 64, "size": "1Mi", "virtualSize": "1Gi", "format": "qcow2"}
        await self.create(
            WORK,
            name,
            f"kumulus-node-{node}",
            metadata={"finalizers": ["node.kumulus.dev/agent"]},
            spec={
                "instanceRef": {"namespace": port["metadata"]["namespace"], "name": "web-1", "uid": name},
                "vcpus": 1,
                "memory": "64Mi",
                "rootDisk": {"size": "1Gi", "image": {**image, "url": "https://image.test/v1/images/0"}},
                "metadata": {"hostname": "web-1", "name": "web-1", "projectID": port["metadata"]["namespace"]},
                "ports": [card],
            },
        )
        return name

    async def report(self, node: str, work: str, state: str, port_uid: str, port_state: str) -> None:
        """What an agent reports of a work object."""
        status = {"state": state, "ports": [{"uid": port_uid, "state": port_state}]}
        await self.client.merge_patch(WORK, work, f"kumulus-node-{node}", {"status": status}, "status")

    async def unbind(self, node: str, work: str) -> None:
        """The work object goes, and its agent is done with it."""
        namespace = f"kumulus-node-{node}"
        await self.client.delete(WORK, work, namespace)
        await self.client.merge_patch(WORK, work, namespace, {"metadata": {"finalizers": None}})


def told(obj: Mapping[str, Any], condition: str) -> Mapping[str, Any]:
    """The condition, or one that says nothing."""
    for found in (obj.get("status") or {}).get("conditions") or []:
        if found["type"] == condition:
            return dict(found)
    return {"status": "", "reason": "", "message": ""}


def addresses(port: Mapping[str, Any]) -> list[str]:
    return [fixed["ip"] for fixed in (port.get("status") or {}).get("fixedIPs") or []]
