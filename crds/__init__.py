"""The API of Kumulus: one module per group, and `KINDS`, all kinds of all groups.

The models are the only place where a field is defined; `crds/manifests` is generated from them (`kumulus-crds`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crds.meta import Resource

    KINDS: tuple[type[Resource], ...]

GROUPS = ("identity", "image", "compute", "network", "storage", "node")


def __getattr__(name: str) -> object:
    # Loaded when asked for: the host agent uses one group only, and must stay small.
    if name != "KINDS":
        raise AttributeError(f"module 'crds' has no attribute {name!r}")
    return tuple(kind for group in GROUPS for kind in importlib.import_module(f"crds.{group}").KINDS)
