"""Whether a tenant may use what belongs to another one."""

from __future__ import annotations

from crds.access import Access, AccessScope


def may_use(access: Access, owner: str | None, tenant: str) -> bool:
    """`owner` is the namespace of the object; None for a cluster-wide one, which is nobody's own."""
    if owner == tenant or access.scope in (AccessScope.PUBLIC, AccessScope.COMMUNITY):
        return True
    return access.scope is AccessScope.SHARED and tenant in access.tenants
