"""A cloud for tests of the compute operator: the real apiserver, the real operators, simulated hypervisors.

A simulated hypervisor does what docs/contracts.md asks of an agent, and runs nothing: it renews its Lease, reports each
work object as running or stopped, and takes its finalizer off a work object that is deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from crds.compute import Flavor, Hypervisor, HypervisorAllocation, Instance, KeyPair
from crds.image import Image
from crds.network import Network, Port, SecurityGroup, Subnet
from crds.node import NodeInstance
from crds.vocabulary import PowerState
from runtime.client import AlreadyExists, Client, Conflict, NotFound
from runtime.cluster import merge_diff
from runtime.kind import LEASE, NAMESPACE, SECRET, Kind, kind_of
from runtime.leader import micro_time
from runtime.process import Process

Object = dict[str, Any]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGVIUVRMDDTXBIRq5wrB/c+oCqMB2j/yQYJvU7lQ0sWg alice@example.com"

INSTANCE, FLAVOR, IMAGE = kind_of(Instance), kind_of(Flavor), kind_of(Image)
HYPERVISOR, RECORD, WORK = kind_of(Hypervisor), kind_of(HypervisorAllocation), kind_of(NodeInstance)
NETWORK, SUBNET, PORT, GROUP = kind_of(Network), kind_of(Subnet), kind_of(Port), kind_of(SecurityGroup)
KEY_PAIR = kind_of(KeyPair)


@asynccontextmanager
async def running(process: Process):  # type: ignore[no-untyped-def]  # an async generator of nothing
    """A process in this event loop, watching when the body begins, ended when it ends.

    The loop must have no younger tasks then: kopf ends them with itself.
    """
    task = asyncio.create_task(process._run())
    waiter = asyncio.create_task(process.ready.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Node:
    """A simulated hypervisor. A `frozen` one renews its Lease and looks at nothing."""

    def __init__(self, client: Client, name: str, status: Object) -> None:
        self.name = name
        self.namespace = f"kumulus-node-{name}"
        self.frozen = False
        self._status = status
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await ensure(self._client, NAMESPACE, {"metadata": {"name": self.namespace}})
        await self.renew()
        await ensure(self._client, HYPERVISOR, {"metadata": {"name": self.name}, "spec": {}})
        await self.describe(**self._status)
        self._tasks = [asyncio.create_task(self._renew_forever()), asyncio.create_task(self._work())]

    async def describe(self, **status: Any) -> None:
        """What the agent tells of the node."""
        await self._client.merge_patch(HYPERVISOR, self.name, None, {"status": status}, "status")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fall_silent(self) -> None:
        """Renews its Lease no more."""
        self._tasks[0].cancel()

    async def renew(self, duration: int = 40) -> None:
        lease = {
            "metadata": {"name": "agent", "namespace": self.namespace},
            "spec": {"renewTime": micro_time(datetime.now(UTC)), "leaseDurationSeconds": duration},
        }
        await self._client.apply(LEASE, {"apiVersion": LEASE.api_version, "kind": LEASE.kind, **lease}, "agent")

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(10)
            await self.renew()

    async def _work(self) -> None:
        # By lists and not by a watch: a kopf that ends takes younger tasks of its loop with it, tests among them.
        while True:
            if not self.frozen:
                found, _ = await self._client.list(WORK, self.namespace)
                await asyncio.gather(*(self._look(NodeInstance.model_validate(each)) for each in found))
            await asyncio.sleep(0.1)

    async def _look(self, work: NodeInstance) -> None:
        meta = work.metadata
        try:
            if meta.deletion_timestamp is not None:
                patch: Object = {"metadata": {"finalizers": None, "resourceVersion": meta.resource_version}}
                await self._client.merge_patch(WORK, meta.name, meta.namespace, patch)
                return
            stopped = work.spec.power_state is PowerState.STOPPED
            status = {
                "state": "Stopped" if stopped else "Running",
                "observedGeneration": meta.generation,
                "ports": [{"uid": port.uid, "state": "Down" if stopped else "Active"} for port in work.spec.ports],
            }
            if merge_diff(work.status.to_dict(), status).keys() & status.keys():
                await self._client.merge_patch(WORK, meta.name, meta.namespace, {"status": status}, "status")
        except (Conflict, NotFound):
            return  # changed since it was listed: the next look sees how


class Cloud:
    """One tenant, nodes, and what tests ask of them. `client` is the administrator's."""

    def __init__(self, client: Client, tenant: str) -> None:
        self.client = client
        self.tenant = tenant
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Cloud:
        await ensure(self.client, NAMESPACE, {"metadata": {"name": self.tenant}})
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.stop()
            # Other tests must not be given this node.
            await self.client.delete(HYPERVISOR, node.name)

    async def node(self, suffix: str, vcpus: int = 8, memory: str = "16Gi", disk: str = "100Gi", **more: Any) -> Node:
        capacity = {"vcpus": vcpus, "memory": memory, "disk": disk}
        name = f"{self.tenant}-{suffix}"
        node = Node(self.client, name, {"capacity": capacity, "architecture": "x86_64", **more})
        self.nodes.append(node)
        await node.start()
        return node

    async def create(self, kind: Kind, name: str, spec: Object, status: Object | None = None, **meta: Any) -> Object:
        namespace = {"namespace": self.tenant} if kind.namespaced else {}
        obj = await self.client.create(
            kind,
            {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "metadata": {"name": name, **namespace, **meta},
                "spec": spec,
            },
        )
        if status is not None:
            where = obj["metadata"].get("namespace")
            obj = await self.client.merge_patch(kind, name, where, {"status": status}, "status")
        return obj

    async def flavor(self, name: str = "small", **spec: Any) -> str:
        """A Flavor of this tenant's own name, for flavors are cluster-wide."""
        full = f"{self.tenant}-{name}"
        await self.create(FLAVOR, full, {"vcpus": 1, "memory": "1Gi", "rootDisk": "2Gi", **spec})
        return full

    async def image(self, name: str = "tiny", **spec: Any) -> Object:
        digest = hashlib.sha256(name.encode()).hexdigest()
        given = {"source": {"upload": {}}, "diskFormat": "qcow2", **spec}
        active = {"phase": "Active", "size": 4096, "virtualSize": "1Gi", "sha256": digest, "storedSha256": digest}
        return await self.create(IMAGE, name, given, active)

    async def group(self, name: str = "default") -> Object:
        return await self.create(GROUP, name, {"rules": [{"name": "out", "direction": "Egress"}]})

    async def network(self, name: str = "internal", cidr: str = "10.0.1.0/24") -> None:
        await self.create(NETWORK, name, {})
        await self.create(SUBNET, f"{name}-v4", {"networkRef": {"name": name}, "cidr": cidr})

    async def instance(self, name: str, **spec: Any) -> Object:
        return await self.create(INSTANCE, name, self.spec(**spec))

    def spec(self, **spec: Any) -> Object:
        given = {
            "flavorRef": {"name": f"{self.tenant}-small"},
            "imageRef": {"name": "tiny"},
            "networks": [{"name": "eth0", "networkRef": {"name": "internal"}}],
            **spec,
        }
        return {field: value for field, value in given.items() if value is not None}

    async def world(self) -> None:
        """All that a plain instance refers to."""
        await self.flavor()
        await self.image()
        await self.group()
        await self.network()

    async def get(self, kind: Kind, name: str) -> Object | None:
        try:
            return await self.client.get(kind, name, self.tenant if kind.namespaced else None)
        except NotFound:
            return None

    async def patch(self, kind: Kind, name: str, patch: Object) -> Object:
        return await self.client.merge_patch(kind, name, self.tenant if kind.namespaced else None, patch)

    async def delete(self, kind: Kind, name: str) -> None:
        await self.client.delete(kind, name, self.tenant if kind.namespaced else None)

    async def until(self, kind: Kind, name: str, holds: Callable[[Object | None], bool], seconds: float = 30) -> Object:
        """The object (or {}) once it is as asked."""
        found: Object | None = None

        async def look() -> bool:
            nonlocal found
            found = await self.get(kind, name)
            return holds(found)

        try:
            await eventually(look, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{kind.kind} {name} is not as expected after {seconds} s: {found}") from error
        return found or {}

    async def until_ready(self, name: str, kind: Kind = INSTANCE, seconds: float = 30) -> Object:
        return await self.until(kind, name, is_ready, seconds)

    async def until_told(self, name: str, reason: str, *words: str, kind: Kind = INSTANCE) -> Object:
        """The condition Ready once it has this reason, and these words in its message."""

        def told(obj: Object | None) -> bool:
            found = condition(obj or {}, "Ready") or {}
            return found.get("reason") == reason and all(word in found["message"] for word in words)

        obj = await self.until(kind, name, told)
        return condition(obj, "Ready") or {}

    async def until_gone(self, kind: Kind, name: str, seconds: float = 30) -> None:
        await self.until(kind, name, lambda obj: obj is None, seconds)

    async def works(self, instance: str | None = None) -> list[Object]:
        """The work objects of the tenant's instances, or of one."""
        found, _ = await self.client.list(WORK)
        refs = [(work, work["spec"]["instanceRef"]) for work in found]
        return [w for w, ref in refs if ref["namespace"] == self.tenant and instance in (None, ref["name"])]

    async def allocations(self) -> list[Object]:
        """The tenant's entries in all records, each with its node."""
        records, _ = await self.client.list(RECORD)
        entries = [(r["metadata"]["name"], e) for r in records for e in r["spec"].get("allocations") or ()]
        return [{**entry, "node": node} for node, entry in entries if entry["namespace"] == self.tenant]

    async def secrets(self, node: Node) -> list[str]:
        found, _ = await self.client.list(SECRET, node.namespace)
        return [secret["metadata"]["name"] for secret in found]

    async def nothing_left(self) -> None:
        """No trace of any instance."""

        async def clean() -> bool:
            ports, _ = await self.client.list(PORT, self.tenant)
            return not (await self.works() or await self.allocations() or ports)

        await eventually(clean, 30)


async def ensure(client: Client, kind: Kind, obj: Object) -> None:
    try:
        await client.create(kind, {"apiVersion": kind.api_version, "kind": kind.kind, **obj})
    except AlreadyExists:
        return


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.05)


def condition(obj: Object, type_: str) -> Object | None:
    conditions: Sequence[Object] = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == type_), None)


def is_ready(obj: Object | None) -> bool:
    """As kstatus reads it."""
    if obj is None or (obj.get("status") or {}).get("observedGeneration") != obj["metadata"]["generation"]:
        return False
    return (condition(obj, "Ready") or {}).get("status") == "True" and condition(obj, "Reconciling") is None
