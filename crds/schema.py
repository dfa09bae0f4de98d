"""From a model to the structural schema that the apiserver takes, and to the whole CustomResourceDefinition.

pydantic writes JSON Schema 2020-12; the apiserver takes a part of OpenAPI v3 and refuses, or silently drops, the rest.
`SchemaBuilder` knows the part by name and raises `InexpressibleError` on everything else, also on what the apiserver
would take but should not be given: a string, list or map without a limit (CEL's cost budget needs one), a list without
a type (server-side apply needs one), a field without a description.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crds.markers import (
    FORM_KEY,
    IMMUTABLE_KEY,
    LIST_MAP_KEYS_KEY,
    LIST_TYPE_KEY,
    MAP_TYPE_KEY,
    RULES_KEY,
    TEMPLATE_KEY,
    Rule,
)

Schema = dict[str, Any]

_INT_OR_STRING = "x-kubernetes-int-or-string"
_COPIED = {
    "type",
    "description",
    "enum",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    LIST_TYPE_KEY,
    LIST_MAP_KEYS_KEY,
    MAP_TYPE_KEY,
    _INT_OR_STRING,
    IMMUTABLE_KEY,
}
_HANDLED = {"title", "default", "properties", "items", "additionalProperties", RULES_KEY, TEMPLATE_KEY, FORM_KEY}
_FORMATS = {"date-time"}


class InexpressibleError(ValueError):
    """A model says something that a CustomResourceDefinition cannot. Names the field."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class SchemaBuilder:
    """Builds structural schemas from one model's JSON Schema; `definitions` are its `$defs`."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def build(self, source: Schema, path: str) -> Schema:
        """The structural schema of `source`. `path` is the field's name, for errors. Raises InexpressibleError."""
        schema = self._build(source, path, correlatable=True, in_template=False)
        if IMMUTABLE_KEY in schema:
            raise InexpressibleError(path, "Immutable is for fields of a model")
        return schema

    def _build(self, source: Schema, path: str, *, correlatable: bool, in_template: bool) -> Schema:
        flat = self._flatten(source, path)
        unknown = flat.keys() - _COPIED - _HANDLED
        if unknown:
            raise InexpressibleError(path, f"the apiserver does not take {', '.join(sorted(unknown))}")
        in_template = in_template or TEMPLATE_KEY in flat
        schema: Schema = {key: flat[key] for key in flat if key in _COPIED}
        if (default := flat.get("default")) is not None:
            schema["default"] = _without_nulls(default)

        if (form := flat.get(FORM_KEY)) and "description" in schema:
            schema["description"] += f" {form}"

        if "properties" in flat:
            self._add_properties(schema, flat["properties"], path, correlatable, in_template)
        if "items" in flat:
            keyed = correlatable and flat.get(LIST_TYPE_KEY) == "map"
            schema["items"] = self._build(flat["items"], f"{path}[]", correlatable=keyed, in_template=in_template)
        if (values := flat.get("additionalProperties")) is not None:
            if not isinstance(values, dict) or "properties" in flat:
                raise InexpressibleError(path, "additionalProperties must be a schema, and stand without properties")
            schema["additionalProperties"] = self._build(
                values, f"{path}{{}}", correlatable=correlatable, in_template=in_template
            )

        rules = [rule for rule in flat.get(RULES_KEY, []) if not (in_template and "oldSelf" in rule["rule"])]
        self._add_rules(schema, rules, path, correlatable)
        _check_limits(schema, path)
        return schema

    def _add_properties(
        self, schema: Schema, sources: Mapping[str, Schema], path: str, correlatable: bool, in_template: bool
    ) -> None:
        properties: dict[str, Schema] = {}
        rules: list[Schema] = []
        for name, source in sources.items():
            below = f"{path}.{name}"
            built = self._build(source, below, correlatable=correlatable, in_template=in_template)
            if not built.get("description"):
                raise InexpressibleError(below, "every field must have a description")
            remedy = built.pop(IMMUTABLE_KEY, None)
            if remedy and not in_template:
                rules.append(_immutable(name, remedy))
            properties[name] = built
        schema["properties"] = properties
        self._add_rules(schema, rules, path, correlatable)

    @staticmethod
    def _add_rules(schema: Schema, rules: list[Schema], path: str, correlatable: bool) -> None:
        for rule in rules:
            if "oldSelf" in rule["rule"] and not correlatable:
                raise InexpressibleError(path, "a rule with oldSelf needs lists above it to be maps with keys")
        if rules:
            schema[RULES_KEY] = [*schema.get(RULES_KEY, []), *rules]

    def _flatten(self, source: Schema, path: str) -> Schema:
        """`source` with `$ref`, `anyOf` with null and `const` resolved; what stands beside a `$ref` wins."""
        own = dict(source)
        own.pop("$defs", None)
        if (reference := own.pop("$ref", None)) is not None:
            own = _merge(self._flatten(self._definitions[reference.removeprefix("#/$defs/")], path), own)
        if (choices := own.pop("anyOf", None)) is not None:
            present = [choice for choice in choices if choice != {"type": "null"}]
            if len(present) != 1 or len(present) == len(choices):
                raise InexpressibleError(path, "a union: use a model with one optional field for each member")
            own = _merge(self._flatten(present[0], path), own)
        if (const := own.pop("const", None)) is not None:
            own["enum"] = [const]  # the apiserver drops const silently
        return own


