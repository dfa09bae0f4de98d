"""How the data plane is brought in line: one run at a time, a failure told to who waits and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hostagent.errors import NodeError, Reason
from hostagent.network.dataplane import DataPlane
from hostagent.network.errors import DataPlaneError
from hostagent.network.model import DesiredNode
from hostagent.network.report import Report
from hostagent.network_sync import NetworkSync

NODE = DesiredNode("10.0.0.1")


class Scripted(DataPlane):
    """Fails as told, then goes through."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def reconcile(self, desired: DesiredNode) -> Report:
        self.runs += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return Report(operations=(f"run {self.runs}",))


@asynccontextmanager
async def running(dataplane: Scripted) -> AsyncIterator[tuple[NetworkSync, list[Report]]]:
    told: list[Report] = []
    sync = NetworkSync(dataplane, lambda: NODE, told.append)
    task = asyncio.create_task(sync.run())
    try:
        yield sync, told
        assert not task.done(), task
    finally:
        task.cancel()


@pytest.mark.parametrize("failure", [DataPlaneError("no"), OSError("no"), TypeError("a fault of ours")])
async def test_whoever_waits_is_told_and_the_next_wish_is_tried_at_once(failure: Exception) -> None:
    dataplane = Scripted(failure)
    async with running(dataplane) as (sync, told):
        with pytest.raises(NodeError) as raised:
            await sync.synced()
        assert raised.value.reason is Reason.NETWORK_FAILED
        assert not sync.first.is_set()
        async with asyncio.timeout(0.4):
            assert (await sync.synced()).operations == ("run 2",)
        assert sync.first.is_set()
        assert [report.operations for report in told] == [("run 2",)]


async def test_a_failure_is_tried_again_by_itself_ever_later_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    dataplane = Scripted(*(DataPlaneError("no permission") for _ in range(2)))
    async with running(dataplane) as (sync, _):
        sync.wake()
        async with asyncio.timeout(10):
            await sync.first.wait()
    assert dataplane.runs == 3
    assert caplog.text.count("no permission") == 1


async def test_what_is_asked_during_a_run_is_done_by_the_next() -> None:
    dataplane = Scripted()
    dataplane.gate.clear()
    async with running(dataplane) as (sync, _):
        first = asyncio.create_task(sync.synced())
        while not dataplane.runs:
            await asyncio.sleep(0)
        others = [asyncio.create_task(sync.synced()) for _ in range(3)]
        await asyncio.sleep(0)
        dataplane.gate.set()
        assert (await first).operations == ("run 1",)
        assert {(await other).operations for other in others} == {("run 2",)}
        assert dataplane.runs == 2
