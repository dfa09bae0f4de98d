"""User-data that a tenant keeps in a Secret. Secrets of tenants are read when they are needed, and not watched."""

from __future__ import annotations

import base64

from crds.compute import Instance
from crds.compute.instances import USER_DATA_LIMIT
from operators.compute.instance.world import Problem, UserData
from operators.compute.reasons import Reason
from operators.verdict import stalled, waiting
from runtime.client import Client, NotFound
from runtime.kind import SECRET

DEFAULT_KEY = "userData"


async def read_user_data(client: Client, instance: Instance) -> UserData:
    """What spec.userDataSecretRef names; empty if the Instance has no such field."""
    ref, namespace = instance.spec.user_data_secret_ref, instance.metadata.namespace
    if ref is None:
        return UserData()
    try:
        secret = await client.get(SECRET, ref.name, namespace)
    except NotFound:
        return _missing(
            f"Secret {ref.name} of spec.userDataSecretRef does not exist in namespace {namespace}: create it."
        )
    key = ref.key or DEFAULT_KEY
    encoded = (secret.get("data") or {}).get(key)
    if encoded is None:
        return _missing(f"Secret {ref.name} of spec.userDataSecretRef has no key '{key}': add it.")
    size = len(base64.b64decode(encoded))
    if size > USER_DATA_LIMIT:
        message = (
            f"Secret {ref.name} of spec.userDataSecretRef holds {size} bytes: user-data must be at most"
            f" {USER_DATA_LIMIT} bytes (64 KiB); compress it, or let it #include a URL."
        )
        return UserData(problem=Problem(stalled(Reason.USER_DATA_INVALID, message)))
    return UserData(encoded)


def _missing(message: str) -> UserData:
    return UserData(problem=Problem(waiting(Reason.USER_DATA_NOT_FOUND, message)))