def _merge(inner: Schema, outer: Schema) -> Schema:
    merged = {**inner, **outer}
    if RULES_KEY in inner and RULES_KEY in outer:
        merged[RULES_KEY] = [*inner[RULES_KEY], *(rule for rule in outer[RULES_KEY] if rule not in inner[RULES_KEY])]
    return merged


def _immutable(name: str, remedy: str) -> Schema:
    return Rule(
        f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
        f"{name} is immutable: {remedy}",
        field_path=f".{name}",
    ).to_dict()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None and item != []}
    return value


def _check_limits(schema: Schema, path: str) -> None:
    """Raise InexpressibleError if a value of the schema could be of any length, or its form is not complete."""
    if "format" in schema and schema["format"] not in _FORMATS:
        raise InexpressibleError(path, f"format {schema['format']} is none of {', '.join(sorted(_FORMATS))}")
    if schema.get(_INT_OR_STRING):
        if "maxLength" not in schema:
            raise InexpressibleError(path, "an int-or-string must have a maxLength")
        return
    match schema.get("type"):
        case "string":
            if not schema.keys() & {"maxLength", "enum", "format"}:
                raise InexpressibleError(path, "a string must have a maxLength, an enum or a format")
        case "array":
            _check_list(schema, path)
        case "object":
            if "additionalProperties" in schema and "maxProperties" not in schema:
                raise InexpressibleError(path, "a map must have a maximum number of keys")
        case "integer" | "boolean":
            pass
        case other:
            raise InexpressibleError(path, f"type {other} is none of string, integer, boolean, array, object")


def _check_list(schema: Schema, path: str) -> None:
    if "maxItems" not in schema:
        raise InexpressibleError(path, "a list must have a maximum number of items")
    match schema.get(LIST_TYPE_KEY):
        case "map":
            items = schema["items"]
            for key in schema[LIST_MAP_KEYS_KEY]:
                field = items.get("properties", {}).get(key)
                if field is None or (key not in items.get("required", []) and "default" not in field):
                    raise InexpressibleError(path, f"the list's key {key} must be a required field or have a default")
        case "set":
            if schema["items"].get("type") not in ("string", "integer"):
                raise InexpressibleError(path, "a set must hold strings or integers")
        case "atomic":
            pass
        case other:
            raise InexpressibleError(path, f"a list must be marked ListMap, ListSet or Atomic, not {other}")
