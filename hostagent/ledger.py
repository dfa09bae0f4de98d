"""What the API told last, on disk: a node that boots while the API is away brings back its guests and networks from it.

One file per object, written whole; secrets are among them, so the directory is root's alone.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

from crds.meta import Resource
from crds.node import NetworkSlice, NodeInstance, SecurityGroupSlice
from hostagent import durable

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)

_FOLDERS: dict[type[Resource], str] = {
    NodeInstance: "instances",
    NetworkSlice: "network-slices",
    SecurityGroupSlice: "security-group-slices",
}
_USER_DATA = "user-data"


class Ledger:
    """Blocking; small files. A file that cannot be read is told, left out, and named in `unreadable`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: dict[tuple[type[Resource], str], tuple[Any, ...]] = {}
        self.unreadable: dict[type[Resource], set[str]] = {resource: set() for resource in _FOLDERS}
        """Names of objects that were kept, but whose files are damaged."""
        for folder in (*_FOLDERS.values(), _USER_DATA):
            (directory / folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self, resource: type[R]) -> list[R]:
        """All objects of a kind."""
        objects: list[R] = []
        for path in sorted((self._directory / _FOLDERS[resource]).glob("*.json")):
            try:
                found = resource.model_validate_json(path.read_text())
            except (OSError, ValueError) as error:  # of pydantic, or of bytes that are no text
                log.error("%s: the ledger's copy cannot be read and is left out: %s", path, error)
                self.unreadable[resource].add(path.stem)
                continue
            self._kept[resource, found.metadata.name] = _version(found)
            objects.append(found)
        return objects

    def keep(self, found: Resource) -> bool:
        """Writes the object unless this generation of it is kept already; True when it wrote."""
        key = (type(found), found.metadata.name)
        if self._kept.get(key) == _version(found):
            return False
        durable.write(self._path(type(found), found.metadata.name), json.dumps(found.to_dict()).encode())
        self._kept[key] = _version(found)
        self.unreadable[key[0]].discard(key[1])
        return True

    def forget(self, resource: type[Resource], name: str) -> None:
        """Removes an object; no error when it is not kept."""
        self._path(resource, name).unlink(missing_ok=True)
        self._kept.pop((resource, name), None)
        self.unreadable[resource].discard(name)
        if resource is NodeInstance:
            self._user_data_path(name).unlink(missing_ok=True)

    def keep_user_data(self, uid: str, content: bytes) -> None:
        """User-data that came from a Secret, for a guest that starts while the API is away."""
        path = self._user_data_path(uid)
        if not path.exists() or path.read_bytes() != content:
            durable.write(path, content)

    def user_data(self, uid: str) -> bytes | None:
        """What `keep_user_data` kept."""
        try:
            return self._user_data_path(uid).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, resource: type[Resource], name: str) -> Path:
        return self._directory / _FOLDERS[resource] / f"{name}.json"

    def _user_data_path(self, uid: str) -> Path:
        return self._directory / _USER_DATA / uid


def _version(found: Resource) -> tuple[Any, ...]:
    meta = found.metadata
    return (meta.uid, meta.generation, meta.deletion_timestamp is not None)
