"""The controller: no key twice at once, none lost, back-off after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from runtime.cache import Key
from runtime.client import Conflict, Unavailable, error_for
from runtime.controller import Controller, backoff
from runtime.rate import TokenBucket

KEY = Key("a", "x")


@asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_many_calls_make_one_look_and_a_call_meanwhile_one_more() -> None:
    looks = 0
    started, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal looks
        looks += 1
        started.set()
        await go_on.wait()
        if looks == 2:
            done.set()

    controller = Controller("test", reconcile, workers=4)
    for _ in range(5):
        controller.enqueue(KEY)
    async with running(controller):
        await started.wait()
        controller.enqueue(KEY)
        controller.enqueue(KEY)
        await asyncio.sleep(0)
        assert looks == 1, "a key must not be looked at twice at once"
        go_on.set()
        await asyncio.wait_for(done.wait(), 5)
    assert looks == 2


async def test_a_failure_is_told_and_retried() -> None:
    told: list[tuple[str, int]] = []
    tries = 0
    done = asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable(503, "", f"try {tries}")
        done.set()

    async def on_error(key: Key, error: Exception, failures: int) -> None:
        told.append((str(error), failures))

    controller = Controller("test", reconcile, on_error=on_error, jitter=lambda: 0.0)
    controller.enqueue(KEY)
    async with running(controller):
        await asyncio.wait_for(done.wait(), 5)
    assert told == [("try 1", 1), ("try 2", 2)]


async def test_a_conflict_is_looked_at_again_and_not_told() -> None:
    told: list[str] = []
    tries = 0
    done = asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Conflict(409, "Conflict", "changed")
        done.set()

    async def on_error(key: Key, error: Exception, failures: int) -> None:
        told.append(str(error))

    controller = Controller("test", reconcile, on_error=on_error)
    controller.enqueue(KEY)
    async with running(controller):
        await asyncio.wait_for(done.wait(), 5)
    assert told == []


async def test_a_conflict_that_lasts_is_looked_at_less_and_less_often() -> None:
    looks: list[float] = []
    done = asyncio.Event()

    async def reconcile(key: Key) -> None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) < 5:
            raise Conflict(409, "Conflict", "changed")
        done.set()

    controller = Controller("test", reconcile)
    controller.enqueue(KEY)
    async with running(controller):
        await asyncio.wait_for(done.wait(), 10)
    pauses = [after - before for before, after in pairwise(looks)]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=True)), pauses


async def test_a_failure_that_cannot_be_told_stops_nobody() -> None:
    tries = 0
    done = asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a fault")
        done.set()

    async def on_error(key: Key, error: Exception, failures: int) -> None:
        raise ValueError("and one in the telling of it")

    controller = Controller("test", reconcile, on_error=on_error, workers=1, jitter=lambda: 0.0)
    controller.enqueue(KEY)
    async with running(controller):
        await asyncio.wait_for(done.wait(), 5)


@pytest.mark.parametrize(
    "body",
    [
        b"404 page not found",
        b"<html>no backend</html>",
        b'{"kind": "Status", "reason": "NotFound", "details": {}}',
        b'{"kind": "Status", "reason": "NotFound"}',
    ],
)
def test_absence_is_believed_only_if_the_object_is_named(body: bytes) -> None:
    assert isinstance(error_for(404, body), Unavailable)


async def test_a_returned_delay_brings_another_look() -> None:
    looks: list[float] = []
    done = asyncio.Event()

    async def reconcile(key: Key) -> float | None:
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 2:
            done.set()
            return None
        return 0.05

    controller = Controller("test", reconcile)
    controller.enqueue(KEY)
    async with running(controller):
        await asyncio.wait_for(done.wait(), 5)
    assert looks[1] - looks[0] >= 0.05


def test_backoff_doubles_up_to_its_ceiling() -> None:
    assert [backoff(n) for n in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert backoff(50) == 60
    assert backoff(1, spread=0) == 0.1


def test_a_token_bucket_spends_its_burst_then_its_rate() -> None:
    now = 0.0
    bucket = TokenBucket(10, 2, clock=lambda: now)
    assert [bucket.reserve() for _ in range(4)] == [0, 0, 0.1, 0.2]
    now = 10.0
    assert bucket.reserve() == 0


def test_errors_are_told_apart_by_what_the_apiserver_says() -> None:
    conflict = error_for(409, b'{"reason": "Conflict", "message": "changed"}')
    assert type(conflict).__name__ == "Conflict"
    assert type(error_for(409, b'{"reason": "AlreadyExists"}')).__name__ == "AlreadyExists"
    told = b'{"kind": "Status", "reason": "NotFound", "message": "gone", "details": {"name": "x", "kind": "ports"}}'
    assert type(error_for(404, told)).__name__ == "NotFound"
    assert error_for(503, b"<html>").message == "<html>"
    assert isinstance(error_for(429, b"{}"), Unavailable)
