"""Sets of like instances."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from crds.compute.instances import InstanceSpec
from crds.markers import Template
from crds.meta import AGE, READY, REASON, Column, Controller, Definition, NameRef, Resource, Scale, Status
from crds.model import Model
from crds.types import Text, Value


class UpdateStrategyType(StrEnum):
    """How a changed template reaches the instances."""

    ROLLING_UPDATE = "RollingUpdate"
    ON_DELETE = "OnDelete"


class UpdateStrategy(Model):
    """How a changed template reaches the instances."""

    type: UpdateStrategyType = Field(
        default=UpdateStrategyType.ROLLING_UPDATE,
        description="RollingUpdate: they are replaced one after another. OnDelete: when somebody deletes them.",
    )
    max_unavailable: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="With RollingUpdate: how many may be away at once."
    )


class TemplateMetadata(Model):
    """Labels and annotations of the instances."""

    labels: Annotated[dict[str, Value], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels that every instance gets."
    )
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = Field(
        default_factory=dict, description="Annotations that every instance gets."
    )


class InstanceTemplate(Model):
    """What the instances are made from."""

    metadata: TemplateMetadata | None = Field(default=None, description="Labels and annotations of the instances.")
    spec: Annotated[InstanceSpec, Template()] = Field(description="The spec of the instances.")


class InstanceSetSpec(Model):
    """What is asked of a set."""

    description: Text | None = Field(default=None, description="What the set is for, for people.")
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(default=1, description="How many instances there are to be.")
    server_group_ref: NameRef | None = Field(default=None, description="The ServerGroup that they are in.")
    update_strategy: UpdateStrategy = Field(
        default=UpdateStrategy(), description="How a changed template reaches the instances."
    )
    template: InstanceTemplate = Field(description="What the instances are made from.")


class InstanceSetStatus(Status):
    """What a set has."""

    replicas: Annotated[int, Field(ge=0)] = Field(default=0, description="Instances that there are.")
    ready_replicas: Annotated[int, Field(ge=0)] = Field(default=0, description="Instances that are ready.")
    updated_replicas: Annotated[int, Field(ge=0)] = Field(default=0, description="Instances of the present template.")
    selector: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="The label selector of the instances, for autoscalers."
    )


class InstanceSet(Resource):
    """Like instances, as many as asked for. Scales with kubectl scale and autoscalers."""

    DEFINITION: ClassVar = Definition(
        group="compute",
        plural="instancesets",
        short_names=("instset",),
        columns=(
            Column("Desired", ".spec.replicas", "Instances that there are to be.", type="integer"),
            Column("Current", ".status.replicas", "Instances that there are.", type="integer"),
            Column("Available", ".status.readyReplicas", "Instances that are ready.", type="integer"),
            READY,
            REASON,
            AGE,
        ),
        scale=Scale(".spec.replicas", ".status.replicas", ".status.selector"),
        controller=Controller.PLANNED,
    )

    spec: InstanceSetSpec = Field(description="What is asked of the set.")
    status: InstanceSetStatus = Field(default_factory=InstanceSetStatus, description="What the set has.")
