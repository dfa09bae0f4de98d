"""What a process has seen of one kind."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from runtime.kind import Kind

log = logging.getLogger(__name__)

Object = dict[str, Any]
T = TypeVar("T")

_TOMBSTONES = 10_000


class Key(NamedTuple):
    """Namespace ("" for cluster-scoped kinds) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("namespace") or "", meta["name"])


class _Entry(NamedTuple, Generic[T]):
    uid: str
    version: int
    value: T


class Cache(Generic[T]):
    """The latest seen version of every object of a kind, as what `project` keeps of it, with indexes.

    Versions are compared as numbers: an answer to an own write and the watch may arrive in either order. (Opaque by
    the API's old promise, comparable by its new one, https://kep.k8s.io/5504; etcd's revisions always were.)
    With `namespace` only that namespace is watched. A deleted object's UID is remembered, so that a late answer does
    not bring it back. An object that `project` cannot read (it raises) is logged and left as it was seen before, if it
    was: nobody may stop a whole process by one object.
    """

    def __init__(
        self,
        kind: Kind,
        project: Callable[[Object], T],
        indexes: Mapping[str, Callable[[T], Iterable[Hashable]]] | None = None,
        namespace: str | None = None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.synced = asyncio.Event()
        self._project = project
        self._entries: dict[Key, _Entry[T]] = {}
        self._indexers = dict(indexes or {})
        self._indexes: dict[str, dict[Hashable, dict[Key, None]]] = {name: {} for name in self._indexers}
        self._listeners: list[Callable[[Key, T | None, T | None], None]] = []
        self._tombstones: OrderedDict[str, None] = OrderedDict()
        self._unreadable: set[str] = set()
        self.newest = 0
        """The highest version that was seen, of an object or a list."""

    def add_indexes(self, indexes: Mapping[str, Callable[[T], Iterable[Hashable]]]) -> None:
        """More indexes; one that exists by that name stays as it is. Only before the first object is seen."""
        for name, indexer in indexes.items():
            if name not in self._indexers:
                if self._entries:
                    raise RuntimeError(f"index {name} of {self.kind.kind} comes after its first object")
                self._indexers[name] = indexer
                self._indexes[name] = {}

    def get(self, name: str, namespace: str = "") -> T | None:
        entry = self._entries.get(Key(namespace, name))
        return entry.value if entry else None

    def find(self, index: str, value: Hashable) -> list[T]:
        """The objects that `index` files under `value`, in no particular order."""
        return [self._entries[key].value for key in self._indexes[index].get(value, ())]

    def __iter__(self) -> Iterator[T]:
        return iter([entry.value for entry in self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)

    def on_change(self, listener: Callable[[Key, T | None, T | None], None]) -> None:
        """Calls `listener(key, old, new)` after each change; old is None when added, new is None when deleted."""
        self._listeners.append(listener)

    def observe(self, obj: Object) -> None:
        """Takes in an object from a watch, a list, or the answer to a write."""
        meta = obj["metadata"]
        uid, version, key = meta["uid"], int(meta["resourceVersion"]), key_of(obj)
        self.newest = max(self.newest, version)
        if uid in self._tombstones:
            return
        old = self._entries.get(key)
        if old is not None and old.version >= version:
            return
        try:
            value = self._project(obj)
        except Exception:  # whatever the object has in it
            if uid not in self._unreadable:
                log.exception("%s: %s %s cannot be read and is passed over", key, self.kind.kind, uid)
            self._unreadable.add(uid)
            return
        self._unreadable.discard(uid)
        self._store(key, _Entry(uid, version, value), old)

    def forget(self, obj: Object) -> None:
        """Takes in the deletion of an object."""
        self._bury(key_of(obj), obj["metadata"]["uid"])

    def relist(self, objects: Iterable[Object], version: int) -> None:
        """Takes in a whole list as of `version`: what is older than it and not in it was deleted unseen."""
        self.newest = max(self.newest, version)
        seen: set[str] = set()
        for obj in objects:
            seen.add(obj["metadata"]["uid"])
            self.observe(obj)
        self._unreadable &= seen
        gone = [(k, e.uid) for k, e in self._entries.items() if e.uid not in seen and e.version <= version]
        for key, uid in gone:
            self._bury(key, uid)
        self.synced.set()

    def _bury(self, key: Key, uid: str) -> None:
        self._unreadable.discard(uid)
        self._tombstones[uid] = None
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        old = self._entries.get(key)
        if old is not None and old.uid == uid:
            self._store(key, None, old)

    def _store(self, key: Key, new: _Entry[T] | None, old: _Entry[T] | None) -> None:
        for name, indexer in self._indexers.items():
            index = self._indexes[name]
            if old is not None:
                for value in set(indexer(old.value)):  # an instance may be on one network twice
                    index[value].pop(key, None)
                    if not index[value]:
                        del index[value]
            if new is not None:
                for value in indexer(new.value):
                    index.setdefault(value, {})[key] = None
        if new is None:
            del self._entries[key]
        else:
            self._entries[key] = new
        for listener in self._listeners:
            listener(key, old.value if old else None, new.value if new else None)
