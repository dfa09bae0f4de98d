"""What the metadata service answers: a pure function of the guest and the path of the request."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.metadata import ec2, openstack
from hostagent.metadata.facts import Guest

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"


@dataclass(frozen=True)
class Document:
    """The body of an answer."""

    content: bytes
    content_type: str = _TEXT


def document(guest: Guest, path: str) -> Document | None:
    """The document at an absolute path; None when there is none. Empty parts are ignored, as in `//latest/`."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return _listing(*ec2.VERSIONS)
    if parts[0] == "openstack":
        return _openstack(guest, parts[1:])
    if parts[0] in ec2.VERSIONS:
        return _ec2(guest, parts[1:])
    return None


def _openstack(guest: Guest, parts: list[str]) -> Document | None:
    if not parts:
        return _listing(*openstack.VERSIONS)
    version, *rest = parts
    if version not in openstack.VERSIONS:
        return None
    files = openstack.documents(guest, version=version)
    if not rest:
        return _listing(*sorted(files))
    if len(rest) > 1 or rest[0] not in files:
        return None
    return Document(files[rest[0]], _JSON if rest[0].endswith(".json") else _BYTES)


def _ec2(guest: Guest, parts: list[str]) -> Document | None:
    if not parts:
        return _listing("meta-data/", *(["user-data"] if guest.user_data is not None else []))
    if parts == ["user-data"]:
        return None if guest.user_data is None else Document(guest.user_data, _BYTES)
    if parts[0] != "meta-data":
        return None
    found = ec2.lookup(ec2.meta_data(guest), parts[1:], list(guest.keys))
    return None if found is None else Document(found.encode())


def _listing(*names: str) -> Document:
    return Document("\n".join(names).encode())
