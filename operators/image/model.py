"""What passes between the planner and those who act: requests, how far they are, what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from crds.vocabulary import DiskFormat
from operators.image.failure import Reason
from runtime.cache import Key


@dataclass(frozen=True)
class ImportRequest:
    """An import to be done. Without `url` the bytes have been uploaded. `sha256` is what they must have, if known."""

    key: Key
    uid: str
    generation: int
    url: str | None
    declared: DiskFormat
    sha256: str | None


@dataclass(frozen=True)
class StoredImage:
    """A finished import. `sha256` is of the bytes as they came, `stored_sha256` and `size` of what is kept."""

    sha256: str
    stored_sha256: str
    size: int
    virtual_size: int
    format: DiskFormat


class Stage(StrEnum):
    """How far a running import is."""

    QUEUED = "Queued"
    SAVING = "Saving"
    IMPORTING = "Importing"


@dataclass(frozen=True)
class Running:
    """Under way; `percent` of the stage, if known."""

    stage: Stage
    percent: int | None = None


@dataclass(frozen=True)
class Failed:
    """Ended badly, `failures` times in a row; `retry_at` unless the user must act."""

    reason: Reason
    message: str
    generation: int
    failures: int
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Done:
    """Ended well."""

    stored: StoredImage


Job = Running | Failed | Done
