"""The API reference in Markdown, from the same manifests that the apiserver gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from crds.manifest import build_manifest
from crds.markers import LIST_MAP_KEYS_KEY, RULES_KEY
from crds.meta import Resource
from crds.schema import Schema

_HEADER = "<!-- Generated from crds/ by kumulus-crds. Do not edit. -->\n"
_CONDITIONS = "conditions"


def render_index(kinds: Sequence[type[Resource]]) -> str:
    """The list of all kinds."""
    lines = [
        _HEADER,
        "# API reference, v1alpha1",
        "",
        "What `kubectl explain` tells, as pages. Sizes are quantities (`10Gi`), bandwidths bits per second (`100M`),",
        "durations are written `1h30m`. What is asked for is in the spec, what is given in the",
        "status. Every status has `observedGeneration` and `conditions`, of which `Ready` is the summary.",
        "",
        "| group | kind | short | scope | what it is |",
        "|---|---|---|---|---|",
    ]
    for kind in kinds:
        definition = kind.DEFINITION
        short = ", ".join(f"`{name}`" for name in definition.short_names)
        link = f"[{kind.__name__}]({definition.group}.md#{kind.__name__.lower()})"
        lines.append(f"| {definition.group} | {link} | {short} | {definition.scope} | {_cell(kind.__doc__ or '')} |")
    return "\n".join(lines) + "\n"


def render_group(kinds: Sequence[type[Resource]]) -> str:
    """The page of a group: each kind with its fields and rules."""
    lines = [_HEADER, f"# {kinds[0].DEFINITION.api_version}", ""]
    for kind in kinds:
        lines += _kind(kind)
    return "\n".join(lines).rstrip() + "\n"


def _kind(kind: type[Resource]) -> list[str]:
    definition = kind.DEFINITION
    schema = build_manifest(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    names = [f"`{definition.plural}`", *(f"`{name}`" for name in definition.short_names)]
    lines = [f"## {kind.__name__}", "", schema["description"], "", f"{definition.scope}; {', '.join(names)}."]
    if definition.selectable:
        fields = ", ".join(f"`{path.removeprefix('.')}`" for path in definition.selectable)
        lines.append(f"Field selectors: {fields}.")
    lines += ["", "| field | type | description |", "|---|---|---|"]
    for part in ("spec", "status"):
        if part in schema["properties"]:
            lines += _rows(schema["properties"][part], part)
    rules = list(_rules(schema, ""))
    if rules:
        lines += ["", "The apiserver refuses what breaks these rules:", "", *rules]
    return [*lines, ""]


def _rows(schema: Schema, path: str) -> Iterator[str]:
    """A row for each field below an object, in the order of the models."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        if where == f"status.{_CONDITIONS}":
            continue
        notes = [_cell(field["description"])]
        if "enum" in field:
            notes.append(f"One of {', '.join(f'`{value}`' for value in field['enum'])}.")
        if "default" in field:
            notes.append(f"Default: `{json.dumps(field['default'])}`.")
        kind = _type(field) + (", required" if name in required else "")
        yield f"| `{where}` | {kind} | {' '.join(notes)} |"
        below = field.get("items", field)
        yield from _rows(below, f"{where}[]" if "items" in field else where)


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity" if "quantity" in field.get("description", "") else "number"
    match field["type"]:
        case "array":
            keys = field.get(LIST_MAP_KEYS_KEY)
            by = f" by {', '.join(keys)}" if keys else ""
            return f"list of {_type(field['items'])}{by}"
        case "object" if "additionalProperties" in field:
            return f"map of {_type(field['additionalProperties'])}"
        case "string" if field.get("format") == "date-time":
            return "time"
        case other:
            return str(other)


def _rules(schema: Schema, path: str) -> Iterator[str]:
    """The messages of all rules outside the status, with the field each is about."""
    for rule in schema.get(RULES_KEY, []):
        where = (path + rule.get("fieldPath", "")).removeprefix(".") or "the object"
        yield f"- `{where}`: {_message(rule)}" if where != "the object" else f"- {_message(rule)}"
    for name, field in schema.get("properties", {}).items():
        if not path and name not in ("spec",):
            continue
        yield from _rules(field, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _message(rule: dict[str, Any]) -> str:
    """The rule's message; an expression's values are shown as `…`."""
    if "message" in rule:
        return str(rule["message"])
    text, _, _ = rule["messageExpression"].rpartition(".format([")
    return str(json.loads(text)).replace("'%s'", "…").replace("%s", "…").replace("%%", "%")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
