"""What all kinds have in common: metadata, references, status, and how a kind is declared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.conditions import Conditions, Time
from crds.model import Model
from crds.types import UID, Name

DOMAIN = "kumulus.dev"
VERSION = "v1alpha1"


class OwnerReference(Model):
    """The object that this one is deleted with; always in the same namespace."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """The part of metav1.ObjectMeta that Kumulus reads or writes."""

    name: str = ""
    generate_name: str | None = None
    namespace: str | None = None
    uid: str = ""
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    finalizers: list[str] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class NameRef(Model):
    """An object by its name, in the namespace of what refers to it (or cluster-wide, if its kind is)."""

    name: Name = Field(description="The object's name.")


class ObjectRef(Model):
    """An object by its name, possibly in another namespace."""

    name: Name = Field(description="The object's name.")
    namespace: Name | None = Field(
        default=None, description="The object's namespace, if it was shared from another one. Default: this object's."
    )


class SecretKeyRef(Model):
    """A key of a Secret in the same namespace."""

    name: Name = Field(description="The Secret's name.")
    key: Name | None = Field(default=None, description="The key in the Secret.")


class SecretRef(Model):
    """A Secret by name and namespace."""

    name: Name = Field(description="The Secret's name.")
    namespace: Name = Field(description="The Secret's namespace.")


class Holder(Model):
    """Who has what is allocated. Reclaimed by `uid`, so that a new object of the same name is not the holder."""

    kind: Name = Field(description="The holder's kind, for example Port.")
    namespace: Name | None = Field(default=None, description="The holder's namespace; absent for a cluster-wide kind.")
    name: Name = Field(description="The holder's name.")
    uid: UID = Field(description="The holder's metadata.uid.")


class Status(Model):
    """What every status has."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation of the spec that this status tells of."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="State by aspect. Ready is the summary: the spec is realised. Reconciling and Stalled say whether"
        " work goes on or waits for the user.",
    )


class Controller(StrEnum):
    """Who fills an object's status, and so what it shows before anybody has."""

    PRESENT = "Present"
    """A controller of this release: Ready is Unknown until it has looked."""
    PLANNED = "Planned"
    """None yet: Ready stays Unknown and says so."""
    RECORD = "Record"
    """Nobody: the object is a record and Ready by being there."""
    NONE = "None"
    """Nobody, and it has no status."""


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`. `wide` ones are shown with `-o wide` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "boolean", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True)
class Scale:
    """The paths of the scale subresource."""

    spec_replicas: str
    status_replicas: str
    label_selector: str


@dataclass(frozen=True, kw_only=True)
class Definition:
    """How a kind stands in the apiserver. `group` is the first word, for example `network`."""

    group: str
    plural: str
    short_names: tuple[str, ...] = ()
    scope: Literal["Namespaced", "Cluster"] = "Namespaced"
    categories: tuple[str, ...] = ("kumulus",)
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    scale: Scale | None = None
    controller: Controller = Controller.PRESENT
    version: str = VERSION

    @property
    def api_group(self) -> str:
        """The full name of the group: `network.kumulus.dev`."""
        return f"{self.group}.{DOMAIN}"

    @property
    def api_version(self) -> str:
        """As in manifests: `network.kumulus.dev/v1alpha1`."""
        return f"{self.api_group}/{self.version}"

    @property
    def crd_name(self) -> str:
        """The name of the CustomResourceDefinition: `ports.network.kumulus.dev`."""
        return f"{self.plural}.{self.api_group}"

    @property
    def namespaced(self) -> bool:
        """Whether the kind's objects live in namespaces."""
        return self.scope == "Namespaced"


class Resource(Model):
    """A kind of the API. A subclass declares `DEFINITION`, `spec` and mostly `status`; its name is the kind."""

    DEFINITION: ClassVar[Definition]

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @model_validator(mode="after")
    def _is_of_this_kind(self) -> Self:
        cls = type(self)
        expected = (cls.DEFINITION.api_version, cls.__name__)
        given = (self.api_version or expected[0], self.kind or expected[1])
        if given != expected:
            raise ValueError(f"expected {expected[1]} of {expected[0]}, got {given[1]} of {given[0]}")
        self.api_version, self.kind = expected
        return self


AGE = Column("Age", ".metadata.creationTimestamp", "How long ago the object was made.", type="date")
READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether the spec is realised.")
REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready, or not.", wide=True)
PHASE = Column("Phase", ".status.phase", "Where the object is in its life.")
