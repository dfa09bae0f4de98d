"""Group `identity`: tenants."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.markers import ListMap, Rule
from crds.meta import AGE, PHASE, READY, REASON, Column, Definition, Resource, Status
from crds.model import Model
from crds.quantity import Quantity
from crds.types import Name, Text

Count = Annotated[int, Field(ge=0, le=1_000_000)]


class MemberKind(StrEnum):
    """What a member is to Kubernetes' RBAC."""

    USER = "User"
    GROUP = "Group"
    SERVICE_ACCOUNT = "ServiceAccount"


class Role(StrEnum):
    """What a member may do in the tenant."""

    ADMIN = "admin"
    MEMBER = "member"
    READER = "reader"


class Member(Model):
    """Somebody who may work in the tenant."""

    kind: MemberKind = Field(description="User, Group or ServiceAccount.")
    name: Name = Field(description="The name, as the cluster's authentication gives it.")
    namespace: Annotated[str, Field(max_length=63)] = Field(
        default="", description="The namespace of a ServiceAccount. Default: the tenant's own."
    )
    role: Role = Field(
        description="admin: everything in the tenant, members too. member: the tenant's resources. reader: look only."
    )

    RULES: ClassVar = (
        Rule(
            "self.kind == 'ServiceAccount' || self.namespace == ''",
            "member '{self.name}' is a {self.kind}, which has no namespace: remove it",
            field_path=".namespace",
        ),
    )


class Quota(Model):
    """How much of each resource; absent means unlimited."""

    instances: Count | None = Field(default=None, description="Instances.")
    cores: Count | None = Field(default=None, description="Virtual CPUs of all instances.")
    memory: Quantity | None = Field(default=None, description="Memory of all instances.")
    volumes: Count | None = Field(default=None, description="Volumes.")
    volume_storage: Quantity | None = Field(default=None, description="Size of all volumes and snapshots.")
    snapshots: Count | None = Field(default=None, description="Volume snapshots.")
    backups: Count | None = Field(default=None, description="Volume backups.")
    floating_ips: Count | None = Field(default=None, description="Floating IPs.")
    networks: Count | None = Field(default=None, description="Networks.")
    routers: Count | None = Field(default=None, description="Routers.")
    ports: Count | None = Field(default=None, description="Ports.")
    security_groups: Count | None = Field(default=None, description="Security groups.")
    images: Count | None = Field(default=None, description="Images.")
    key_pairs: Count | None = Field(default=None, description="Key pairs.")


class TenantSpec(Model):
    """What is asked of a tenant."""

    description: Text | None = Field(default=None, description="What the tenant is, for people.")
    enabled: bool = Field(
        default=True, description="Whether the tenant may work. False: running instances are stopped, new ones refused."
    )
    members: Annotated[list[Member], Field(max_length=256), ListMap("kind", "name", "namespace")] = Field(
        default_factory=list, description="Who may work in the tenant, and as what."
    )
    quota: Quota | None = Field(default=None, description="The most that the tenant may hold. Default: no limit.")


class TenantPhase(StrEnum):
    """Where a tenant is in its life."""

    PENDING = "Pending"
    ACTIVE = "Active"
    DISABLED = "Disabled"
    DELETING = "Deleting"


class TenantStatus(Status):
    """What a tenant has."""

    phase: TenantPhase = Field(default=TenantPhase.PENDING, description="Where the tenant is in its life.")
    namespace: Name | None = Field(default=None, description="The namespace that is the tenant's.")
    usage: Quota | None = Field(default=None, description="What the tenant holds.")


class Tenant(Resource):
    """A tenant: a namespace of the same name with members, roles and a quota."""

    DEFINITION: ClassVar = Definition(
        group="identity",
        plural="tenants",
        short_names=("ten",),
        scope="Cluster",
        columns=(
            PHASE,
            READY,
            Column("Instances", ".status.usage.instances", "Instances that the tenant holds.", type="integer"),
            Column("Description", ".spec.description", "What the tenant is.", wide=True),
            REASON,
            AGE,
        ),
    )
    RULES: ClassVar = (
        Rule(
            "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name '{self.metadata.name}' must be a DNS label, because a namespace is named after it:"
            " lower case letters, digits and '-', at most 63",
        ),
        Rule(
            "!(self.metadata.name.startsWith('kube-') || self.metadata.name.startsWith('kumulus-')"
            " || self.metadata.name == 'default')",
            "the name '{self.metadata.name}' is reserved for a namespace of the cluster: choose one that is not"
            " 'default' and does not begin with 'kube-' or 'kumulus-'",
        ),
    )

    spec: TenantSpec = Field(default=TenantSpec(), description="What is asked of the tenant.")
    status: TenantStatus = Field(default_factory=TenantStatus, description="What the tenant has.")


KINDS: tuple[type[Resource], ...] = (Tenant,)
