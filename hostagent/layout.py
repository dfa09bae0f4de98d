"""Where the agent keeps things below its state directory.

    images/<sha256>.qcow2            base images, shared by guests, never written again
    instances/<uid>/                 one guest: root.qcow2, config-drive.iso, console.log, run.json
    agent.lock                       held by the agent that runs
    ledger/                          the last work objects, slices and secrets that the API told

Directories of guests can be traversed by all (QEMU runs as another user, to which libvirt gives the files themselves);
the ledger holds secrets and is root's alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostagent.durable import PARTIAL

TRAVERSABLE = 0o711
PRIVATE = 0o700


class StateDirectoryInUse(Exception):
    """Another agent holds it; the message says what to do."""


@dataclass(frozen=True)
class InstanceFiles:
    """The files of one guest."""

    directory: Path

    @property
    def root_disk(self) -> Path:
        return self.directory / "root.qcow2"

    @property
    def config_drive(self) -> Path:
        return self.directory / "config-drive.iso"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def run_record(self) -> Path:
        return self.directory / "run.json"


@dataclass(frozen=True)
class Layout:
    """The paths below the state directory."""

    state_dir: Path

    @property
    def images(self) -> Path:
        return self.state_dir / "images"

    @property
    def instances(self) -> Path:
        return self.state_dir / "instances"

    @property
    def ledger(self) -> Path:
        return self.state_dir / "ledger"

    def image(self, sha256: str) -> Path:
        return self.images / f"{sha256}.qcow2"

    def instance(self, uid: str) -> InstanceFiles:
        return InstanceFiles(self.instances / uid)

    def prepare(self) -> None:
        """Make the directories, and remove what an agent that was killed left half written."""
        for directory, mode in ((self.images, TRAVERSABLE), (self.instances, TRAVERSABLE), (self.ledger, PRIVATE)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        for directory in (self.images, self.instances, self.ledger):
            for path in list(directory.rglob(f"*{PARTIAL}")):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """This process alone works below the state directory until the end of the block, or of the process: of two
        agents one would take the other's guests for lost. Raises StateDirectoryInUse.
        """
        self.state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, self.state_dir)
            yield
        finally:
            os.close(descriptor)

    def instance_uids(self) -> list[str]:
        """The UIDs of the guests that have files on this node."""
        return sorted(path.name for path in self.instances.iterdir() if path.is_dir())


def _lock(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"another host agent works in {state_dir}: end it, or give this one a --state-dir of its own"
        raise StateDirectoryInUse(message) from error
