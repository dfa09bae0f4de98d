"""The host agent, which ends itself as by `kill -9` when it comes to a given step: for test_agent_crash.py.

    python killed_agent.py Action before|after|within <agent's own options>

`within` strikes a random moment into the step.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

from crds.node import NodeInstance
from hostagent.compute.executor import Executor, Memory
from hostagent.compute.plan import Action
from hostagent.main import main

_run = Executor.run
STRIKE_WITHIN = 0.15
"""Seconds; most steps take less."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fatal: Action, moment: str) -> None:
    """Makes the executor deadly."""

    async def run(self: Executor, action: Action, work: NodeInstance, memory: Memory) -> None:
        if action is not fatal:
            await _run(self, action, work, memory)
            return
        if moment == "before":
            _die()
        if moment == "within":
            asyncio.get_running_loop().call_later(random.uniform(0, STRIKE_WITHIN), _die)
        await _run(self, action, work, memory)
        _die()

    Executor.run = run  # type: ignore[method-assign]  # that is what this program is for


if __name__ == "__main__":
    arm(Action(sys.argv[1]), sys.argv[2])
    main(sys.argv[3:])
