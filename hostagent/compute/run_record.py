"""What the agent remembers of a guest between its own lives: whether the guest is meant to be on, and how
often it fell.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hostagent import durable

_STEADY = 600.0
"""Seconds after which a run counts as good, and earlier falls are forgotten."""
_FIRST_DELAY = 10.0
_MOST_DELAY = 300.0


@dataclass(frozen=True)
class RunRecord:
    """`started`: the guest was let run and nobody asked to stop it since. `last_start` in seconds since the epoch."""

    started: bool = False
    disk_made: bool = False
    restarts: int = 0
    last_start: float = 0.0

    def begun(self, now: float) -> RunRecord:
        """After a start: the first one, or one after a fall."""
        again = self.started and now - self.last_start < _STEADY
        return replace(self, started=True, last_start=now, restarts=self.restarts + 1 if again else 0)

    def stopped(self) -> RunRecord:
        """After a stop that was asked for."""
        return replace(self, started=False, restarts=0)

    def restart_at(self) -> float:
        """When the guest may be started again after a fall: at once the first time, then ever later."""
        if self.restarts == 0:
            return self.last_start
        return self.last_start + min(_MOST_DELAY, _FIRST_DELAY * 2.0 ** min(self.restarts - 1, 16))


def load(path: Path) -> RunRecord:
    """The record on disk; a fresh one when there is none, or none that can be read."""
    try:
        fields = json.loads(path.read_text())
        return RunRecord(
            started=bool(fields["started"]),
            disk_made=bool(fields["disk_made"]),
            restarts=int(fields["restarts"]),
            last_start=float(fields["last_start"]),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return RunRecord()


def save(path: Path, record: RunRecord) -> None:
    """Keeps it durably."""
    durable.write(path, json.dumps(asdict(record)).encode())
