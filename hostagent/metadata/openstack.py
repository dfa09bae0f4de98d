"""The OpenStack tree: of the metadata service below /openstack, and of the config drive.

Source: https://docs.openstack.org/nova/latest/user/metadata.html#openstack-format-metadata
"""

from __future__ import annotations

import base64
import hashlib
import json

from hostagent.metadata.facts import Guest
from hostagent.metadata.network_data import network_data

VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
)
_SINCE = {"vendor_data.json": "2013-10-17", "network_data.json": "2015-10-15", "vendor_data2.json": "2016-10-06"}
_SEED_BYTES = 512


def documents(guest: Guest, *, version: str = "latest", seed: bytes | None = None) -> dict[str, bytes]:
    """The files of one version by name. `seed`: random bytes for the guest's entropy pool, for the config
    drive as Nova does.
    """
    files = {
        "meta_data.json": _json(meta_data(guest, seed)),
        "network_data.json": _json(network_data(guest.work.spec.ports)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    if guest.user_data is not None:
        files["user_data"] = guest.user_data
    return {name: content for name, content in files.items() if version == "latest" or version >= _SINCE.get(name, "")}


def meta_data(guest: Guest, seed: bytes | None = None) -> dict[str, object]:
    """meta_data.json."""
    told = guest.work.spec.metadata
    document: dict[str, object] = {
        "uuid": guest.uid,
        "name": told.name,
        "hostname": guest.hostname,
        "launch_index": told.launch_index,
        "availability_zone": guest.availability_zone,
        "project_id": told.project_id,
        "devices": [],
        "dedicated_cpus": [],
    }
    if told.properties:
        document["meta"] = dict(told.properties)
    if guest.keys:
        document["public_keys"] = guest.keys
        document["keys"] = [{"name": name, "type": "ssh", "data": data} for name, data in guest.keys.items()]
    if seed is not None:
        document["random_seed"] = base64.b64encode(_stretch(seed)).decode()
    return document


def _stretch(seed: bytes) -> bytes:
    """512 bytes, Nova's length, of any seed."""
    return hashlib.shake_256(seed).digest(_SEED_BYTES)


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
