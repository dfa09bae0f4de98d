"""What a field's type cannot say about its schema: CEL rules, list semantics, immutability. Used inside `Annotated`.

Sources: Kubernetes documentation, "CustomResourceDefinition" (validation rules) and "Server-Side Apply" (merge
strategy); https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

RULES_KEY = "x-kubernetes-validations"
LIST_TYPE_KEY = "x-kubernetes-list-type"
LIST_MAP_KEYS_KEY = "x-kubernetes-list-map-keys"
MAP_TYPE_KEY = "x-kubernetes-map-type"
IMMUTABLE_KEY = "x-kumulus-immutable"
TEMPLATE_KEY = "x-kumulus-template"
FORM_KEY = "x-kumulus-form"
"""How the value is written, where kubectl explain does not show it; put behind the description."""

_EXPRESSION = re.compile(r"\{([^{}]*)\}")


def cel_text(template: str) -> str:
    """CEL that yields the template's text: `{...}` in it is CEL and must yield a string.

    `'{self}' is not a MAC address` becomes `"'%s' is not a MAC address".format([self])`. Not `+`: the apiserver takes
    the strings that a conversion yields for boundless, and refuses what joins them as too costly.
    """
    text = _EXPRESSION.sub("%s", template.replace("%", "%%"))
    return f"{json.dumps(text)}.format([{', '.join(_EXPRESSION.findall(template))}])"


@dataclass(frozen=True)
class Rule:
    """A CEL rule, and the sentence that a user reads when it does not hold.

    `self` is the value that the rule stands on. `{...}` in `message` is CEL that yields a string, so that the message
    can name the value. `field_path` is where below the value the error is shown, for example `.gateway.ip`.
    """

    rule: str
    message: str
    field_path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry: dict[str, Any] = {"rule": self.rule}
        if "{" in self.message:
            entry["messageExpression"] = cel_text(self.message)
        else:
            entry["message"] = self.message
        if self.field_path:
            entry["fieldPath"] = self.field_path
        return entry

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, RULES_KEY: [*schema.get(RULES_KEY, []), self.to_dict()]}


@dataclass(frozen=True, init=False)
class ListMap:
    """A list whose items are identified by `keys`: server-side apply merges it item by item."""

    keys: tuple[str, ...]

    def __init__(self, *keys: str) -> None:
        object.__setattr__(self, "keys", keys)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), LIST_TYPE_KEY: "map", LIST_MAP_KEYS_KEY: list(self.keys)}


@dataclass(frozen=True)
class ListSet:
    """A list of different scalars: server-side apply merges it value by value."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), LIST_TYPE_KEY: "set"}


@dataclass(frozen=True)
class Atomic:
    """A list that server-side apply replaces as a whole."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), LIST_TYPE_KEY: "atomic"}


@dataclass(frozen=True)
class Immutable:
    """A field that must stay as it was created, also if it was absent. `remedy` ends the message."""

    remedy: str = "create a new object instead"

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), IMMUTABLE_KEY: self.remedy}


@dataclass(frozen=True)
class Template:
    """A field that holds what other objects are made from: rules about changes do not apply in it."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), TEMPLATE_KEY: True}
