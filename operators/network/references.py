"""Which Network a reference means, and the one sentence for those that cannot be used."""

from __future__ import annotations

from crds.meta import ObjectRef
from runtime.cache import Key


def network_key(ref: ObjectRef, namespace: str) -> Key:
    """The Network that `ref` means in an object of `namespace`."""
    return Key(ref.namespace or namespace, ref.name)


def not_found(key: Key, tenant: str) -> str:
    """The sentence for a network that is not there, or not for this tenant: it must not tell which."""
    if key.namespace == tenant:
        return f"Network {key.name} does not exist in namespace {tenant}: create it."
    return f"Network {key} does not exist or is not shared with tenant {tenant}: ask its owner to share it."
