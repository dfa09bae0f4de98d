"""Who may use an object that can be shared: one rule for every kind that has `spec.access`.

The scope is judged where an object is used, not where it is read: what a tenant may see is RBAC's.
"""

from __future__ import annotations

from crds.access import Access, AccessScope


def may_use(access: Access, owner: str | None, tenant: str) -> bool:
    """Whether objects in the namespace `tenant` may use what is shared by `access`.

    `owner` is the namespace of the shared object; None for a cluster-wide one, which is nobody's own.
    """
    if owner is not None and owner == tenant:
        return True
    match access.scope:
        case AccessScope.PUBLIC | AccessScope.COMMUNITY:
            return True
        case AccessScope.SHARED:
            return tenant in access.tenants
        case AccessScope.PRIVATE:
            return False
