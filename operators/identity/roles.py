"""What is kept of the cluster's RBAC objects: all of ours, of others the name alone. A cluster may have thousands."""

from __future__ import annotations

from typing import Any

from crds.identity import Role
from operators.identity.names import NODE_LABEL, TENANT_LABEL, role_name

Object = dict[str, Any]

TENANT_INDEX = "identity:tenant"

_TENANT_BINDINGS = frozenset(role_name(role) for role in Role)


def slim(obj: Object) -> Object:
    """The object, if one of our labels or names says that it is ours."""
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    if NODE_LABEL in labels or TENANT_LABEL in labels or meta["name"] in _TENANT_BINDINGS:
        return obj
    return {"metadata": {name: meta[name] for name in ("name", "namespace") if name in meta}}


def tenants_of(binding: Object) -> list[str]:
    """For the index `TENANT_INDEX`: the namespace of a RoleBinding that is ours."""
    return [binding["metadata"]["namespace"]] if "roleRef" in binding else []
