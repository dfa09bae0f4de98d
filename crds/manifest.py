"""The CustomResourceDefinition of a kind, as a dict ready for YAML."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from crds.conditions import ConditionStatus
from crds.duration import format_duration
from crds.markers import RULES_KEY
from crds.meta import Column, Controller, Definition, Resource
from crds.schema import InexpressibleError, Schema, SchemaBuilder

# Labels hold the names of objects. The names of records are made by operators, and longer.
_MAXIMUM_NAME = 63


class _JsonSchema(GenerateJsonSchema):
    """Writes defaults as manifests have them."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        return super().encode_default(dft)


# A status that nobody has written yet. The apiserver adds it when an object is read, so it shows with no operator
# running; as the Gateway API does.
_FIRST_CONDITIONS = {
    Controller.PRESENT: (ConditionStatus.UNKNOWN, "Pending", "Waiting for controller"),
    Controller.PLANNED: (
        ConditionStatus.UNKNOWN,
        "NoController",
        "This release of Kumulus has no controller for {kind}: the object is stored, and nothing is done with it yet",
    ),
    Controller.RECORD: (ConditionStatus.TRUE, "Recorded", "The object is a record, complete by being there"),
}


def build_manifest(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of `kind`. Raises InexpressibleError if it cannot be expressed."""
    definition = kind.DEFINITION
    schema = _object_schema(kind)
    version: dict[str, Any] = {
        "name": definition.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column, schema, kind) for column in definition.columns],
    }
    if definition.selectable:
        version["selectableFields"] = [{"jsonPath": _checked(path, schema, kind)} for path in definition.selectable]
    subresources: dict[str, Any] = {}
    if definition.controller != Controller.NONE:
        subresources["status"] = {}
    if scale := definition.scale:
        subresources["scale"] = {
            "specReplicasPath": _checked(scale.spec_replicas, schema, kind),
            "statusReplicasPath": _checked(scale.status_replicas, schema, kind),
            "labelSelectorPath": _checked(scale.label_selector, schema, kind),
        }
    if subresources:
        version["subresources"] = subresources
    version["schema"] = {"openAPIV3Schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.crd_name, "labels": {"app.kubernetes.io/part-of": "kumulus"}},
        "spec": {
            "group": definition.api_group,
            "names": _names(kind, definition),
            "scope": definition.scope,
            "versions": [version],
        },
    }


def _names(kind: type[Resource], definition: Definition) -> dict[str, Any]:
    names: dict[str, Any] = {
        "kind": kind.__name__,
        "listKind": f"{kind.__name__}List",
        "plural": definition.plural,
        "singular": kind.__name__.lower(),
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    names["categories"] = list(definition.categories)
    return names


def _object_schema(kind: type[Resource]) -> Schema:
    source = kind.model_json_schema(by_alias=True, schema_generator=_JsonSchema)
    builder = SchemaBuilder(source.get("$defs", {}))
    fields = source["properties"]
    properties: dict[str, Schema] = {
        "apiVersion": {"type": "string", "description": f"{kind.DEFINITION.api_version}."},
        "kind": {"type": "string", "description": f"{kind.__name__}."},
        "metadata": _metadata_schema(kind.DEFINITION),
    }
    for name in ("spec", "status"):
        if name in fields:
            properties[name] = builder.build(fields[name], f"{kind.__name__}.{name}")
    if "status" in properties:
        properties["status"]["default"] = _first_status(kind, properties["status"])
    schema: Schema = {"type": "object", "description": source["description"], "properties": properties}
    # Where everything in the spec has a default, the spec may be left out.
    if "default" not in properties["spec"]:
        schema["required"] = ["spec"]
    if kind.RULES:
        schema[RULES_KEY] = [rule.to_dict() for rule in kind.RULES]
    return schema


def _metadata_schema(definition: Definition) -> Schema:
    if definition.controller not in (Controller.PRESENT, Controller.PLANNED):
        return {"type": "object"}
    return {"type": "object", "properties": {"name": {"type": "string", "maxLength": _MAXIMUM_NAME}}}


def _first_status(kind: type[Resource], schema: Schema) -> dict[str, Any]:
    status, reason, message = _FIRST_CONDITIONS[kind.DEFINITION.controller]
    first: dict[str, Any] = {
        name: schema["properties"][name]["default"] for name in ("phase", "state") if name in schema["properties"]
    }
    first["conditions"] = [
        {
            "type": "Ready",
            "status": status.value,
            "reason": reason,
            "message": message.format(kind=kind.__name__),
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
    ]
    return first


def _column(column: Column, schema: Schema, kind: type[Resource]) -> dict[str, Any]:
    if not column.path.startswith(".metadata."):
        _checked(column.path, schema, kind)
    built: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    if column.wide:
        built["priority"] = 1
    return built


def _checked(path: str, schema: Schema, kind: type[Resource]) -> str:
    """`path`, a simple JSON path such as `.status.addresses[*].ip`, if the schema has such a field."""
    plain = re.sub(r"\[[^\]]*\]", "[]", path)
    node: Schema | None = schema
    for word in plain.removeprefix(".").split("."):
        name, _, is_list = word.partition("[")
        node = (node or {}).get("properties", {}).get(name)
        if node is not None and is_list:
            node = node.get("items")
        if node is None:
            raise InexpressibleError(f"{kind.__name__}{path}", "there is no such field")
    return path
