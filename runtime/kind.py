"""How the apiserver addresses a kind."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from crds.meta import Resource


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the REST API knows it.

    `group` is empty for the core group; `plural` is the resource name in paths.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL path of a collection or object, for example `/apis/apps/v1/namespaces/x/deployments/y/status`.

        Without `namespace` a namespaced kind's path lists all namespaces.
        """
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
SECRET = Kind("", "v1", "secrets", "Secret", namespaced=True)
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap", namespaced=True)
EVENT = Kind("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
ROLE = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role", namespaced=True)
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", namespaced=True)
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)


def kind_of(resource: type[Resource]) -> Kind:
    """Where the apiserver keeps the objects of an API model."""
    definition = resource.DEFINITION
    return Kind(
        definition.api_group, definition.version, definition.plural, resource.__name__, namespaced=definition.namespaced
    )
