"""What a domain (identity, image, network, storage, compute) gives to the process that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from operators.settings import Settings
from runtime.cluster import Cluster
from runtime.controller import Controller
from runtime.events import Recorder
from runtime.process import Task


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Context:
    """What every domain is built from. `now` is passed in, so that tests own the time."""

    cluster: Cluster
    recorder: Recorder
    settings: Settings
    now: Callable[[], datetime] = utc_now


@dataclass(frozen=True)
class Domain:
    """`controllers` and `tasks` run on the leader only, `always` on every replica."""

    name: str
    controllers: Sequence[Controller]
    tasks: Sequence[Task] = field(default=())
    always: Sequence[Task] = field(default=())
