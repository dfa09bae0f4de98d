"""Who may use an object that can be shared: the same shape on every kind."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from crds.markers import Rule
from crds.model import Model
from crds.types import TenantNames


class AccessScope(StrEnum):
    """Who may use the object."""

    PRIVATE = "Private"
    SHARED = "Shared"
    COMMUNITY = "Community"
    PUBLIC = "Public"


class Access(Model):
    """Who may use the object beside its own tenant."""

    scope: AccessScope = Field(
        default=AccessScope.PRIVATE,
        description="Private: nobody else. Shared: the listed tenants. Community: everybody, but nobody is shown it."
        " Public: everybody, and it is listed in the namespace kumulus-public (needs a role of the infrastructure).",
    )
    tenants: TenantNames = Field(default_factory=list, description="The tenants that a Shared object is shared with.")

    RULES: ClassVar = (
        Rule(
            "self.scope == 'Shared' || !has(self.tenants) || self.tenants.size() == 0",
            "tenants are for scope Shared only: remove them, or change scope {self.scope} to Shared",
            field_path=".tenants",
        ),
    )
