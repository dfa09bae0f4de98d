"""A client whose writes are seen by its own caches at once, so that no decision is taken on what was just replaced."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from crds.meta import Resource
from runtime.cache import Cache
from runtime.client import Client, Invalid, NotFound
from runtime.kind import Kind, kind_of

Object = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R", bound=Resource)

_NOISE = ("managedFields",)


def trimmed(obj: Object) -> Object:
    """The object without what no controller reads and what makes up most of its size."""
    meta = {k: v for k, v in obj["metadata"].items() if k not in _NOISE}
    annotations = meta.get("annotations")
    if annotations and "kubectl.kubernetes.io/last-applied-configuration" in annotations:
        meta["annotations"] = {
            k: v for k, v in annotations.items() if k != "kubectl.kubernetes.io/last-applied-configuration"
        }
    return {**obj, "metadata": meta}


def merge_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The RFC 7396 merge patch that turns `old` into `new`; empty when they are equal."""
    patch: Object = {}
    for name, value in new.items():
        if name not in old:
            patch[name] = value
        elif isinstance(value, dict) and isinstance(old[name], dict):
            inner = merge_diff(old[name], value)
            if inner:
                patch[name] = inner
        elif old[name] != value:
            patch[name] = value
    for name in old.keys() - new.keys():
        patch[name] = None
    return patch


class Cluster:
    """The apiserver as one process sees it: `client` for what is not cached, caches by kind, writes that fill them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.caches: dict[Kind, Cache[Any]] = {}

    def watch(
        self,
        kind: Kind,
        project: Callable[[Object], T] | None = None,
        indexes: Mapping[str, Callable[[T], Iterable[Hashable]]] | None = None,
        namespace: str | None = None,
    ) -> Cache[T]:
        """The cache of a kind; `runtime.process` keeps it filled.

        `project` says what is kept of an object (by default all of it, parsed at each reading by whoever reads).
        A kind has one cache per process: the second call returns the first one's and may only add indexes.
        """
        cache = self.caches.get(kind)
        if cache is None:
            keep: Callable[[Object], Any] = project or (lambda obj: obj)
            cache = self.caches[kind] = Cache(kind, keep, indexes, namespace)
        else:
            cache.add_indexes(indexes or {})
        return cache

    def watch_resource(
        self,
        resource: type[R],
        indexes: Mapping[str, Callable[[R], Iterable[Hashable]]] | None = None,
        namespace: str | None = None,
    ) -> Cache[R]:
        """The cache of an API kind, parsed once per version seen. What it holds is shared: read it, never change it."""
        return self.watch(kind_of(resource), resource.model_validate, indexes, namespace)

    def _seen(self, kind: Kind, obj: Object) -> Object:
        cache = self.caches.get(kind)
        if cache is not None and "uid" in obj.get("metadata", {}):
            cache.observe(trimmed(obj))
        return obj

    async def create(self, kind: Kind, obj: Object) -> Object:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return self._seen(kind, await self.client.create(kind, body))

    async def replace(self, kind: Kind, obj: Object, subresource: str = "") -> Object:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return self._seen(kind, await self.client.replace(kind, body, subresource))

    async def merge_patch(
        self, kind: Kind, name: str, namespace: str | None, patch: Object, subresource: str = ""
    ) -> Object:
        return self._seen(kind, await self.client.merge_patch(kind, name, namespace, patch, subresource))

    async def json_patch(
        self, kind: Kind, name: str, namespace: str | None, patch: list[Object], subresource: str = ""
    ) -> Object:
        return self._seen(kind, await self.client.json_patch(kind, name, namespace, patch, subresource))

    async def apply(self, kind: Kind, obj: Object) -> Object:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return self._seen(kind, await self.client.apply(kind, body))

    async def delete(self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None) -> bool:
        """Asks for deletion; True when the object was there. Without finalizers it is gone at once."""
        answer = await self.client.delete(kind, name, namespace, uid=uid)
        if answer is None:
            return False
        if answer.get("kind") == kind.kind and answer["metadata"].get("finalizers"):
            self._seen(kind, answer)
        return True

    async def patch_status(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        resource_version: str | None = None,
        uid: str | None = None,
    ) -> bool:
        """Writes the difference between two statuses, if any; True when there was one.

        With `resource_version` the write fails with Conflict if the object changed since. With `uid` nothing is written
        to another object of the same name. An object that is gone is no error.
        """
        meta = {"resourceVersion": resource_version, "uid": uid}
        patch: Object = {"metadata": {name: value for name, value in meta.items() if value is not None}}
        difference = merge_diff(old, new)
        if not difference:
            return False
        patch["status"] = difference
        try:
            await self.merge_patch(kind, name, namespace, patch, "status")
        except NotFound:
            return False
        except Invalid as error:
            if uid is not None and "metadata.uid" in error.message:
                return False  # as immutable: the one that was meant is gone, too
            raise
        return True

    async def add_finalizer(self, kind: Kind, meta: Mapping[str, Any], finalizer: str) -> None:
        """Adds the finalizer unless it is there; `meta` is the object's metadata as last seen, the precondition."""
        finalizers = list(meta.get("finalizers") or [])
        if finalizer not in finalizers:
            await self._set_finalizers(kind, meta, [*finalizers, finalizer])

    async def remove_finalizer(self, kind: Kind, meta: Mapping[str, Any], finalizer: str) -> None:
        """Removes the finalizer if it is there. An object that is gone is no error."""
        finalizers = list(meta.get("finalizers") or [])
        if finalizer not in finalizers:
            return
        try:
            await self._set_finalizers(kind, meta, [f for f in finalizers if f != finalizer])
        except NotFound:
            return

    async def _set_finalizers(self, kind: Kind, meta: Mapping[str, Any], finalizers: list[str]) -> None:
        patch = {"metadata": {"finalizers": finalizers or None, "resourceVersion": meta["resourceVersion"]}}
        answer = await self.client.merge_patch(kind, meta["name"], meta.get("namespace"), patch)
        cache = self.caches.get(kind)
        if cache is None:
            return
        if not finalizers and meta.get("deletionTimestamp"):
            cache.forget(answer)  # nothing holds it any more: this write deleted it
        else:
            cache.observe(trimmed(answer))
