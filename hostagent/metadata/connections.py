"""Connections of guests to the metadata service: few at a time and short, so that no guest can use up the agent."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from aiohttp import web

AT_ONCE = 16
"""Per port of a guest. cloud-init uses one."""
LIFETIME = 30.0
"""Seconds after which a connection is cut, whether or not a request ever came to its end."""
IN_ALL = 1024
"""Of all guests of the node: each takes a file descriptor of the agent's."""
BURST = 100
"""Requests of a port that are answered at once. cloud-init makes some 40."""
RATE = 10.0
"""Requests per second and port beyond the burst; the others wait."""


class Limits:
    """How many connections each local address, and so each port, has, and how many requests it makes."""

    def __init__(self, at_once: int = AT_ONCE, lifetime: float = LIFETIME, in_all: int = IN_ALL) -> None:
        self.at_once = at_once
        self.lifetime = lifetime
        self.in_all = in_all
        self.open: Counter[str] = Counter()
        self._spent: dict[str, float] = {}
        """Address to the time at which its requests so far, at RATE, would be done."""

    def exceeded(self, address: str) -> bool:
        """Whether the latest connection, counted already, is one too many."""
        return self.open[address] > self.at_once or self.open.total() > self.in_all

    def delay(self, address: str, now: float) -> float:
        """Seconds that a request made at `now` has to wait; it is counted."""
        if len(self._spent) > self.in_all:
            self._spent = {each: until for each, until in self._spent.items() if until > now}
        until = max(now, self._spent.get(address, now)) + 1 / RATE
        self._spent[address] = until
        return max(0.0, until - now - BURST / RATE)


class LimitedHandler(web.RequestHandler):
    """aiohttp's handler of one connection, within limits."""

    __slots__ = ("_address", "_end", "_limits")

    def __init__(self, server: web.Server, limits: Limits, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._limits = limits
        self._address: str | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream server makes
        self._address = str(transport.get_extra_info("sockname")[0])
        self._limits.open[self._address] += 1
        if self._limits.exceeded(self._address):
            transport.abort()
            return
        self._end = asyncio.get_running_loop().call_later(self._limits.lifetime, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._end is not None:
            self._end.cancel()
        if self._address is not None:
            self._limits.open[self._address] -= 1
            if not self._limits.open[self._address]:
                del self._limits.open[self._address]
        super().connection_lost(exc)
