"""Brings the node's data plane in line: one run at a time, and what is asked during a run is done by the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from crds.node import NodeInstance, NodePortState, NodePortStatus
from hostagent.errors import NodeError, Reason
from hostagent.network.dataplane import DataPlane
from hostagent.network.errors import DataPlaneError
from hostagent.network.model import DesiredNode
from hostagent.network.report import PortReport, PortState, Report
from runtime.controller import backoff

log = logging.getLogger(__name__)

_MOST = 30.0
"""Seconds between tries of a data plane that cannot be programmed; a wish is tried at once."""

_STATES = {
    PortState.ACTIVE: NodePortState.ACTIVE,
    PortState.DOWN: NodePortState.DOWN,
    PortState.ERROR: NodePortState.ERROR,
}


class NetworkSync:
    """`desired` is asked at the beginning of each run; `on_synced(report)` is called after each, on the event loop."""

    def __init__(
        self, dataplane: DataPlane, desired: Callable[[], DesiredNode], on_synced: Callable[[Report], None]
    ) -> None:
        self._dataplane = dataplane
        self._desired = desired
        self._on_synced = on_synced
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[Report]] = []
        self._told: frozenset[tuple[str, str, str]] = frozenset()
        self._failure = ""
        """What was told of the last run, if it failed."""
        self.first = asyncio.Event()
        """Set after the first run that went through."""

    def wake(self) -> None:
        """Asks for a run without waiting for it."""
        self._wanted.set()

    async def synced(self) -> Report:
        """The report of a run that began after this call. Raises NodeError when nothing could be done."""
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return await future

    async def run(self) -> None:
        """Works for ever."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(backoff(failures, first=1.0, most=_MOST) if failures else None):
                    await self._wanted.wait()
            except TimeoutError:
                log.debug("the data plane is tried again")
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            try:
                report = await self._dataplane.reconcile(self._desired())
            except Exception as error:  # a fault here must keep no guest from being stopped
                failures += 1
                self._fail(waiting, error)
                continue
            failures = 0
            self._failure = ""
            self.first.set()
            self._tell(report)
            for future in waiting:
                if not future.done():
                    future.set_result(report)
            self._on_synced(report)

    def _fail(self, waiting: Iterable[asyncio.Future[Report]], error: Exception) -> None:
        if repr(error) != self._failure:
            self._failure = repr(error)
            expected = isinstance(error, (DataPlaneError, OSError))
            log.error("the data plane could not be programmed: %s", error, exc_info=None if expected else error)
        for future in waiting:
            if not future.done():
                future.set_exception(
                    NodeError(Reason.NETWORK_FAILED, f"The node's network could not be programmed: {error}")
                )

    def _tell(self, report: Report) -> None:
        log.debug("data plane: %d changes", len(report.operations))
        for operation in report.operations:
            log.debug("data plane: %s", operation)
        problems = frozenset((problem.subject, problem.reason, problem.message) for problem in report.problems)
        for subject, reason, message in sorted(problems - self._told):
            log.warning("%s: data plane: %s: %s", subject, reason, message)
        self._told = problems


def require_programmed(report: Report, work: NodeInstance) -> None:
    """Raises NodeError when a port of the guest is not guarded as its spec asks."""
    for port in work.spec.ports:
        found = report.ports.get(port.uid)
        if found is None or not found.programmed:
            why = (found.message or found.reason) if found else "the data plane does not know it"
            raise NodeError(Reason.NETWORK_FAILED, f"Port {port.port_name} could not be programmed on the node: {why}")


def port_status(report: PortReport) -> NodePortStatus:
    """What the work object tells of a port."""
    return NodePortStatus(uid=report.uid, state=_STATES[report.state], tap=report.tap)
