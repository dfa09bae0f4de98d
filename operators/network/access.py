"""Which networks a tenant may use, and the one sentence for those that it may not."""

from __future__ import annotations

from crds.access import AccessScope
from crds.meta import ObjectRef
from crds.network import Network
from runtime.cache import Key


def network_key(ref: ObjectRef, namespace: str) -> Key:
    """The Network that `ref` means in an object of `namespace`."""
    return Key(ref.namespace or namespace, ref.name)


def may_use(network: Network, tenant: str) -> bool:
    """Whether a tenant's ports may be on the network."""
    access = network.spec.access
    if network.metadata.namespace == tenant:
        return True
    match access.scope:
        case AccessScope.PUBLIC | AccessScope.COMMUNITY:
            return True
        case AccessScope.SHARED:
            return tenant in access.tenants
        case AccessScope.PRIVATE:
            return False


def not_found(key: Key, tenant: str) -> str:
    """The sentence for a network that is not there, or not for this tenant: it must not tell which."""
    if key.namespace == tenant:
        return f"Network {key.name} does not exist in namespace {tenant}: create it."
    return f"Network {key} does not exist or is not shared with tenant {tenant}: ask its owner to share it."
