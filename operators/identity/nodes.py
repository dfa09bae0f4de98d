"""The controller that answers a Hypervisor with its agent's namespace and rights."""

from __future__ import annotations

from typing import Any

from crds.compute import Hypervisor
from crds.node import NodeInstance
from operators.domain import Context
from operators.identity import node_plan as plan
from operators.identity.names import NODE_LABEL, node_namespace, node_role
from operators.identity.roles import slim
from runtime.cache import Cache, Key
from runtime.client import AlreadyExists, NotFound
from runtime.controller import Controller
from runtime.kind import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE, ROLE, ROLE_BINDING, Kind, kind_of

Object = dict[str, Any]

HYPERVISOR = kind_of(Hypervisor)
NODE_INSTANCE = kind_of(NodeInstance)


class Nodes:
    """Gives each Hypervisor's agent its namespace and rights, and takes them away with the Hypervisor.

    A namespace that still holds a NodeInstance stays: deleting it would destroy the node's guests.
    """

    def __init__(self, context: Context) -> None:
        self._cluster = context.cluster
        self._settings = context.settings
        self._hypervisors = self._cluster.watch_resource(Hypervisor)
        self._namespaces: Cache[Object] = self._cluster.watch(NAMESPACE)
        self._caches: dict[Kind, Cache[Object]] = {
            ROLE: self._cluster.watch(ROLE, slim),
            ROLE_BINDING: self._cluster.watch(ROLE_BINDING, slim),
            CLUSTER_ROLE: self._cluster.watch(CLUSTER_ROLE, slim),
            CLUSTER_ROLE_BINDING: self._cluster.watch(CLUSTER_ROLE_BINDING, slim),
        }
        self.controller = Controller("nodes", self.reconcile, workers=4)
        self._hypervisors.on_change(self._hypervisor_changed)
        for cache in (self._namespaces, *self._caches.values()):
            cache.on_change(self._owned_changed)

    def _hypervisor_changed(self, key: Key, old: Hypervisor | None, new: Hypervisor | None) -> None:
        if old is None or new is None:  # its status changes are none of our business
            self.controller.enqueue(key)

    def _owned_changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        for obj in (old, new):
            node = (obj or {}).get("metadata", {}).get("labels", {}).get(NODE_LABEL)
            if node:
                self.controller.enqueue(Key("", node))

    async def ensure_shared_namespaces(self) -> None:
        """Makes the namespaces that slices and public objects live in, when the chart has not."""
        for name in (self._settings.slices_namespace, self._settings.public_namespace):
            if self._namespaces.get(name) is None:
                try:
                    await self._cluster.create(NAMESPACE, {"metadata": {"name": name}})
                except AlreadyExists:
                    continue

    async def reconcile(self, key: Key) -> float | None:
        node = key.name
        if self._hypervisors.get(node) is None:
            return await self._withdraw(node)
        namespace = self._namespaces.get(node_namespace(node))
        if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
            return 5.0  # made anew when it is gone
        if namespace is None:
            try:
                await self._cluster.create(NAMESPACE, plan.namespace(node))
            except AlreadyExists:
                return 1.0  # the watch is about to bring it
        elif (namespace["metadata"].get("labels") or {}).get(NODE_LABEL) != node:
            labels = plan.namespace(node)["metadata"]["labels"]
            await self._cluster.merge_patch(NAMESPACE, node_namespace(node), None, {"metadata": {"labels": labels}})
        for kind, desired in plan.rights(node):
            meta = desired["metadata"]
            if not plan.agrees(desired, self._caches[kind].get(meta["name"], meta.get("namespace") or "")):
                await self._cluster.apply(kind, desired)
        return None

    async def _withdraw(self, node: str) -> float | None:
        """The Hypervisor is gone: so are its agent's rights on it, and its namespace once it is empty."""
        if await self._exists(node):
            return 1.0  # the watch is about to bring it
        for kind in (CLUSTER_ROLE_BINDING, CLUSTER_ROLE):
            if self._caches[kind].get(node_role(node)) is not None:
                await self._cluster.delete(kind, node_role(node))
        namespace = self._namespaces.get(node_namespace(node))
        if namespace is None or namespace["metadata"].get("deletionTimestamp"):
            return None
        if (namespace["metadata"].get("labels") or {}).get(NODE_LABEL) != node:
            return None
        guests, _ = await self._cluster.client.list(NODE_INSTANCE, node_namespace(node))
        if guests:
            return 60.0
        await self._cluster.delete(NAMESPACE, node_namespace(node), uid=namespace["metadata"]["uid"])
        return None

    async def _exists(self, node: str) -> bool:
        """By the apiserver's word: a cache that lags must not take a node's rights away."""
        try:
            await self._cluster.client.get(HYPERVISOR, node)
        except NotFound:
            return False
        return True
