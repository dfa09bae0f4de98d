"""What the agent remembers of a guest between its own lives: whether the guest is meant to be on, and how
often it fell.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hostagent import durable

log = logging.getLogger(__name__)

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
        """After a start: the first one, or one after a fall. Whoever was started has a disk, also when the agent was
        killed before it noted that.
        """
        again = self.started and now - self.last_start < _STEADY
        restarts = self.restarts + 1 if again else 0
        return replace(self, started=True, disk_made=True, last_start=now, restarts=restarts)

    def stopped(self) -> RunRecord:
        """After a stop that was asked for."""
        return replace(self, started=False, restarts=0)

    def wait(self, now: float) -> float:
        """Seconds until the guest may be started again after a fall: none the first time, then ever more."""
        if self.restarts == 0 or now < self.last_start:  # a clock that was set back says nothing
            return 0.0
        delay = min(_MOST_DELAY, _FIRST_DELAY * 2.0 ** min(self.restarts - 1, 16))
        return max(0.0, self.last_start + delay - now)


def load(path: Path) -> RunRecord:
    """The record on disk; a fresh one when there is none. In place of a damaged one it is assumed that the disk was
    made: a disk that is not there is then told, not replaced by an empty one.
    """
    try:
        fields = json.loads(path.read_text())
        return RunRecord(
            started=bool(fields["started"]),
            disk_made=bool(fields["disk_made"]),
            restarts=int(fields["restarts"]),
            last_start=float(fields["last_start"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return RunRecord()
    except (ValueError, KeyError, TypeError) as error:
        log.error("%s: the record cannot be read: %r", path, error)
        return RunRecord(disk_made=True)


def save(path: Path, record: RunRecord) -> None:
    """Keeps it durably."""
    durable.write(path, json.dumps(asdict(record)).encode())
