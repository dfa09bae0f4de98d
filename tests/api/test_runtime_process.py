"""The runtime on a real apiserver: watches, resync, leases, conflicts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from runtime.cache import Key
from runtime.client import AlreadyExists, Client, Conflict, Unavailable
from runtime.cluster import Cluster
from runtime.controller import Controller
from runtime.kind import CONFIG_MAP, NAMESPACE
from runtime.leader import Lease, LostLease
from runtime.process import Process


@pytest.fixture
async def namespace(client: Client, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-").lower()[:50]
    await client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_watches_fill_the_cache_and_wake_the_controller(client: Client, namespace: str) -> None:
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP, namespace=namespace)
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)

    controller = Controller("test", reconcile)
    cache.on_change(lambda key, old, new: controller.enqueue(key))
    other = Cluster(client)
    await other.create(CONFIG_MAP, config_map(namespace, "before", x="1"))
    process = Process(cluster, [controller])
    task = asyncio.create_task(process.run())
    try:
        await until(lambda: Key(namespace, "before") in seen)
        await other.create(CONFIG_MAP, config_map(namespace, "after", x="1"))
        await until(lambda: Key(namespace, "after") in seen)
        await other.merge_patch(CONFIG_MAP, "after", namespace, {"data": {"x": "2"}})
        await until(lambda: (cache.get("after", namespace) or {}).get("data") == {"x": "2"})
        await other.delete(CONFIG_MAP, "after", namespace)
        await until(lambda: cache.get("after", namespace) is None)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_signal_is_heeded_at_once(client: Client, namespace: str) -> None:
    """By the process, not by kopf, which would first wait 5 s for tasks that are not its own."""
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP, namespace=namespace)
    process = Process(cluster, [Controller("test", lambda key: asyncio.sleep(0))])
    task = asyncio.create_task(process.run())
    try:
        await process.ready.wait()
        await Cluster(client).create(CONFIG_MAP, config_map(namespace, "watched"))
        await until(lambda: cache.get("watched", namespace) is not None)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(process._stop.is_set, 2)
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_resync_finds_what_was_deleted_unseen(client: Client, namespace: str) -> None:
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP, namespace=namespace)
    ghost = config_map(namespace, "ghost")
    ghost["metadata"] |= {"uid": "no-such-uid", "resourceVersion": "1"}
    cache.observe(ghost)
    process = Process(cluster, [], resync_every=0.2)
    task = asyncio.create_task(process.run())
    try:
        await until(lambda: cache.get("ghost", namespace) is None)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_deleted_before_the_watch_begins_is_noticed(client: Client, namespace: str) -> None:
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP, namespace=namespace)
    process = Process(cluster, [])  # the next resync is minutes away
    ghost = config_map(namespace, "ghost")
    ghost["metadata"] |= {"uid": "no-such-uid", "resourceVersion": "1"}
    task = asyncio.create_task(process.run())
    try:
        await process.ready.wait()
        cache.observe(ghost)  # as if our own list had seen it, and kopf's had not any more
        await until(lambda: cache.get("ghost", namespace) is None, 6)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_own_writes_are_seen_at_once(client: Client, namespace: str) -> None:
    cluster = Cluster(client)
    cache = cluster.watch(CONFIG_MAP)
    made = await cluster.create(CONFIG_MAP, config_map(namespace, "mine", x="1"))
    assert cache.get("mine", namespace) is not None
    with pytest.raises(AlreadyExists):
        await cluster.create(CONFIG_MAP, config_map(namespace, "mine"))
    await cluster.add_finalizer(CONFIG_MAP, made["metadata"], "test.kumulus.dev/x")
    with pytest.raises(Conflict):
        await cluster.add_finalizer(CONFIG_MAP, made["metadata"], "test.kumulus.dev/y")
    await cluster.delete(CONFIG_MAP, "mine", namespace)
    held = cache.get("mine", namespace)
    assert held is not None
    assert held["metadata"]["deletionTimestamp"]
    await cluster.remove_finalizer(CONFIG_MAP, held["metadata"], "test.kumulus.dev/x")
    assert cache.get("mine", namespace) is None
    assert await cluster.delete(CONFIG_MAP, "mine", namespace) is False


async def test_a_status_is_never_written_to_a_successor(client: Client, namespace: str) -> None:
    cluster, status = Cluster(client), {"phase": "Terminating"}
    await cluster.create(CONFIG_MAP, config_map(namespace, "other"))
    written = await cluster.patch_status(NAMESPACE, namespace, None, {}, status, uid="00000000-0000-0000-0000-0000")
    assert written is False
    found = await client.get(NAMESPACE, namespace)
    assert found["status"]["phase"] == "Active"
    assert await cluster.patch_status(NAMESPACE, namespace, None, {}, {"phase": "Active"}, uid=found["metadata"]["uid"])


async def test_delete_by_uid_spares_a_successor(client: Client, namespace: str) -> None:
    cluster = Cluster(client)
    await cluster.create(CONFIG_MAP, config_map(namespace, "heir"))
    assert await cluster.delete(CONFIG_MAP, "heir", namespace, uid="00000000-0000-0000-0000-000000000000") is False
    assert await client.get(CONFIG_MAP, "heir", namespace)


async def test_one_lease_one_holder_and_the_next_when_it_dies(client: Client, namespace: str) -> None:
    def lease(identity: str) -> Lease:
        return Lease(client, namespace, "leader", identity, duration=2, renew_every=0.2)

    first, second = lease("first"), lease("second")
    await asyncio.wait_for(first.acquire(), 10)
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    done, _ = await asyncio.wait({waiting}, timeout=3)
    assert not done, "a held lease must not be taken"
    holding.cancel()  # the holder dies without a word
    await asyncio.wait_for(waiting, 10)
    with pytest.raises(LostLease):
        await asyncio.wait_for(first.hold(), 10)
    # The same identity, started anew, needs not wait for its own predecessor's end.
    await asyncio.wait_for(lease("second").acquire(), 1)


async def test_a_released_lease_is_free_at_once(client: Client, namespace: str) -> None:
    first = Lease(client, namespace, "leader", "first", duration=60, renew_every=0.1)
    second = Lease(client, namespace, "leader", "second", duration=60, renew_every=0.1)
    await first.acquire()
    await first.release()
    await asyncio.wait_for(second.acquire(), 5)


async def test_lists_come_in_pages(client: Client, namespace: str) -> None:
    await asyncio.gather(
        *(
            client.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", **config_map(namespace, f"n{i}")})
            for i in range(520)
        )
    )
    items, version = await client.list(CONFIG_MAP, namespace)
    assert len({item["metadata"]["name"] for item in items} - {"kube-root-ca.crt"}) == 520
    assert version > 0


async def test_an_apiserver_out_of_reach_is_unavailable(client: Client) -> None:
    client._api.configuration.host = "https://127.0.0.1:1"
    with pytest.raises(Unavailable):
        await client.get(NAMESPACE, "default")
